"""SESS: combined maps of image windows at several scales (arXiv:2207.01769)."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam._types import Array, ReshapeTransform, Target, Targets
from fastcam.compat.pytorch_grad_cam.base_cam import BaseCAM
from fastcam.compat.pytorch_grad_cam.cams import GradCAM
from fastcam.compat.pytorch_grad_cam.utils.image import scale_cam_image
from fastcam.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

Place = tuple[int, int, int, int]  # left, top, width and height of the scaled image

_BLUR_SIZE, _BLUR_SIGMA = 11, 5.0  # width and standard deviation of the Gaussian, in pixels


class SESS:
    """Maps of many windows, weighted by the windows' scores, pasted at their positions and averaged.

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from the output of a layer to (N, C, h, w).
        base_method: the CAM class for the windows.
        scales: lengths of the image's shorter side; None for ``num_scales`` of them, beginning at the window size.
        num_scales: number of scales.
        scale_step_ratio: step between scales, relative to the window size.
        window_size: side of the window; None for the image's shorter side.
        step_size: step between windows; None for the window size. The last windows are shifted back into the image.
        pre_filter_ratio: share of the windows with the lowest scores that are left out.
        theta: values up to it are left out of the mean.
        pool: "mean" over the windows with values above theta, or "max".
        smooth: blur the result.
        use_softmax_scores: apply the target to probabilities; False to apply it to the output.
        batch_size: windows per batch.
        kwargs: further arguments of ``base_method``.

    Raises:
        ValueError: for options out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: ReshapeTransform | None = None,
        base_method: Callable[..., BaseCAM] = GradCAM,
        scales: Sequence[int] | None = None,
        num_scales: int = 12,
        scale_step_ratio: float = 2.0 / 7.0,
        window_size: int | None = None,
        step_size: int | None = None,
        pre_filter_ratio: float = 0.0,
        theta: float = 0.0,
        pool: str = "mean",
        smooth: bool = True,
        use_softmax_scores: bool = True,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        if pool not in ("mean", "max"):
            raise ValueError(f'`pool` must be "mean" or "max", got {pool!r}')
        if not 0 <= pre_filter_ratio < 1:
            raise ValueError(f"`pre_filter_ratio` must lie in [0, 1), got {pre_filter_ratio}")
        if num_scales < 1:
            raise ValueError(f"`num_scales` must be a positive whole number, got {num_scales}")
        self.base_cam = base_method(model, target_layers, reshape_transform, **kwargs)
        self.model, self.device = self.base_cam.model, self.base_cam.device
        self.scales, self.num_scales, self.scale_step_ratio = scales, num_scales, scale_step_ratio
        self.window_size, self.step_size, self.pre_filter_ratio = window_size, step_size, pre_filter_ratio
        self.theta, self.pool, self.smooth = theta, pool, smooth
        self.use_softmax_scores, self.batch_size = use_softmax_scores, batch_size

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Call :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(self, input_tensor: Tensor, targets: Targets | None = None, eigen_smooth: bool = False) -> Array:
        """Return maps (N, H, W), float32, in [0, 1).

        Args:
            input_tensor: (N, C, H, W).
            targets: N callables from an image's output to its score; None for the highest class.
            eigen_smooth: passed to ``base_method``.

        Raises:
            ValueError: for another number of targets.
        """
        images = input_tensor.detach().to(self.device)
        targets_or_none = [None] * len(images) if targets is None else targets
        if len(targets_or_none) != len(images):
            raise ValueError(
                f"there must be one target for each of the {len(images)} images, got {len(targets_or_none)}"
            )
        maps = [
            self.forward_single_image(image[None], target, eigen_smooth)
            for image, target in zip(images, targets_or_none, strict=True)
        ]
        return scale_cam_image(np.stack(maps))

    def forward_single_image(self, input_tensor: Tensor, target: Target | None, eigen_smooth: bool = False) -> Array:
        """Return the unscaled map (H, W) of one image (1, C, H, W)."""
        size = (input_tensor.shape[2], input_tensor.shape[3])
        window = self.window_size or min(size)
        target = self.get_target(input_tensor) if target is None else target
        patches, places = self.collect_patches(input_tensor, window, self.step_size or window)
        maps, scores = self._maps_and_scores(patches, target, eigen_smooth)
        weights = scores / scores.max() if scores.max() > 0 else torch.ones_like(scores)
        total, count = torch.zeros(size), torch.zeros(size)
        for index, cam in maps.items():
            pasted = torch.from_numpy(self.paste_cam((cam * weights[index]).numpy(), places[index], size))
            if self.pool == "max":
                total = torch.maximum(total, pasted)
            else:
                counted = pasted > self.theta
                total += torch.where(counted, pasted, 0)
                count += counted
        fused = total if self.pool == "max" else total / count.clamp(min=1)
        return (_blur(fused) if self.smooth else fused).numpy()

    def _maps_and_scores(
        self, patches: list[Tensor], target: Target, eigen_smooth: bool
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Return the maps of the selected windows by index, and all scores; from one pass without a filter."""
        if self.pre_filter_ratio:
            scores = self.get_scores(patches, target)
            selected = scores.argsort(stable=True).tolist()[int(len(patches) * self.pre_filter_ratio) :]
        else:
            scores, selected = torch.zeros(len(patches)), list(range(len(patches)))
        maps: dict[int, Tensor] = {}
        for first in range(0, len(selected), self.batch_size):
            block = selected[first : first + self.batch_size]
            batch = torch.cat([patches[index] for index in block])
            cams = self.base_cam(batch, [target] * len(block), eigen_smooth=eigen_smooth)
            maps |= dict(zip(block, torch.from_numpy(np.ascontiguousarray(cams)), strict=True))
            if not self.pre_filter_ratio:
                scores[block] = self._target_scores(self.base_cam.outputs, target)
        return maps, scores

    def get_scales(self, window_size: int) -> list[int]:
        """Return the lengths of the shorter side."""
        if self.scales is not None:
            return list(self.scales)
        step = round(window_size * self.scale_step_ratio)
        return [window_size + step * index for index in range(self.num_scales)]

    def collect_patches(
        self, input_tensor: Tensor, window_size: int, step_size: int
    ) -> tuple[list[Tensor], list[Place]]:
        """Return the windows (1, C, w, w) of the image at every scale, and their places.

        Raises:
            ValueError: for an image smaller than the window.
        """
        patches, places = [], []
        for scale in self.get_scales(window_size):
            if scale < window_size:
                raise ValueError(f"every scale must be at least the window's side, {window_size}; got {scale}")
            scaled = _resize(input_tensor, scale)
            height, width = scaled.shape[-2:]
            for left, top in sliding_window(height, width, step_size, window_size):
                patches.append(scaled[:, :, top : top + window_size, left : left + window_size])
                places.append((left, top, width, height))
        return patches, places

    def paste_cam(self, cam: Array, coordinates: Place, target_size: tuple[int, int]) -> Array:
        """Paste a window's map at its place in the scaled image and resize that to the image's size (height, width)."""
        left, top, width, height = coordinates
        whole = torch.zeros(height, width)
        whole[top : top + cam.shape[0], left : left + cam.shape[1]] = torch.from_numpy(cam)
        return F.interpolate(whole[None, None], target_size, mode="bilinear")[0, 0].numpy()

    def get_target(self, input_tensor: Tensor) -> ClassifierOutputTarget:
        """Return the target of an image's highest class."""
        with torch.no_grad():
            return ClassifierOutputTarget(int(self.model(input_tensor)[0].argmax(-1)))

    def get_scores(self, patches: list[Tensor], target: Target) -> Tensor:
        """Return (windows,), the target's scores, at least 0."""
        with torch.no_grad():
            scores = [
                self._target_scores(self.model(torch.cat(patches[first : first + self.batch_size])), target)
                for first in range(0, len(patches), self.batch_size)
            ]
        return torch.cat(scores)

    def _target_scores(self, outputs: Tensor, target: Target) -> Tensor:
        values = outputs.detach().softmax(-1) if self.use_softmax_scores else outputs.detach()
        return torch.as_tensor(target(values)).float().cpu().clamp(min=0)

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Do nothing."""


def sliding_window(height: int, width: int, step_size: int, window_size: int) -> list[tuple[int, int]]:
    """Return (left, top) of the windows that cover an image, row by row."""
    tops, lefts = (window_starts(length, step_size, window_size) for length in (height, width))
    return [(left, top) for top in tops for left in lefts]


def window_starts(length: int, step_size: int, window_size: int) -> list[int]:
    """Return the starts of windows, the last of which ends with the image."""
    last = max(length - window_size, 0)
    return [*range(0, last, step_size), last]


def _resize(images: Tensor, shorter: int) -> Tensor:
    height, width = images.shape[-2:]
    longer = int(shorter * max(height, width) / min(height, width))
    size = (shorter, longer) if height <= width else (longer, shorter)
    if size == (height, width):
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def _blur(maps: Tensor) -> Tensor:
    """Apply a Gaussian filter, with the border mirrored."""
    radius = _BLUR_SIZE // 2
    distance = torch.arange(-radius, radius + 1, dtype=maps.dtype)
    kernel = torch.exp(-(distance**2) / (2 * _BLUR_SIGMA**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(maps[None, None], [radius] * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[0, 0]
