"""The rows of one shard after the other with one model: batches, and images on which it fails.

On a GPU a batch is begun before the rows of the one before it are made, so that the GPU works in the meantime.
"""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pyarrow as pa
import torch
from torch import Tensor

from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset.device_decoding import used_here
from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.signals import InterruptedRunError
from fastcam.dataset.stages import Stages
from fastcam.dataset.work import Maker, Rows
from fastcam.model.batching import is_out_of_memory

Result = TypeVar("Result")


def batches_ahead(device: torch.device) -> int:
    """Return how many batches the model's device is given before the rows of the first are made."""
    return 1 if device.type == "cuda" else 0


@dataclass(frozen=True)
class Begun:
    """A batch that the device works on.

    Attributes:
        images: of the batch.
        rows: makes their rows.
        end: of the work, on a GPU.
    """

    images: Sequence[LoadedImage]
    rows: Rows
    end: "torch.cuda.Event | None"


@dataclass
class _Memory:
    """Images on the CPU, and when they were copied from there to a GPU."""

    tensor: Tensor
    copied: "torch.cuda.Event | None" = None

    def holds(self, image: Tensor, count: int) -> bool:
        """Whether so many images of this kind have room."""
        shape, dtype = self.tensor.shape, self.tensor.dtype
        return shape[0] >= count and shape[1:] == image.shape and dtype == image.dtype


@dataclass
class ShardRows:
    """Makes rows, batch by batch.

    Attributes:
        maker: makes the rows of some images.
        device: of the model.
        batch_size: images per batch; halved when memory runs out.
        preprocessing: makes floats of pixels, on the device.
        ahead: batches that are begun before the rows of the first are made.
        has_worked: whether any image was ever explained with these settings; until then an error of a batch is one of
            the settings, and raised.
        failed: images without a result.
    """

    maker: Maker
    device: torch.device
    batch_size: int
    preprocessing: Preprocessing
    ahead: int = 0
    has_worked: bool = False
    failed: int = 0
    _numbers: dict[str, int] = field(init=False, default_factory=dict)  # of the images by id, in the current shard
    _batch: list[LoadedImage] = field(init=False, default_factory=list)
    _tables: list[pa.Table] = field(init=False, default_factory=list)
    _begun: deque[Begun] = field(init=False, default_factory=deque)
    _ended: list[LoadedImage] = field(init=False, default_factory=list)  # since they were last asked for
    _memory: deque["_Memory"] = field(init=False, default_factory=deque)  # of as many batches as may be begun
    _stream: "torch.cuda.Stream | None" = field(init=False, default=None)

    def begin(self) -> None:
        """Begin a shard."""
        self._numbers, self._batch, self._tables, self._ended = {}, [], [], []
        self._begun.clear()
        self.maker.begin()

    def add(self, image: LoadedImage, stages: Stages) -> Sequence[LoadedImage]:
        """Take the next image of the shard; return those that are done with it, of which it may be the last.

        Raises:
            InterruptedRunError: if the run is to stop.
            ValueError, TypeError, RuntimeError: for a model, layers or targets that do not fit together.
        """
        self._numbers[image.item.id] = len(self._numbers)
        if image.tensor is None:
            self.failed += 1
            self._tables.append(self._failures([image], [image.reason]))
            return [image]
        self._batch.append(image)
        return self._explain_waiting(stages, self.ahead) if len(self._batch) >= self.batch_size else []

    def flush(self, stages: Stages) -> Sequence[LoadedImage]:
        """Explain all that is left, at the end of the shard; return those that are done now. Raises as :meth:`add`."""
        return self._explain_waiting(stages, 0)

    def finish(self) -> tuple[list[pa.Table], Mapping[str, object]]:
        """Return the rows of the shard, and what is stored with it."""
        rows, stored = self.maker.finish()
        return [*self._tables, *rows], stored

    def one_by_one(self) -> "ShardRows":
        """Return what makes the same rows with a batch for each image."""
        return replace(self, batch_size=1, ahead=0)

    def _explain_waiting(self, stages: Stages, ahead: int) -> Sequence[LoadedImage]:
        """Begin with the batch, and end all but some that were begun; return the images that are done."""
        batch, self._batch = self._batch, []
        with stages.timed("explain"):
            if batch:
                self._begin_batch(batch)
            self._end_batches(ahead)
        ended, self._ended = self._ended, []
        return ended

    def _begin_batch(self, batch: Sequence[LoadedImage]) -> None:
        begun = _attempt(lambda: self._begin(batch))
        if isinstance(begun, Begun):
            self._begun.append(begun)
            return
        has_others = bool(self._begun)
        self._end_batches(0)
        # Those before it may have held the memory.
        self._tables += self._explain(batch) if has_others else self._explain_again(batch, begun)
        self._ended += batch

    def _end_batches(self, ahead: int) -> None:
        """Make the rows of all batches but the last ones."""
        while len(self._begun) > ahead:
            begun = self._begun.popleft()
            table = _attempt(functools.partial(self._end, begun))
            is_made = isinstance(table, pa.Table)
            self._tables += [table] if is_made else self._explain_again(begun.images, table)
            self._ended += begun.images

    def _explain(self, batch: Sequence[LoadedImage]) -> list[pa.Table]:
        """Return the rows of images; after an error they are explained one by one."""
        table = _attempt(lambda: self._end(self._begin(batch)))
        return [table] if isinstance(table, pa.Table) else self._explain_again(batch, table)

    def _explain_again(self, batch: Sequence[LoadedImage], error: Exception) -> list[pa.Table]:
        """Return the rows of images after an error: of halves, if memory ran out, or each alone."""
        if is_out_of_memory(error) and len(batch) > 1:
            return self._explain_halves(batch)
        tables = self._explain_one_by_one(batch, error)
        if not self.has_worked:
            raise error  # the settings are wrong, not the images
        return tables

    def _explain_one_by_one(self, batch: Sequence[LoadedImage], error: Exception) -> list[pa.Table]:
        """Return the rows of images, each explained alone; a single one is known to fail with ``error``."""
        tables = []
        for image in batch:
            try:
                if len(batch) == 1:
                    raise error
                tables.append(self._end(self._begin([image])))
            except InterruptedRunError:
                raise
            except Exception as reason:
                self.failed += 1
                tables.append(self._failures([image], [f"{type(reason).__name__}: {_first_line(reason)}"]))
        return tables

    def _explain_halves(self, batch: Sequence[LoadedImage]) -> list[pa.Table]:
        half = len(batch) // 2
        self.batch_size = max(1, min(self.batch_size, half))
        return self._explain(batch[:half]) + self._explain(batch[half:])

    def _begin(self, batch: Sequence[LoadedImage]) -> Begun:
        """Give the device its work."""
        tensors = [used_here(image.tensor) for image in batch if image.tensor is not None]
        if all(tensor.device.type == "cpu" for tensor in tensors):
            inputs = self._stacked(tensors)
        else:  # the device decoded some of them
            is_later = self.device.type == "cuda"  # what copies to the CPU must have come before it is read
            inputs = torch.stack([tensor.to(self.device, non_blocking=is_later) for tensor in tensors])
        if inputs.dtype == torch.uint8 and batch[0].size is not None:
            inputs = self.preprocessing.normalized(inputs)
        rows = self.maker.of_batch(inputs, batch, [self._numbers[image.item.id] for image in batch])
        is_later = self.device.type == "cuda"
        return Begun(batch, rows, torch.cuda.current_stream(self.device).record_event() if is_later else None)

    def _end(self, begun: Begun) -> pa.Table:
        """Return the rows of a batch."""
        with self._beside(begun.end):
            table = begun.rows()
        self.has_worked = True
        return table

    @contextlib.contextmanager
    def _beside(self, end: "torch.cuda.Event | None") -> Iterator[None]:
        """Work on a stream of its own with what was computed before an event, not after what the model does since."""
        if end is None:
            yield
            return
        self._stream = self._stream or torch.cuda.Stream(self.device)
        self._stream.wait_event(end)
        with torch.cuda.stream(self._stream):
            yield

    def _stacked(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the images as one tensor on the device; by way of the memory of an earlier batch.

        New memory for every batch would cost more than the copy. For a GPU it is pinned, for a copy without the host.
        """
        first, count, is_pinned = tensors[0], len(tensors), self.device.type == "cuda"
        memory = self._memory.popleft() if len(self._memory) > self.ahead else None
        if memory is None or not memory.holds(first, count):
            memory = _Memory(torch.empty((count, *first.shape), dtype=first.dtype, pin_memory=is_pinned))
        elif memory.copied is not None:
            memory.copied.synchronize()  # as a rule it was, long ago
        inputs = torch.stack(list(tensors), out=memory.tensor[:count]).to(self.device, non_blocking=True)
        memory.copied = torch.cuda.current_stream(self.device).record_event() if is_pinned else None
        self._memory.append(memory)
        return inputs

    def _failures(self, images: Sequence[LoadedImage], reasons: Sequence[str]) -> pa.Table:
        return self.maker.of_failures(images, [self._numbers[image.item.id] for image in images], reasons)


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
