"""Predictions for many images behind windows, computed from patches where that is faster."""

import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fastcam.devices import uses_tf32
from fastcam.incremental.runner import NotIncrementalError
from fastcam.incremental.sweep import Sweep
from fastcam.model.batching import Batches, Block
from fastcam.model.out_of_memory import is_out_of_memory

Engine = Literal["auto", "incremental", "dense"]
Predictions: TypeAlias = dict[str, Tensor]
Run: TypeAlias = Callable[[int, Tensor], object]
ReadOutput: TypeAlias = Callable[[Tensor, Block], Predictions]

MIN_GAIN = 1.3  # predicted speed-up below which patches do not pay: gathering them costs time too
PATCH_COPY_SIZE = 0.3  # batch-size weight of one patch copy relative to a full image
MAX_BYTES = 2 << 30  # of the maps of images that are swept together

_log = logging.getLogger("fastcam")


def check_engine(engine: str) -> None:
    """Check that an engine is known.

    Raises:
        ValueError: if it is not.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"`engine` must be one of {', '.join(get_args(Engine))}; got {engine!r}")


def predict_windows(
    run: Run,
    images: Tensor,
    start: Tensor,
    windows: Tensor,
    scores: Tensor,
    read_output: ReadOutput,
    batches: Batches,
    engine: Engine,
    image_range: range,
    is_alike: bool,
) -> list[tuple[Block, Predictions]] | None:
    """Return predictions for images behind every window, block by block; None where whole passes are to be used.

    Args:
        run: from the index of an image and copies of it (n, C, H, W) to the model's output.
        images: (N, C, H, W).
        start: the content of the windows, (N, C, H, W).
        windows: (M, 2, 2): start and size along both axes.
        scores: (N, [K]), of the images without windows.
        read_output: from an output (n * m, ...) and a block to predictions (n, m, ...) by name, "scores" among them.
        batches: splits the work.
        engine: "auto" uses patches only where they are predicted to be faster; "incremental" uses patches or raises.
        image_range: the images to predict.
        is_alike: whether the model does the same with all images, whose other arguments are the same.

    Raises:
        ValueError: if ``engine`` is "incremental" and the model cannot run from patches.
    """
    try:
        work = _Work(run, images, start, windows, scores, read_output, batches, is_alike)
        return work.predictions(image_range, engine)
    except NotIncrementalError as error:
        if engine == "incremental":
            raise ValueError(f'engine="incremental" cannot be used: {error}') from error
        _log.info("occlusion runs the whole model for every window: %s", error)
        return None


@dataclass(frozen=True)
class _Work:
    """The arguments of :func:`predict_windows` that hold for all images."""

    run: Run
    images: Tensor
    start: Tensor
    windows: Tensor
    scores: Tensor
    read_output: ReadOutput
    batches: Batches
    is_alike: bool

    def predictions(self, images: range, engine: Engine) -> list[tuple[Block, Predictions]]:
        """Predict images, as many together as fill a block of work."""
        found: list[tuple[Block, Predictions]] = []
        sweep = self._sweep(images[:1])
        _check_gain(sweep, self.windows, engine)
        together = images_together(sweep, self.windows, self.batches) if self.is_alike else 1
        buckets = sorted(sweep.buckets(self.windows, together), key=len, reverse=True)
        with self.batches.progress.over(len(images) * len(self.windows)) as advance:
            for group, swept in self._groups(sweep, images, together):
                for bucket in buckets:
                    for columns, block, output in self._outputs(swept, bucket, group):
                        if not found:
                            _check_agreement(swept, self.windows[columns], output)
                        found += _split_runs(self.read_output(output, block), columns.tolist(), block.images)
                        advance(len(output))
        return found

    def _groups(self, sweep: Sweep, images: range, together: int) -> Iterator[tuple[range, Sweep]]:
        """Yield images, so many together or fewer when memory runs out, with their sweep, whose clean output is right.

        Args:
            sweep: of the first image.
            images: in a row.
            together: how many.
        """
        first = 0
        while first < len(images):
            group = images[first : first + together]
            if group != images[:1]:
                sweep = sweep.of(*self._rows(group)) if self.is_alike else self._sweep(group)
            try:
                self._check_clean_output(sweep, group)
            except (RuntimeError, MemoryError) as error:
                if together == 1 or not is_out_of_memory(error):
                    raise
                together //= 2
                continue
            yield group, sweep
            first += len(group)

    def _rows(self, group: range) -> tuple[Tensor, Tensor]:
        rows = slice(group.start, group.stop)
        return self.images[rows], self.start[rows]

    def _sweep(self, group: range) -> Sweep:
        return Sweep(functools.partial(self.run, group.start), *self._rows(group))

    def _outputs(self, sweep: Sweep, bucket: Tensor, group: range) -> Iterator[tuple[Tensor, Block, Tensor]]:
        """Yield the windows, the block and the output (n * m, ...) for images behind the windows of a bucket."""
        windows = self.windows[bucket]

        def work(block: Block) -> Tensor:
            inside = range(block.images.start - group.start, block.images.stop - group.start)
            return sweep(windows[block.place[1]], inside)

        blocks = self.batches.without_progress().each(group, len(bucket), work, PATCH_COPY_SIZE)
        return ((bucket[block.place[1]], block, output) for block, output in blocks)

    def _check_clean_output(self, sweep: Sweep, group: range) -> None:
        """Compare the scores of images without windows: the model may do something else than with the first."""
        found = self.read_output(sweep.clean_output, Block(group, range(1)))["scores"][:, 0]
        expected = self.scores[group.start : group.stop]
        if not _is_same(found, expected, max(_scale(self.scores), _scale(sweep.clean_output))):
            raise NotIncrementalError("the model does not run the same operations for every image")


def images_together(sweep: Sweep, windows: Tensor, batches: Batches) -> int:
    """Return how many images are swept together: as many as fill a block with windows of one group, and fit."""
    groups = len(sweep.buckets(windows))
    filling = math.ceil(batches.limit_of(PATCH_COPY_SIZE) * groups / max(1, len(windows)))
    return max(1, min(filling, MAX_BYTES // max(1, sweep.analysis.bytes_read)))


def _split_runs(
    predictions: Predictions, variants: Sequence[int], images: range
) -> Iterator[tuple[Block, Predictions]]:
    """Yield predictions (n, m, ...) for each run of consecutive windows: a block cannot hold others."""
    first = 0
    for stop in range(1, len(variants) + 1):
        if stop < len(variants) and variants[stop] == variants[stop - 1] + 1:
            continue
        block = Block(images, range(variants[first], variants[stop - 1] + 1))
        yield block, {name: values[:, first:stop] for name, values in predictions.items()}
        first = stop


def _check_gain(sweep: Sweep, windows: Tensor, engine: Engine) -> None:
    """Check that the engine "auto" gains enough from patches."""
    if engine == "auto":
        gain = sweep.gain(windows, "work")
        if gain < MIN_GAIN:
            raise NotIncrementalError(f"patches would make it {gain:.2f} times as fast")


def _check_agreement(sweep: Sweep, windows: Tensor, output: Tensor) -> None:
    """Compare one output with a whole forward pass: a model may depend on more than its recorded operations."""
    middle = slice(len(windows) // 2, len(windows) // 2 + 1)
    with torch.no_grad():
        expected = sweep.run(sweep.hidden_images(windows[middle]))
    if not isinstance(expected, Tensor) or output.shape[1:] != expected.shape[1:]:
        raise NotIncrementalError("the model's output for several images has another type or shape")
    if not _is_same(output[middle], expected, _scale(expected)):
        raise NotIncrementalError("whole images give another output: it depends on more than the model's operations")


def _scale(values: Tensor) -> float:
    """Return the largest magnitude."""
    return float(values.float().abs().nan_to_num(0, 0, 0).max())


def _is_same(found: Tensor, expected: Tensor, scale: float) -> bool:
    """Whether numbers are the same up to rounding, of numbers as large as the scale too."""
    is_tf32 = expected.dtype == torch.float32 and uses_tf32(expected.device)
    tolerance = torch.finfo(torch.float16 if is_tf32 else expected.dtype).eps ** 0.5  # TF32 has float16's bits
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
