"""A run over a dataset: shard by shard, reading, computing and writing at the same time."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from fastcam.batching import is_out_of_memory
from fastcam.dataset.loading import Loaded, Loader, in_order
from fastcam.dataset.sources import Source
from fastcam.dataset.store import Commit, Span, Store
from fastcam.dataset.table import Maps, rows_of
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.targets import Target

Report = Callable[["Progress"], None]


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        total: images of the dataset.
        done: images that are in committed shards or computed; those of earlier runs among them.
        new: images computed by this run.
        failed: images without a map, in this run.
        seconds: since this run began.
        commit: the shard that was just committed, if that is the news.
    """

    total: int
    done: int = 0
    new: int = 0
    failed: int = 0
    seconds: float = 0.0
    commit: Commit | None = None

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.new / self.seconds if self.seconds else 0.0


class InterruptedRunError(Exception):
    """The run was asked to stop; what is committed stays, the shard in work was dropped."""


@dataclass
class Runner:
    """One run.

    Attributes:
        source: the images.
        loader: from an image to the model's input.
        explainer: the model and the methods, a list of them.
        target: what to explain of every image.
        maps: how maps are kept.
        store: where to.
        device: of the model.
        batch_size: images at a time; halved where memory runs out.
        shard_size: images per shard.
        workers: threads that read and decode.
        report: called after every batch and every commit.
    """

    source: Source
    loader: Loader
    explainer: Explainer
    target: Target
    maps: Maps
    store: Store
    device: torch.device
    batch_size: int
    shard_size: int
    workers: int
    report: Report
    progress: Progress = field(init=False)
    _size: tuple[int, ...] = field(init=False, default=())  # of the model's input, in the shard in work
    _worked: bool = field(init=False, default=False)  # whether any image was ever explained with these settings

    def run(self) -> Progress:
        """Makes every shard that is not committed.

        Raises:
            InterruptedRunError: after SIGINT or SIGTERM.
            OSError: where a shard cannot be written.
            ValueError, TypeError, RuntimeError: where the model, its layers or the targets do not go together.
        """
        self.progress = Progress(len(self.source))
        self._began = time.monotonic()
        spans = self._spans()
        todo = [each for each in spans if not self._is_done(each)]
        self.progress.done = len(self.source) - sum(each.stop - each.start for each in todo)
        self._worked = any(each.rows > each.failed for each in self.store.committed())
        window = 2 * self.batch_size + self.workers
        with (
            _stop_asked() as stop,
            ThreadPoolExecutor(self.workers, "fastcam-decode") as threads,
            ThreadPoolExecutor(1, "fastcam-write") as writer,
        ):
            try:
                pending: Future[Commit] | None = None
                for span, images in in_order(self.source, iter(todo), self.loader, threads, window):
                    rows = self._rows(images, stop)
                    self._committed(pending)
                    pending = writer.submit(self.store.commit, span, rows, self._recipe)
                self._committed(pending)
            except InterruptedRunError:
                if pending is not None:
                    pending.result()  # a shard that cannot be written is worse news
                raise
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
        return self.progress

    def _spans(self) -> list[Span]:
        count = len(self.source)
        return [Span(start, min(start + self.shard_size, count)) for start in range(0, count, self.shard_size)]

    def _is_done(self, span: Span) -> bool:
        """Whether a span is committed; one that was, and is damaged, is set aside."""
        if not self.store.is_committed(span):
            return False
        if self.store.is_intact(span):
            return True
        self.store.give_up(span)
        return False

    def _committed(self, pending: Future[Commit] | None) -> None:
        if pending is not None:
            self._tell(pending.result())

    def _tell(self, commit: Commit | None = None) -> None:
        self.progress.seconds = time.monotonic() - self._began
        self.progress.commit = commit
        self.report(self.progress)

    def _rows(self, images: Iterator[Loaded], stop: threading.Event) -> list[dict[str, Any]]:
        """The rows of a shard, in the order of its images."""
        found: dict[str, list[dict[str, Any]]] = {}
        batch: list[Loaded] = []
        self._size = ()
        for image in images:
            found[image.item.id] = [_failed(image, image.reason)]  # until there is better
            batch += [] if image.tensor is None else [image]
            if len(batch) >= self.batch_size:
                found |= self._explained(batch)
                self._count(batch)
                batch = []
            if image.tensor is None:
                self._count([image])
            if stop.is_set():
                raise InterruptedRunError("the run was stopped: what is committed stays, and the same call goes on")
        found |= self._explained(batch)
        self._count(batch)
        return [row for rows in found.values() for row in rows]

    def _count(self, images: Sequence[Loaded]) -> None:
        self.progress.new += len(images)
        self.progress.done += len(images)
        self.progress.failed += sum(each.tensor is None for each in images)
        self._tell()

    def _explained(self, batch: Sequence[Loaded]) -> dict[str, list[dict[str, Any]]]:
        """Rows by image id; an image that the model cannot take is tried alone, and told of."""
        if not batch:
            return {}
        try:
            return self._by_image(batch)
        except Exception as error:
            if is_out_of_memory(error) and len(batch) > 1:
                return self._halves(batch)
            found = self._apart(batch, error)
            if not self._worked:
                raise  # it is the settings, not the images
            return found

    def _apart(self, batch: Sequence[Loaded], error: Exception) -> dict[str, list[dict[str, Any]]]:
        """Rows by image id, every image tried alone; of a single one it is known already what happens."""
        found: dict[str, list[dict[str, Any]]] = {}
        for each in batch:
            try:
                if len(batch) == 1:
                    raise error
                found |= self._by_image([each])
            except Exception as reason:
                self.progress.failed += 1
                found[each.item.id] = [_failed(each, f"{type(reason).__name__}: {_line(reason)}")]
        return found

    def _halves(self, batch: Sequence[Loaded]) -> dict[str, list[dict[str, Any]]]:
        half = len(batch) // 2
        self.batch_size = max(1, min(self.batch_size, half))
        return self._explained(batch[:half]) | self._explained(batch[half:])

    def _by_image(self, batch: Sequence[Loaded]) -> dict[str, list[dict[str, Any]]]:
        tensors = [each.tensor for each in batch if each.tensor is not None]
        images = torch.stack(tensors).to(self.device, non_blocking=True)
        explanations: dict[Any, Explanation] = self.explainer(images, self.target)
        parts = [rows_of(each, self.maps) for each in explanations.values()]
        self._size, self._worked = tuple(images.shape[2:]), True
        return {
            each.item.id: [{**_facts(each), **row} for part in parts for row in part[index]]
            for index, each in enumerate(batch)
        }

    @property
    def _recipe(self) -> dict[str, Any]:
        """What a reader needs to make full-size maps of the rows."""
        return {"size": list(self._size), "interpolation": "linear, corners not aligned", "normalization": "min-max"}


def _facts(image: Loaded) -> dict[str, Any]:
    return {"image_id": image.item.id, "path": image.item.path, "sha256": image.sha256, "label": image.label}


def _failed(image: Loaded, reason: str) -> dict[str, Any]:
    return {**_facts(image), "status": reason}


def _line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]


@contextlib.contextmanager
def _stop_asked() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one ends the process as ever."""
    event = threading.Event()
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        event.set()
        restore()

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        restore()


def usual_workers() -> int:
    """Threads that read and decode, where the user does not say: one per processor core, eight at most."""
    return min(8, len(os.sched_getaffinity(0)))
