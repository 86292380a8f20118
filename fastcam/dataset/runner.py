"""A run over a dataset, shard by shard: loading, computing and writing overlap."""

import contextlib
import functools
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import TypeAlias

from fastcam.dataset.decoding_processes import LoaderInProcesses
from fastcam.dataset.device_decoding import DeviceDecoder
from fastcam.dataset.loading import LoadedImage, Loader, load_in_order
from fastcam.dataset.read_ahead import ReadAhead
from fastcam.dataset.records import Commit, JsonObject, Span
from fastcam.dataset.shard_rows import MadeShard, ShardRows
from fastcam.dataset.signals import InterruptedRunError, raise_if_set
from fastcam.dataset.sources import Item, Source, is_remote
from fastcam.dataset.stages import Stages
from fastcam.dataset.store import Store
from fastcam.dataset.workers import Workers
from fastcam.model.cancellation import STOPPING, cancelled_by, stop_event

Report: TypeAlias = Callable[["Progress"], None]


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        total: images of the dataset.
        done: images that are committed or computed, by this run or earlier ones.
        new: images computed by this run.
        failed: images without a map, in this run; of several models, added up.
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

    def summary(self) -> JsonObject:
        """Return what the run did, how fast, what each stage could do and which one the others waited for."""
        return {
            "images": self.new,
            "failed": self.failed,
            "seconds": self.seconds,
            "images_a_second": self.rate,
            "limit": self.stages.limit,
            "images_a_second_alone": self.stages.rates,
            "stages": asdict(self.stages),
        }


@dataclass
class Making:
    """What a run makes with one model.

    Attributes:
        rows: makes the rows.
        store: folder of the results.
        input: which of the loaded tensors of an image the model sees.
    """

    rows: ShardRows
    store: Store
    input: int = 0

    def start(self) -> None:
        """Forget shards that were begun, and read in the folder whether any image was ever explained."""
        self.rows.forget()
        commits = (self.store.read_commit(span) for span in self.store.spans())
        self.rows.has_worked = self.rows.has_worked or any(commit.rows > commit.failed for commit in commits)


@dataclass
class Runner:
    """One run in this process.

    Attributes:
        source: the images.
        loader: converts an image to the models' inputs.
        makings: what is made of each image, one of them or several.
        workers: load the images.
        report: called after every batch and every commit.
        decoder: of files that the loader leaves to the models' device, if any.
    """

    source: Source
    loader: Loader
    makings: Sequence[Making]
    workers: Workers
    report: Report
    decoder: DeviceDecoder | None = None
    progress: Progress = field(init=False)
    _start: float = field(init=False, default_factory=time.monotonic)
    _is_warm: bool = field(init=False, default=False)  # whether a batch was explained by this runner

    def __post_init__(self) -> None:
        self.progress = Progress(0, stages=Stages(max(1, self.workers.count)))

    def run(self, total: int, missing: Sequence[Span]) -> Progress:
        """Make shards, and report the progress.

        Args:
            total: images of the dataset.
            missing: the shards that are not committed, in one folder at least.

        Raises:
            InterruptedRunError: after SIGINT or SIGTERM.
            OSError: for a shard that cannot be written.
            ValueError, TypeError, RuntimeError: for a model, layers or targets that do not fit together.
        """
        done = total - sum(span.stop - span.start for span in missing)
        self.progress = Progress(total, done, stages=Stages(max(1, self.workers.count)))
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
        for making in self.makings:
            making.start()
        with ThreadPoolExecutor(1, "fastcam-write") as writer, self._load(missing) as images:
            pending: deque[Future[Commit]] = deque()  # at most one for each model
            try:
                for store, shard in self._shards(images, stop):
                    if len(pending) == len(self.makings):
                        with self._stages.timed("waited_for_writing"):
                            commit = pending.popleft().result()
                        yield commit
                    pending.append(writer.submit(self._commit, store, shard))
                while pending:
                    yield pending.popleft().result()
            except InterruptedRunError:
                for each in pending:
                    each.result()  # a write error takes precedence
                raise

    def one_by_one(self, source: Source) -> "Runner":
        """Return the runner that makes the same rows of a source with a batch and no thread for each image."""
        makings = [replace(making, rows=making.rows.one_by_one()) for making in self.makings]
        return replace(self, source=source, makings=makings, workers=Workers(0))

    @property
    def store(self) -> Store:
        """The folder of a run with one model."""
        (making,) = self.makings
        return making.store

    @property
    def _stages(self) -> Stages:
        return self.progress.stages

    def _commit(self, store: Store, shard: MadeShard) -> Commit:
        with self._stages.timed("write"):
            return store.commit(shard.span, shard.rows, shard.stored)

    @contextlib.contextmanager
    def _load(self, missing: Sequence[Span]) -> Iterator[Iterator[tuple[Span, LoadedImage]]]:
        """Yield all images with their shards, loaded ahead if there are worker threads."""
        count = self.workers.count
        if not count:
            yield ((span, self._loaded(item)) for span in missing for item in self.source.items(span.start, span.stop))
            return
        window = 2 * self._batch_size + count
        with contextlib.ExitStack() as stack:
            items = self.source.items
            if is_remote(self.source):
                items = stack.enter_context(ReadAhead(self.source, missing, self.loader.limits)).items
            loader: Callable[[Item], LoadedImage] = self.loader
            if self.workers.decode_in == "processes":
                loader = stack.enter_context(LoaderInProcesses(self.loader))
            threads = stack.enter_context(ThreadPoolExecutor(count, "fastcam-decode"))
            try:
                images = load_in_order(items, iter(missing), loader, threads, window)
                yield images if self.decoder is None else self.decoder.ahead(images, self._batch_size)
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _loaded(self, item: Item) -> LoadedImage:
        """Return an image, loaded here and now."""
        image = self.loader(item)
        return image if self.decoder is None else self.decoder([image])[0]

    def _report(self, commit: Commit | None = None) -> None:
        self.progress.seconds = time.monotonic() - self._start
        self.progress.commit = commit
        self.report(self.progress)

    @property
    def _batch_size(self) -> int:
        return max(making.rows.batch_size for making in self.makings)

    def _shards(
        self, images: Iterator[tuple[Span, LoadedImage]], stop: threading.Event
    ) -> Iterator[tuple[Store, MadeShard]]:
        """Yield the rows of each shard and model, as soon as they are made."""
        loaded = itertools.groupby(self._stages.awaited(images), lambda pair: pair[0])
        for span, of_span in loaded:
            undone = [making for making in self.makings if not making.store.is_done(span)]
            wanted = undone or self.makings  # another process made it meanwhile: of the same bytes
            for making in wanted:
                making.rows.begin(span)
            for _, image in of_span:
                with cancelled_by(functools.partial(raise_if_set, stop)):  # between blocks of copies too
                    done = [making.rows.add(image.seen_by(making.input), self._stages) for making in wanted]
                self._count(done[-1])
                yield from self._made()
                raise_if_set(stop)
            self._stages.written += span.stop - span.start
        with cancelled_by(functools.partial(raise_if_set, stop)):
            done = [making.rows.end(self._stages) for making in self.makings]
        self._count(max(done, key=len))  # the last shard may be there for some models
        yield from self._made()

    def _made(self) -> Iterator[tuple[Store, MadeShard]]:
        return ((making.store, shard) for making in self.makings for shard in making.rows.made())

    def _count(self, images: Sequence[LoadedImage]) -> None:
        """Count images that are done with the last model."""
        self.progress.new += len(images)
        self.progress.done += len(images)
        self.progress.failed = sum(making.rows.failed for making in self.makings)
        explained = [image for image in images if image.tensor is not None]
        if explained and self._is_warm:
            self._stages.add(explained)
        elif explained:
            self._stages.start_again()
            self._is_warm = True
        if images:
            self._report()
