"""Predictions for many images behind windows, computed from patches where that is faster."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fastcam.devices import uses_tf32
from fastcam.incremental.sweep import NotIncrementalError, Sweep
from fastcam.model.batching import Batches, Block

Engine = Literal["auto", "incremental", "dense"]
Predictions: TypeAlias = dict[str, Tensor]
Run: TypeAlias = Callable[[int, Tensor], object]
ReadOutput: TypeAlias = Callable[[Tensor, Block], Predictions]

MIN_GAIN = 1.3  # predicted speed-up below which patches do not pay: gathering them costs time too
PATCH_COPY_SIZE = 0.3  # batch-size weight of one patch copy relative to a full image

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
    read_output: ReadOutput,
    batches: Batches,
    engine: Engine,
    image_range: range,
) -> list[tuple[Block, Predictions]] | None:
    """Return predictions for images behind every window, block by block; None where whole passes are to be used.

    Args:
        run: from the index of an image and copies of it (n, C, H, W) to the model's output.
        images: (N, C, H, W).
        start: the content of the windows, (N, C, H, W).
        windows: (M, 2, 2): start and size along both axes.
        read_output: from an output (m, ...) and a block of one image to predictions (1, m, ...) by name.
        batches: splits the work.
        engine: "auto" uses patches only where they are predicted to be faster; "incremental" uses patches or raises.
        image_range: the images to predict.

    Raises:
        ValueError: if ``engine`` is "incremental" and the model cannot run from patches.
    """
    try:
        return _predict_windows(run, images, start, windows, read_output, batches, engine, image_range)
    except NotIncrementalError as error:
        if engine == "incremental":
            raise ValueError(f'engine="incremental" cannot be used: {error}') from error
        _log.info("occlusion runs the whole model for every window: %s", error)
        return None


def _predict_windows(
    run: Run,
    images: Tensor,
    start: Tensor,
    windows: Tensor,
    read_output: ReadOutput,
    batches: Batches,
    engine: Engine,
    image_range: range,
) -> list[tuple[Block, Predictions]]:
    predictions: list[tuple[Block, Predictions]] = []
    sweep: Sweep | None = None
    quiet = batches.without_progress()
    with batches.progress.over(len(image_range) * len(windows)) as advance:
        for index in image_range:
            rows = slice(index, index + 1)
            sweep = Sweep(functools.partial(run, index), images[rows], start[rows], like=sweep)
            if index == image_range.start:
                _check_gain(sweep, windows, engine)
                buckets = sorted(sweep.buckets(windows), key=len, reverse=True)
            for bucket in buckets:
                bucket_windows = windows[bucket]
                work = _sweep_blocks(sweep, bucket_windows)
                for block, output in quiet.each(1, len(bucket_windows), work, PATCH_COPY_SIZE):
                    columns = block.place[1]
                    if not predictions:
                        _check_agreement(sweep, bucket_windows[columns], output)
                    predictions += _split_runs(read_output, output, bucket[columns].tolist(), index)
                    advance(len(block))
    return predictions


def _sweep_blocks(sweep: Sweep, windows: Tensor) -> Callable[[Block], Tensor]:
    """Return a function from a block to the output for its windows."""
    return lambda block: sweep(windows[block.place[1]])


def _split_runs(
    read_output: ReadOutput, output: Tensor, variants: Sequence[int], image: int
) -> Iterator[tuple[Block, Predictions]]:
    """Yield predictions for each run of consecutive windows: a block cannot hold others."""
    first = 0
    for stop in range(1, len(variants) + 1):
        if stop < len(variants) and variants[stop] == variants[stop - 1] + 1:
            continue
        block = Block(range(image, image + 1), range(variants[first], variants[stop - 1] + 1))
        yield block, read_output(output[first:stop], block)
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
    scale = float(expected.float().abs().max())
    is_tf32 = expected.dtype == torch.float32 and uses_tf32(expected.device)
    tolerance = torch.finfo(torch.float16 if is_tf32 else expected.dtype).eps ** 0.5  # TF32 has float16's bits
    if not torch.allclose(output[middle], expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
        raise NotIncrementalError("whole images give another output: it depends on more than the model's operations")
