"""What an explanation shows: overlays, figures, files and the pictures of notebooks."""

import copy
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, overload

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from fastcam import render
from fastcam.pictures.backgrounds import DrawableImages, given_pictures, own_pictures
from fastcam.pictures.figures import Index, picture_figure
from fastcam.pictures.files import file_names, is_nifti, write_nifti
from fastcam.pictures.notebook import show_page
from fastcam.pictures.overlays import Overlays, as_array, overlay
from fastcam.pictures.page import Page
from fastcam.pictures.signals import checked_signals, signal_figure
from fastcam.pictures.titles import ClassNames, check_class_names, named
from fastcam.pictures.volumes import View, draw_volumes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawing:
    """The drawing of an explanation, from its maps, images, scores and targets.

    Attributes:
        class_names: names of the classes for titles; see :meth:`with_class_names`.
    """

    class_names: ClassNames | None = None

    if TYPE_CHECKING:  # what an explanation adds; at run time a property would stand in the way of its fields

        @property
        def method(self) -> str:
            """Registry name of the method."""
            ...

        @property
        def images(self) -> Tensor:
            """The input, (N, C, *S)."""
            ...

        @property
        def scores(self) -> Tensor:
            """The explained scores, (N,) or (N, K)."""
            ...

        @property
        def targets(self) -> Tensor | None:
            """Class indices in the shape of ``scores``."""
            ...

        @property
        def maps(self) -> Tensor:
            """The maps (N, [K,] *S) in [0, 1]."""
            ...

        @property
        def values(self) -> Tensor:
            """The maps (N, [K,] *s) that are not normalised, as small as they fit the images."""
            ...

        @property
        def limits(self) -> tuple[float, float] | None:
            """The values of the ends of the colours, where all maps have the same."""
            ...

        def __len__(self) -> int: ...
        def _title(self, index: Sequence[int]) -> str: ...

    @overload
    def overlay(
        self,
        images: Tensor | npt.NDArray[np.generic] | Image.Image | None = None,
        *,
        colormap: str = ...,
        alpha: float = ...,
    ) -> render.Bytes: ...

    @overload
    def overlay(self, images: DrawableImages | None, *, colormap: str = ..., alpha: float = ...) -> Overlays: ...

    def overlay(self, images: DrawableImages | None = None, *, colormap: str = "jet", alpha: float = 0.5) -> Overlays:
        """Blend the coloured maps over pictures, each map resized bilinearly to its picture.

        A photograph may have its original size. The map then lies where it belongs if the whole photograph was
        resized to the input; where the input was cropped from it, the map is stretched beyond the crop and off: pass
        the cropped picture.

        Args:
            images: background, N pictures of any size: a tensor (N, 3, H, W) or (N, 1, H, W), an array (N, H, W, 3),
                each uint8 or with values in [0, 1], or PIL images, of which N = 1 needs no list. None takes the
                model's input, each image scaled to [0, 1].
            colormap: "jet" or any name known to matplotlib.
            alpha: share of the colour, 0 to 1.

        Returns:
            (N, [K,] H, W, 3) uint8 with the size of the pictures; a list of N arrays ([K,] H, W, 3) if sizes differ.

        Raises:
            TypeError, ValueError: for what is no picture, for values outside [0, 1], such as of normalised images, and
                for maps that are not of pictures.
        """
        return self._overlays(images, colormap, alpha)

    def _overlays(self, images: DrawableImages | None, colormap: str, alpha: float) -> Overlays:
        return overlay(self.maps, self.images, images, colormap, alpha)

    def save(
        self,
        path: str | Path,
        images: DrawableImages | None = None,
        *,
        colormap: str = "jet",
        alpha: float = 0.5,
        class_names: ClassNames | None = None,
        view: View | None = None,
        affine: npt.ArrayLike | None = None,
    ) -> list[Path]:
        """Write one file for each map: ``path`` for one, ``path`` with -0, -1, ... (-0-0, ... for K) for several.

        Args:
            path: the suffix defines the format, .png if there is none. ".nii" and ".nii.gz" write the maps of volumes
                themselves (needs nibabel); ".html" writes pictures to one page, whose reader chooses opacity and
                threshold.
            images: see :meth:`plot`.
            colormap: see :meth:`plot`.
            alpha: see :meth:`plot`.
            class_names: see :meth:`plot`; only files of signals have titles.
            view: see :meth:`plot`.
            affine: for NIfTI, the (4, 4) matrix from voxels to space, that of the input's scan; None is identity.

        Returns:
            The files written.
        """
        indices, path = self._indices, Path(path)
        if path.suffix == ".html":
            self._page(images, colormap, class_names).write(path)
            return [path]
        files = file_names(path, indices)
        if is_nifti(path):
            for index, file in zip(indices, files, strict=True):
                write_nifti(as_array(self.maps[index]), file, affine)
        elif self._axes == 1:
            for index, file in zip(indices, files, strict=True):
                self._signal_figure(images, [index], colormap, class_names).savefig(file)
        else:
            drawn = self._drawings(images, colormap, alpha, view)
            for file, picture in zip(files, drawn, strict=True):
                Image.fromarray(picture).save(file)
        return files

    def show(
        self,
        images: DrawableImages | None = None,
        *,
        colormap: str = "jet",
        class_names: ClassNames | None = None,
        height: int = 480,
    ) -> None:
        """Show the page that ``save("maps.html")`` writes below a notebook's cell: maps over images, with sliders.

        The page becomes part of the notebook's file: some 30 kB for an image and its map.

        Args:
            images: see :meth:`overlay`.
            colormap: see :meth:`plot`.
            class_names: see :meth:`plot`.
            height: of the part of the page that is seen at a time, in pixels.

        Raises:
            ValueError: outside of a notebook, and for what is no picture.
        """
        show_page(self._page(images, colormap, class_names).html(), height)

    def plot(
        self,
        images: DrawableImages | None = None,
        *,
        colormap: str = "jet",
        alpha: float = 0.5,
        class_names: ClassNames | None = None,
        view: View | None = None,
    ) -> "Figure":
        """Return the maps with titles as a matplotlib figure.

        Pictures are drawn as by :meth:`overlay`. Signals (N, C, L) are curves with the map under them as a strip of
        colours. Volumes (N, C, D, H, W) are drawn as the slice with the most evidence along each axis above a montage
        along the first axis, and videos (N, C, T, H, W) as a montage of their frames.

        Args:
            images: what to draw instead of the model's input: for pictures see :meth:`overlay`; signals (N, C, L) of
                any length, to which the maps are resized; volumes (N, C, D, H, W), which are scaled to [0, 1]; videos
                of 1 or 3 channels, uint8 or with values in [0, 1].
            colormap: "jet" or any name known to matplotlib.
            alpha: share of the colour, 0 to 1; strips under signals are all colour.
            class_names: names of the classes, a sequence or a mapping from index to name, for titles instead of
                numbers; None takes the attribute ``class_names``.
            view: of inputs with three axes, "slices" or "frames"; None takes frames for three channels, and slices
                otherwise.
        """
        if self._axes == 1:
            return self._signal_figure(images, self._indices, colormap, class_names)
        drawn = self._drawings(images, colormap, alpha, view)
        return picture_figure(drawn, self._titles(self._indices, class_names))

    def with_class_names(self, class_names: ClassNames | None) -> Self:
        """Return a copy whose titles name the classes, in notebooks too.

        Args:
            class_names: a sequence, or a mapping from index to name; classes without a name keep their number.
        """
        check_class_names(class_names)
        copied = copy.copy(self)
        copied.__dict__["class_names"] = class_names  # explanations are frozen
        return copied

    @property
    def _axes(self) -> int:
        """The number of spatial axes: 1 for signals, 2 for pictures, 3 for volumes and videos."""
        return self.images.dim() - 2

    @property
    def _indices(self) -> list[Index]:
        """The index (n,) or (n, k) of every map."""
        return list(np.ndindex(tuple(self.scores.shape)))

    def _drawings(
        self, images: DrawableImages | None, colormap: str, alpha: float, view: View | None
    ) -> list[render.Bytes]:
        """Return a picture for every map of pictures, volumes or videos."""
        drawn: Overlays
        if self._axes == 3:
            drawn = draw_volumes(self.maps, self.images, images, colormap, alpha, view)
        else:
            drawn = self.overlay(images, colormap=colormap, alpha=alpha)
        return [drawn[index[0]][index[1:]] for index in self._indices]

    def _page(self, images: DrawableImages | None, colormap: str, class_names: ClassNames | None) -> Page:
        """Return a page of pictures, an entry for each image with all its maps."""
        if self._axes != 2:
            raise ValueError(f"a page is of pictures (N, C, H, W), got images {tuple(self.images.shape)}")
        pictures = own_pictures(self.images) if images is None else given_pictures(images)
        if len(pictures) != len(self):
            raise ValueError(f"`images` must be {len(self)} pictures, one for each image, got {len(pictures)}")
        titles, maps = self._titles(self._indices, class_names), as_array(self.values)
        per_image = len(titles) // len(self)
        page = Page(self.method, colormap, self.limits)
        for row, picture in enumerate(pictures):
            names = titles[row * per_image : (row + 1) * per_image]
            page.add(f"image {row}", picture, list(zip(names, maps[row].reshape(-1, *maps.shape[-2:]), strict=True)))
        return page

    def _signal_figure(
        self,
        images: DrawableImages | None,
        indices: list[Index],
        colormap: str,
        class_names: ClassNames | None = None,
    ) -> "Figure":
        signals = checked_signals(images, self.images)
        return signal_figure(self.maps, signals, indices, self._titles(indices, class_names), colormap)

    def _titles(self, indices: list[Index], class_names: ClassNames | None = None) -> list[str]:
        names = self.class_names if class_names is None else class_names
        targets = [None if self.targets is None else int(self.targets[index]) for index in indices]
        return [named(self._title(index), target, names) for index, target in zip(indices, targets, strict=True)]

    def _repr_png_(self) -> bytes | None:
        """Return a picture for notebooks, which show the text for None."""
        no_picture = self._axes == 2 and self.images.shape[1] not in (1, 3)
        if no_picture or self._axes not in (1, 2, 3) or len(self) == 0:
            return None
        return self._signal_png() if self._axes == 1 else self._sheet_png()

    def _signal_png(self) -> bytes | None:
        buffer = io.BytesIO()
        try:
            self._signal_figure(None, self._indices, "jet").savefig(buffer, format="png")
        except ImportError:
            return None
        return buffer.getvalue()

    def _sheet_png(self) -> bytes:
        drawn, buffer = self._drawings(None, "jet", 0.5, None), io.BytesIO()
        columns = len(drawn) // len(self)
        rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
        titles = self._titles(self._indices[::columns])
        render.contact_sheet(rows, titles, [self.method] + [""] * (columns - 1)).save(buffer, "PNG")
        return buffer.getvalue()
