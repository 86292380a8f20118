"""Images of file systems that wait for a network: many are read at once, before they are wanted."""

import functools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import Queue
from types import TracebackType
from typing import Self, TypeAlias

from fastcam.dataset.decode import Limits
from fastcam.dataset.records import Span
from fastcam.dataset.sources import Item, Source

READERS = 32  # requests at a time
MAX_AHEAD = 128  # images
MAX_BYTES = 256 * 2**20  # that were read and are not wanted yet; what is being read comes on top

_Entry: TypeAlias = "Item | BaseException | None"  # None after the last image of a span


class ReadAhead:
    """Reads the images of spans, in order, on threads of its own; within a context.

    Args:
        source: the images.
        spans: that will be asked for, in this order.
        limits: of the images.
    """

    def __init__(self, source: Source, spans: Sequence[Span], limits: Limits) -> None:
        self.source, self.spans, self.limits = source, spans, limits
        self._queue: Queue[_Entry] = Queue(MAX_AHEAD)
        self._readers = ThreadPoolExecutor(READERS, "fastcam-read")
        self._feeder = threading.Thread(target=self._feed, name="fastcam-feed", daemon=True)
        self._room = threading.Condition()
        self._bytes = 0  # read and not wanted yet
        self._is_over = False

    def __enter__(self) -> Self:
        self._feeder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._room:
            self._is_over = True
            self._room.notify_all()
        while self._feeder.is_alive():  # it may wait for a place in the queue
            while not self._queue.empty():
                self._queue.get_nowait()
            self._feeder.join(0.01)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yield the images of the next span.

        Raises:
            Exception: that the source raised.
        """
        while (entry := self._queue.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry

    def _feed(self) -> None:
        """Fill the queue."""
        try:
            for span in self.spans:
                for item in self.source.items(span.start, span.stop):
                    with self._room:
                        self._room.wait_for(lambda: self._is_over or self._bytes < MAX_BYTES)
                        if self._is_over:
                            return
                    self._queue.put(replace(item, read=functools.partial(self._take, self._submit(item))))
                self._queue.put(None)
        except BaseException as error:  # of the source: raised where its images are wanted
            self._queue.put(error)

    def _submit(self, item: Item) -> "Future[object]":
        return self._readers.submit(self._read, item)

    def _read(self, item: Item) -> object:
        image = item.read(self.limits)
        with self._room:
            self._bytes += _size(image)
        return image

    def _take(self, future: "Future[object]", limits: Limits) -> object:
        image = future.result()
        with self._room:
            self._bytes -= _size(image)
            self._room.notify_all()
        return image


def _size(image: object) -> int:
    return len(image) if isinstance(image, bytes) else 0
