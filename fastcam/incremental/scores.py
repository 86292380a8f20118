"""Predictions for windows over many images, by patches where that pays."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fastcam.incremental.sweep import NotIncrementalError, Sweep
from fastcam.model.batching import Batches, Block

Engine = Literal["auto", "incremental", "dense"]
Told = dict[str, Tensor]
Run = Callable[[int, Tensor], Any]

LEAST_GAIN = 1.3  # what gathering patches costs
_SHARE = 0.3  # of the image that a copy is taken for, where batches are cut: 48 on a processor

_log = logging.getLogger("fastcam")


def check_engine(engine: str) -> None:
    """Refuses an engine that is not known.

    Raises:
        ValueError: with a sentence.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"`engine` must be one of {', '.join(get_args(Engine))}; got {engine!r}")


def predicted(
    run: Run,
    images: Tensor,
    start: Tensor,
    windows: Tensor,
    told: Callable[[Any, Block], Told],
    batches: Batches,
    engine: Engine,
    which: range,
) -> list[tuple[Block, Told]] | None:
    """What the model says of images behind every window, block by block; None where whole passes are to be made.

    Args:
        run: from the number of an image and copies of it (n, C, H, W) to the model's output.
        images: (N, C, H, W).
        start: what the windows hold, (N, C, H, W).
        windows: (M, 2, 2): start and size along both axes.
        told: from an output (m, ...) and a block of one image to results (1, m, ...) by name.
        batches: how work is cut.
        engine: "auto" for patches only where they save enough, "incremental" for patches or an error.
        which: of the images.

    Raises:
        ValueError: where patches are asked for and cannot be.
    """
    try:
        return _predicted(run, images, start, windows, told, batches, engine, which)
    except NotIncrementalError as error:
        if engine == "incremental":
            raise ValueError(f'engine="incremental" cannot be used: {error}') from error
        _log.info("occlusion runs the whole model for every window: %s", error)
        return None


def _predicted(
    run: Run,
    images: Tensor,
    start: Tensor,
    windows: Tensor,
    told: Callable[[Any, Block], Told],
    batches: Batches,
    engine: Engine,
    which: range,
) -> list[tuple[Block, Told]]:
    found: list[tuple[Block, Told]] = []
    quiet = batches.quietly()
    with batches.progress.over(len(which) * len(windows)) as advance:
        for index in which:
            here = slice(index, index + 1)
            sweep = Sweep(functools.partial(run, index), images[here], start[here])
            if index == which.start:
                _check_gain(sweep, windows, engine)
                buckets = sorted(sweep.buckets(windows), key=len, reverse=True)
            for bucket in buckets:
                some = windows[bucket.to(windows.device)]
                for block, output in quiet.each(1, len(some), _work(sweep, some), _SHARE):
                    if not found:
                        _check_agreement(sweep, some[block.place[1]], output)
                    found += _placed(told, output, bucket[block.place[1]].tolist(), index)
                    advance(len(block))
    return found


def _work(sweep: Sweep, windows: Tensor) -> Callable[[Block], Any]:
    return lambda block: sweep(windows[block.place[1]])


def _placed(
    told: Callable[[Any, Block], Told], output: Any, variants: Sequence[int], image: int
) -> Iterator[tuple[Block, Told]]:
    """The results of windows that do not lie side by side, run by run."""
    first = 0
    for position in range(1, len(variants) + 1):
        if position < len(variants) and variants[position] == variants[position - 1] + 1:
            continue
        block = Block(range(image, image + 1), range(variants[first], variants[position - 1] + 1))
        yield block, told(output[first:position], block)
        first = position


def _check_gain(sweep: Sweep, windows: Tensor, engine: Engine) -> None:
    if engine == "auto":
        gain = sweep.gain(windows, "work")
        if gain < LEAST_GAIN:
            raise NotIncrementalError(f"patches would make it {gain:.2f} times as fast")


def _check_agreement(sweep: Sweep, windows: Tensor, found: Tensor) -> None:
    """Refuses a model that says something else of a whole copy: it does what its operations do not show."""
    middle = slice(len(windows) // 2, len(windows) // 2 + 1)
    with torch.no_grad():
        expected = sweep.run(sweep.hidden_images(windows[middle]))
    if not isinstance(expected, Tensor) or found.shape[1:] != expected.shape[1:]:
        raise NotIncrementalError("the model returns something else for several images")
    scale = float(expected.float().abs().max())
    rounding = torch.finfo(expected.dtype).eps ** 0.5
    if not torch.allclose(found[middle], expected, rtol=rounding, atol=rounding * scale, equal_nan=True):
        raise NotIncrementalError(
            "the model says something else of whole images: it depends on more than its operations"
        )
