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

from fastcam.dataset.loading import Loaded, Loader, in_order
from fastcam.dataset.sources import Source
from fastcam.dataset.store import Commit, Span, Store
from fastcam.dataset.table import Maps, rows_of
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.model.batching import is_out_of_memory
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
        workers: threads that read and decode; with 0 every image is read when it is its turn.
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
    workers: int
    report: Report
    progress: Progress = field(init=False, default_factory=lambda: Progress(0))
    _began: float = field(init=False, default_factory=time.monotonic)
    _size: tuple[int, ...] = field(init=False, default=())  # of the model's input, in the shard in work
    _worked: bool = field(init=False, default=False)  # whether any image was ever explained with these settings

    def run(self, total: int, todo: Sequence[Span]) -> Progress:
        """Makes shards, and reports.

        Args:
            total: images of the dataset.
            todo: the shards that are not committed.

        Raises:
            InterruptedRunError: after SIGINT or SIGTERM.
            OSError: where a shard cannot be written.
            ValueError, TypeError, RuntimeError: where the model, its layers or the targets do not go together.
        """
        self.progress = Progress(total, total - sum(each.stop - each.start for each in todo))
        with stop_asked() as stop:
            for commit in self.make(todo, stop):
                self._tell(commit)
        return self.progress

    def make(self, todo: Sequence[Span], stop: threading.Event) -> Iterator[Commit]:
        """Makes shards: reads, computes and writes at the same time; yields the record of each as it is committed.

        Raises:
            InterruptedRunError: where the event is set.
            OSError, ValueError, TypeError, RuntimeError: as :meth:`run`.
        """
        records = (self.store.read_commit(each) for each in self.store.spans())
        self._worked = self._worked or any(each.rows > each.failed for each in records)
        with ThreadPoolExecutor(1, "fastcam-write") as writer, self._streams(todo) as streams:
            pending: Future[Commit] | None = None
            try:
                for span, images in streams:
                    rows = self._rows(images, stop)
                    if pending is not None:
                        yield pending.result()
                    pending = writer.submit(self.store.commit, span, rows, self._recipe)
                if pending is not None:
                    yield pending.result()
            except InterruptedRunError:
                if pending is not None:
                    pending.result()  # a shard that cannot be written is worse news
                raise

    @contextlib.contextmanager
    def _streams(self, todo: Sequence[Span]) -> Iterator[Iterator[tuple[Span, Iterator[Loaded]]]]:
        """The images of every shard, loaded ahead where there are threads for it."""
        if not self.workers:
            yield ((span, map(self.loader, self.source.items(span.start, span.stop))) for span in todo)
            return
        window = 2 * self.batch_size + self.workers
        with ThreadPoolExecutor(self.workers, "fastcam-decode") as threads:
            try:
                yield in_order(self.source, iter(todo), self.loader, threads, window)
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

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
def stop_asked() -> Iterator[threading.Event]:
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
