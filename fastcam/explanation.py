"""Explanations: the maps of a batch, their scores and their display."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fastcam import postprocess, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DrawableImages = Tensor | npt.NDArray[np.generic] | Image.Image | Sequence[Image.Image]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Saliency maps of a batch. With K targets per image every map has an axis K after N.

    Attributes:
        method: registry name of the method.
        layer: name of the target layer, fused layers joined by " + ".
        images: (N, C, *S), the input.
        output: output of the model (after ``select``), with detached tensors.
        scores: (N,) or (N, K), the explained scores.
        targets: class indices in the shape of ``scores``; None for callables.
        native: (N, [K,] *s), the map at the layer's size, not normalised. For fused layers the fused map at the size
            of the largest, each layer normalised first.
        fused: (N, [K,] *S), for fused layers their fused map at the size of the input; otherwise None.
        attributions: (N, [K,] C, *S), the signed attribution of every input value, for methods that return one.
        details: further results of the method by name, such as ``completeness_gap``; see the docstring of its rule.
        notes: what was found out about the model, such as the grid of a transformer's tokens, and what was guessed.
    """

    method: str
    layer: str
    images: Tensor
    output: Any
    scores: Tensor
    targets: Tensor | None
    native: Tensor
    fused: Tensor | None = None
    attributions: Tensor | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return N, the number of images."""
        return len(self.native)

    @property
    def size(self) -> tuple[int, ...]:
        """The spatial size of the input."""
        return tuple(self.images.shape[2:])

    @cached_property
    def raw(self) -> Tensor:
        """The maps (N, [K,] *S) at the size of the input, not normalised."""
        return self.fused if self.fused is not None else postprocess.resize(self.native, self.size, False)

    @cached_property
    def maps(self) -> Tensor:
        """The maps (N, [K,] *S) at the size of the input, scaled to [0, 1]; zeros if constant, NaN if non-finite."""
        return postprocess.resize(self.native if self.fused is None else self.fused, self.size, True)

    def write_maps(self, out: Tensor) -> Tensor:
        """Compute ``maps`` into an existing tensor, which becomes ``maps``.

        Args:
            out: (N, [K,] *S), contiguous, float32 unless the images are float64, on the device of the maps.

        Raises:
            TypeError, ValueError: for a tensor that does not fit.
        """
        self.__dict__["maps"] = postprocess.resize(
            self.native if self.fused is None else self.fused, self.size, True, out
        )
        return out

    @cached_property
    def status(self) -> list[postprocess.Status] | list[list[postprocess.Status]]:
        """The status of every map, a list of N (or N lists of K): "ok", "constant map" or "non-finite"."""
        return postprocess.status(self.native, self.scores)

    def numpy(self) -> npt.NDArray[np.float32]:
        """Return ``maps`` as a float32 NumPy array."""
        return self.maps.float().cpu().numpy()

    def overlay(
        self, images: DrawableImages | None = None, *, colormap: str = "jet", alpha: float = 0.5
    ) -> render.Bytes:
        """Blend the coloured maps over the images.

        Args:
            images: background: (N, 3, H, W) tensor in [0, 1] or uint8, (N, H, W, 3) uint8 array, or a sequence of
                PIL images of the input's size. None takes the model's input, each image scaled to [0, 1].
            colormap: "jet" or any name known to matplotlib.
            alpha: share of the colour, 0 to 1.

        Returns:
            (N, [K,] H, W, 3) uint8.

        Raises:
            ValueError: for images that do not fit the maps.
        """
        maps = self.numpy()
        if len(self.size) != 2:
            raise ValueError(f"only 2-D maps can be drawn; these have {len(self.size)} spatial axes")
        pictures = _to_uint8_images(self.images if images is None else images, images is None)
        if pictures.shape != (len(self), *self.size, 3):
            raise ValueError(
                f"`images` must be {len(self)} colour images of size {self.size}, got shape {pictures.shape}"
            )
        if maps.ndim == 4:
            pictures = np.broadcast_to(pictures[:, None], (*maps.shape, 3))
        return render.overlay(np.ascontiguousarray(pictures), maps, colormap, alpha)

    def save(
        self, path: str | Path, images: DrawableImages | None = None, *, colormap: str = "jet", alpha: float = 0.5
    ) -> list[Path]:
        """Write the overlays to image files: ``path`` for one, ``path`` with -0, -1, ... (-0-0, ... for K) for several.

        Returns:
            The files written.
        """
        path = Path(path)
        overlays = self.overlay(images, colormap=colormap, alpha=alpha)
        indices = list(np.ndindex(overlays.shape[:-3]))
        files = []
        for index in indices:
            suffix = "".join(f"-{i}" for i in index) if len(indices) > 1 else ""
            file = path.with_name(path.stem + suffix + (path.suffix or ".png"))
            Image.fromarray(overlays[index]).save(file)
            files.append(file)
        return files

    def plot(self, images: DrawableImages | None = None, *, colormap: str = "jet", alpha: float = 0.5) -> "Figure":
        """Return the overlays with titles as a matplotlib figure."""
        from matplotlib.figure import Figure

        overlays = self.overlay(images, colormap=colormap, alpha=alpha)
        indices = list(np.ndindex(overlays.shape[:-3]))
        columns = min(4, len(indices))
        figure = Figure(figsize=(3 * columns, 3.3 * -(-len(indices) // columns)), layout="constrained")
        for position, index in enumerate(indices):
            axes = figure.add_subplot(-(-len(indices) // columns), columns, position + 1)
            axes.imshow(overlays[index])
            axes.set_title(self._title(index))
            axes.axis("off")
        return figure

    def _title(self, index: Sequence[int]) -> str:
        status: Any = self.status
        for i in index:
            status = status[i]
        score = f"{self.scores[tuple(index)].item():.2f}"
        name = score if self.targets is None else f"class {self.targets[tuple(index)].item()}: {score}"
        return name if status == "ok" else f"{name} ({status})"

    def _repr_png_(self) -> bytes | None:
        if len(self.size) != 2 or self.images.shape[1] not in (1, 3):
            return None  # not an image: notebooks show the text
        overlays = self.overlay()
        buffer = io.BytesIO()
        rows = [[overlays[i]] if overlays.ndim == 4 else list(overlays[i]) for i in range(len(overlays))]
        titles = [self._title((i,) if overlays.ndim == 4 else (i, 0)) for i in range(len(overlays))]
        render.contact_sheet(rows, titles, [self.method] + [""] * (len(rows[0]) - 1)).save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.native.shape))
        return f"Explanation(method={self.method!r}, layer={self.layer!r}, native={shape}, size={self.size})"


def _to_uint8_images(images: DrawableImages, rescale: bool) -> render.Bytes:
    """Convert tensors, arrays or PIL images to (N, H, W, 3) uint8; ``rescale`` scales each tensor image to [0, 1]."""
    if isinstance(images, Tensor):
        pixels = images.detach().float().cpu()
        if rescale:
            low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
            pixels = torch.nan_to_num((pixels - low) / (high - low))
        elif images.dtype == torch.uint8:
            pixels = pixels / 255
        if pixels.dim() != 4 or pixels.shape[1] not in (1, 3):
            raise ValueError(
                f"`images` must have shape (N, 3, H, W) to be drawn, got {tuple(images.shape)}; pass images="
            )
        return render.to_uint8(pixels.expand(-1, 3, -1, -1).movedim(1, -1).contiguous().numpy())
    if isinstance(images, np.ndarray):
        is_uint8 = images.dtype == np.uint8
        return images.astype(np.uint8, copy=False) if is_uint8 else render.to_uint8(images.astype(np.float32))
    pictures = [images] if isinstance(images, Image.Image) else images
    if not isinstance(pictures, list | tuple) or not all(isinstance(picture, Image.Image) for picture in pictures):
        raise TypeError(f"`images` must be a tensor, an array or a list of PIL images, got {type(images).__name__}")
    if len({picture.size for picture in pictures}) != 1:
        raise ValueError(f"`images` must be PIL images of one size, got {[picture.size for picture in pictures]}")
    return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
