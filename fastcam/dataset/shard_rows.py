"""The rows of shards with one model: batch after batch, and images on which it fails one by one.

On a GPU a batch is begun before the rows of the one before it are made, also of the last one of the shard before, so
that the GPU works in the meantime.
"""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pyarrow as pa
import torch

from fastcam.dataset.batch_inputs import BatchInputs
from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.records import Span
from fastcam.dataset.signals import InterruptedRunError
from fastcam.dataset.stages import Stages
from fastcam.dataset.work import Maker, Rows
from fastcam.model.out_of_memory import is_out_of_memory

Result = TypeVar("Result")


def batches_ahead(device: torch.device) -> int:
    """Return how many batches the model's device is given before the rows of the first are made."""
    return 1 if device.type == "cuda" else 0


@dataclass(frozen=True)
class MadeShard:
    """All rows of a shard.

    Attributes:
        span: its images.
        rows: in no order.
        stored: what is stored with them, as JSON.
    """

    span: Span
    rows: Sequence[pa.Table]
    stored: Mapping[str, object]


@dataclass
class _Shard:
    """A shard of which rows are made.

    Attributes:
        span: its images.
        maker: of its rows.
        numbers: of the images that were taken, by id.
        tables: rows that are made.
        batches: that are begun, without the rows yet.
    """

    span: Span
    maker: Maker
    numbers: dict[str, int] = field(default_factory=dict)
    tables: list[pa.Table] = field(default_factory=list)
    batches: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether all of its images were taken."""
        return len(self.numbers) == self.span.stop - self.span.start

    def numbers_of(self, images: Sequence[LoadedImage]) -> list[int]:
        """Return the numbers of some images."""
        return [self.numbers[image.item.id] for image in images]

    def made(self) -> MadeShard:
        """Return all rows."""
        rows, stored = self.maker.finish()
        return MadeShard(self.span, [*self.tables, *rows], stored)


@dataclass(frozen=True)
class _Begun:
    """A batch that the device works on.

    Attributes:
        shard: of the images.
        images: of the batch.
        rows: makes their rows.
        end: of the work, on a GPU.
    """

    shard: _Shard
    images: Sequence[LoadedImage]
    rows: Rows
    end: "torch.cuda.Event | None"


@dataclass
class ShardRows:
    """Makes rows, batch by batch.

    Attributes:
        maker: makes the rows of some images.
        inputs: makes what the model sees of them.
        batch_size: images per batch; halved when memory runs out.
        has_worked: whether any image was ever explained with these settings; until then an error of a batch is one of
            the settings, and raised.
        failed: images without a result.
    """

    maker: Maker
    inputs: BatchInputs
    batch_size: int
    has_worked: bool = False
    failed: int = 0
    _batch: list[LoadedImage] = field(init=False, default_factory=list)  # of the last shard
    _shards: deque[_Shard] = field(init=False, default_factory=deque)  # not made yet, or not asked for
    _begun: deque[_Begun] = field(init=False, default_factory=deque)
    _ended: list[LoadedImage] = field(init=False, default_factory=list)  # since they were last asked for
    _stream: "torch.cuda.Stream | None" = field(init=False, default=None)

    def forget(self) -> None:
        """Forget all shards that are not made, of a run that ended before them."""
        self._batch, self._ended = [], []
        self._shards.clear()
        self._begun.clear()

    def begin(self, span: Span) -> None:
        """Begin a shard, after all images of the one before were taken.

        Raises:
            ValueError: if they were not.
        """
        self._check_whole()
        self._shards.append(_Shard(span, self.maker.begin()))

    def add(self, image: LoadedImage, stages: Stages) -> Sequence[LoadedImage]:
        """Take the next image of the shard; return those that are done by now.

        Raises:
            InterruptedRunError: if the run is to stop.
            ValueError, TypeError, RuntimeError: for a model, layers or targets that do not fit together.
        """
        shard = self._shards[-1]
        shard.numbers[image.item.id] = len(shard.numbers)
        if image.tensor is None:
            self._add_failures(shard, [image], [image.reason])
            self._ended.append(image)
        else:
            self._batch.append(image)
        if len(self._batch) >= self.batch_size or shard.is_whole:
            self._explain_waiting(stages, self.inputs.ahead)
        return self._newly_ended()

    def end(self, stages: Stages) -> Sequence[LoadedImage]:
        """End all batches, after the last shard; return the images that are done now. Raises as :meth:`add`."""
        self._check_whole()
        self._explain_waiting(stages, 0)
        return self._newly_ended()

    def made(self) -> Iterator[MadeShard]:
        """Yield the shards whose rows are all made, once each, in order."""
        while self._shards and self._shards[0].is_whole and not self._shards[0].batches:
            yield self._shards.popleft().made()

    def one_by_one(self) -> "ShardRows":
        """Return what makes the same rows with a batch for each image."""
        return replace(self, batch_size=1, inputs=replace(self.inputs, ahead=0))

    def _check_whole(self) -> None:
        """Raise ValueError if images of the last shard did not come: its rows would be lost silently."""
        if self._shards and not self._shards[-1].is_whole:
            span, count = self._shards[-1].span, len(self._shards[-1].numbers)
            wanted = f"images {span.start} to {span.stop - 1}"
            raise ValueError(f"the source was asked for {wanted}, and gave {count} different ones")

    def _newly_ended(self) -> Sequence[LoadedImage]:
        ended, self._ended = self._ended, []
        return ended

    def _explain_waiting(self, stages: Stages, ahead: int) -> None:
        """Begin with the batch, and end all but some that were begun."""
        batch, self._batch = self._batch, []
        with stages.timed("explain"):
            if batch:
                self._begin_batch(self._shards[-1], batch)
            self._end_batches(ahead)

    def _begin_batch(self, shard: _Shard, batch: Sequence[LoadedImage]) -> None:
        begun = _attempt(lambda: self._begin(shard, batch))
        if isinstance(begun, _Begun):
            self._begun.append(begun)
            shard.batches += 1
            return
        has_others = bool(self._begun)
        self._end_batches(0)
        if has_others:  # they may have held the memory
            self._explain(shard, batch)
        else:
            self._explain_again(shard, batch, begun)
        self._ended += batch

    def _end_batches(self, ahead: int) -> None:
        """Make the rows of all batches but the last ones."""
        while len(self._begun) > ahead:
            begun = self._begun.popleft()
            self._end_or_explain_again(begun)
            begun.shard.batches -= 1
            self._ended += begun.images

    def _end_or_explain_again(self, begun: _Begun) -> None:
        error = _attempt(functools.partial(self._end, begun))
        if error is not None:
            self._explain_again(begun.shard, begun.images, error)

    def _explain(self, shard: _Shard, batch: Sequence[LoadedImage]) -> None:
        """Make the rows of images; after an error they are explained one by one."""
        error = _attempt(lambda: self._end(self._begin(shard, batch)))
        if error is not None:
            self._explain_again(shard, batch, error)

    def _explain_again(self, shard: _Shard, batch: Sequence[LoadedImage], error: Exception) -> None:
        """Make the rows of images after an error: of halves, if memory ran out, or each alone."""
        if is_out_of_memory(error) and len(batch) > 1:
            self._explain_halves(shard, batch)
            return
        self._explain_one_by_one(shard, batch, error)
        if not self.has_worked:
            raise error  # the settings are wrong, not the images

    def _explain_one_by_one(self, shard: _Shard, batch: Sequence[LoadedImage], error: Exception) -> None:
        """Make the rows of images, each explained alone; a single one is known to fail with ``error``."""
        for image in batch:
            try:
                if len(batch) == 1:
                    raise error
                self._end(self._begin(shard, [image]))
            except InterruptedRunError:
                raise
            except Exception as reason:
                self._add_failures(shard, [image], [f"{type(reason).__name__}: {_first_line(reason)}"])

    def _explain_halves(self, shard: _Shard, batch: Sequence[LoadedImage]) -> None:
        half = len(batch) // 2
        self.batch_size = max(1, min(self.batch_size, half))
        self._explain(shard, batch[:half])
        self._explain(shard, batch[half:])

    def _begin(self, shard: _Shard, batch: Sequence[LoadedImage]) -> _Begun:
        """Give the device its work."""
        inputs = self.inputs(batch)
        rows = shard.maker.of_batch(inputs, batch, shard.numbers_of(batch))
        is_later = inputs.device.type == "cuda"
        return _Begun(shard, batch, rows, torch.cuda.current_stream(inputs.device).record_event() if is_later else None)

    def _end(self, begun: _Begun) -> None:
        """Make the rows of a batch."""
        with self._beside(begun.end):
            begun.shard.tables.append(begun.rows())
        self.has_worked = True

    @contextlib.contextmanager
    def _beside(self, end: "torch.cuda.Event | None") -> Iterator[None]:
        """Work on a stream of its own with what was computed before an event, not after what the model does since."""
        if end is None:
            yield
            return
        self._stream = self._stream or torch.cuda.Stream(self.inputs.device)
        self._stream.wait_event(end)
        with torch.cuda.stream(self._stream):
            yield

    def _add_failures(self, shard: _Shard, images: Sequence[LoadedImage], reasons: Sequence[str]) -> None:
        self.failed += len(images)
        shard.tables.append(shard.maker.of_failures(images, shard.numbers_of(images), reasons))


def _attempt(work: Callable[[], Result]) -> Result | Exception:
    """Return a result, or the error; of one of memory without what its frames hold, so that there is room again."""
    try:
        return work()
    except InterruptedRunError:
        raise
    except Exception as error:
        return error.with_traceback(None) if is_out_of_memory(error) else error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
