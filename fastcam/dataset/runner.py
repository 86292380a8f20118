"""A run over a dataset, shard by shard: loading, computing and writing overlap."""

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import pyarrow as pa
import torch

from fastcam.dataset.loading import LoadedImage, Loader, load_in_order
from fastcam.dataset.read_ahead import ReadAhead
from fastcam.dataset.records import Commit, Span
from fastcam.dataset.signals import InterruptedRunError, raise_if_set
from fastcam.dataset.sources import Source, is_remote
from fastcam.dataset.stages import Stages
from fastcam.dataset.store import Store
from fastcam.dataset.work import Maker
from fastcam.model.batching import is_out_of_memory
from fastcam.model.cancellation import STOPPING, cancelled_by, stop_event

MAX_DEFAULT_WORKERS = 8

Report: TypeAlias = Callable[["Progress"], None]


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        total: images of the dataset.
        done: images that are committed or computed, by this run or earlier ones.
        new: images computed by this run.
        failed: images without a map, in this run.
        seconds: since this run began.
        commit: the shard that was just committed, if this is the report of a commit.
        stages: where the time went, of all processes.
    """

    total: int
    done: int = 0
    new: int = 0
    failed: int = 0
    seconds: float = 0.0
    commit: Commit | None = None
    stages: Stages = field(default_factory=Stages)

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.new / self.seconds if self.seconds else 0.0


@dataclass
class Runner:
    """One run in this process.

    Attributes:
        source: the images.
        loader: converts an image to the model's input.
        maker: makes the rows of the images.
        store: folder of the run.
        device: of the model.
        batch_size: images per batch; halved when memory runs out.
        workers: threads that read and decode; 0 reads images without threads, one at a time.
        report: called after every batch and every commit.
    """

    source: Source
    loader: Loader
    maker: Maker
    store: Store
    device: torch.device
    batch_size: int
    workers: int
    report: Report
    progress: Progress = field(init=False)
    _start: float = field(init=False, default_factory=time.monotonic)
    _numbers: dict[str, int] = field(init=False, default_factory=dict)  # of the images by id, in the current shard
    _is_warm: bool = field(init=False, default=False)  # whether a batch was explained by this runner
    _has_worked: bool = field(init=False, default=False)  # whether any image was ever explained with these settings

    def __post_init__(self) -> None:
        self.progress = Progress(0, stages=Stages(max(1, self.workers)))

    def run(self, total: int, missing: Sequence[Span]) -> Progress:
        """Make shards, and report the progress.

        Args:
            total: images of the dataset.
            missing: the shards that are not committed.

        Raises:
            InterruptedRunError: after SIGINT or SIGTERM.
            OSError: for a shard that cannot be written.
            ValueError, TypeError, RuntimeError: for a model, layers or targets that do not fit together.
        """
        done = total - sum(span.stop - span.start for span in missing)
        self.progress = Progress(total, done, stages=Stages(max(1, self.workers)))
        with stop_event(STOPPING) as stop:
            for commit in self.make(missing, stop):
                self._report(commit)
        return self.progress

    def make(self, missing: Sequence[Span], stop: threading.Event) -> Iterator[Commit]:
        """Make shards; yield the record of each when it is committed.

        Raises:
            InterruptedRunError: if the event is set.
            OSError, ValueError, TypeError, RuntimeError: as :meth:`run`.
        """
        commits = (self.store.read_commit(span) for span in self.store.spans())
        self._has_worked = self._has_worked or any(commit.rows > commit.failed for commit in commits)
        with ThreadPoolExecutor(1, "fastcam-write") as writer, self._load(missing) as shards:
            pending: Future[Commit] | None = None
            try:
                for span, images in shards:
                    with cancelled_by(functools.partial(raise_if_set, stop)):  # between blocks of copies too
                        rows, stored = self._make_rows(images, stop)
                    if pending is not None:
                        with self._stages.timed("waited_for_writing"):
                            commit = pending.result()
                        yield commit
                    pending = writer.submit(self._commit, span, rows, stored)
                if pending is not None:
                    yield pending.result()
            except InterruptedRunError:
                if pending is not None:
                    pending.result()  # a write error takes precedence
                raise

    @property
    def _stages(self) -> Stages:
        return self.progress.stages

    def _commit(self, span: Span, rows: Sequence[pa.Table], stored: Mapping[str, object]) -> Commit:
        with self._stages.timed("write"):
            commit = self.store.commit(span, rows, stored)
        self._stages.written += span.stop - span.start
        return commit

    @contextlib.contextmanager
    def _load(self, missing: Sequence[Span]) -> Iterator[Iterator[tuple[Span, Iterator[LoadedImage]]]]:
        """Yield the images of every shard, loaded ahead if there are worker threads."""
        if not self.workers:
            yield ((span, map(self.loader, self.source.items(span.start, span.stop))) for span in missing)
            return
        window = 2 * self.batch_size + self.workers
        with contextlib.ExitStack() as stack:
            items = self.source.items
            if is_remote(self.source):
                items = stack.enter_context(ReadAhead(self.source, missing, self.loader.limits)).items
            threads = stack.enter_context(ThreadPoolExecutor(self.workers, "fastcam-decode"))
            try:
                yield load_in_order(items, iter(missing), self.loader, threads, window)
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _report(self, commit: Commit | None = None) -> None:
        self.progress.seconds = time.monotonic() - self._start
        self.progress.commit = commit
        self.report(self.progress)

    def _make_rows(
        self, images: Iterator[LoadedImage], stop: threading.Event
    ) -> tuple[list[pa.Table], Mapping[str, object]]:
        """Return the rows of a shard, and what is stored with it."""
        tables: list[pa.Table] = []
        batch: list[LoadedImage] = []
        self._numbers = {}
        self.maker.begin()
        for image in self._stages.awaited(images):
            self._numbers[image.item.id] = len(self._numbers)
            if image.tensor is None:
                tables.append(self._failures([image], [image.reason]))
                self._count([image])
            else:
                batch.append(image)
            if len(batch) >= self.batch_size:
                tables += self._explain(batch)
                self._count(batch)
                batch = []
            raise_if_set(stop)
        tables += self._explain(batch)
        self._count(batch)
        rows, stored = self.maker.finish()
        return [*tables, *rows], stored

    def _failures(self, images: Sequence[LoadedImage], reasons: Sequence[str]) -> pa.Table:
        return self.maker.of_failures(images, [self._numbers[image.item.id] for image in images], reasons)

    def _count(self, images: Sequence[LoadedImage]) -> None:
        self.progress.new += len(images)
        self.progress.done += len(images)
        self.progress.failed += sum(image.tensor is None for image in images)
        explained = [image for image in images if image.tensor is not None]
        if explained and self._is_warm:
            self._stages.add(explained)
        elif explained:
            self._stages.start_again()
            self._is_warm = True
        self._report()

    def _explain(self, batch: Sequence[LoadedImage]) -> list[pa.Table]:
        """Return the rows of images; after an error they are explained one by one."""
        if not batch:
            return []
        try:
            with self._stages.timed("explain"):
                return [self._explain_batch(batch)]
        except InterruptedRunError:
            raise
        except Exception as error:
            if is_out_of_memory(error) and len(batch) > 1:
                return self._explain_halves(batch)
            tables = self._explain_one_by_one(batch, error)
            if not self._has_worked:
                raise  # the settings are wrong, not the images
            return tables

    def _explain_one_by_one(self, batch: Sequence[LoadedImage], error: Exception) -> list[pa.Table]:
        """Return the rows of images, each explained alone; a single one is known to fail with ``error``."""
        tables = []
        for image in batch:
            try:
                if len(batch) == 1:
                    raise error
                tables.append(self._explain_batch([image]))
            except InterruptedRunError:
                raise
            except Exception as reason:
                self.progress.failed += 1
                tables.append(self._failures([image], [f"{type(reason).__name__}: {_first_line(reason)}"]))
        return tables

    def _explain_halves(self, batch: Sequence[LoadedImage]) -> list[pa.Table]:
        half = len(batch) // 2
        self.batch_size = max(1, min(self.batch_size, half))
        return self._explain(batch[:half]) + self._explain(batch[half:])

    def _explain_batch(self, batch: Sequence[LoadedImage]) -> pa.Table:
        tensors = [image.tensor for image in batch if image.tensor is not None]
        inputs = torch.stack(tensors).to(self.device, non_blocking=True)
        rows = self.maker.of_batch(inputs, batch, [self._numbers[image.item.id] for image in batch])
        self._has_worked = True
        return rows


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]


def default_workers() -> int:
    """Return the default number of threads that read and decode: one per CPU core, at most eight."""
    return min(MAX_DEFAULT_WORKERS, len(os.sched_getaffinity(0)))
