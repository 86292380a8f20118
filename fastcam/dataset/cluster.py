"""A run on a Ray cluster: its rows are shards, and actors that hold the model make and commit them.

What comes back are records of commits. The records in the folder decide what is done, so that a lost node, actor or
driver costs the shards in work and nothing else. A shard on which a process died is tried again: first alone, then
image by image, until it is known on which image it dies; that image becomes a row that says so.
"""

import contextlib
import copy
import functools
import json
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from fastcam.dataset.decode import Limits, check_decoder
from fastcam.dataset.job import Job, device_of
from fastcam.dataset.runner import (
    InterruptedRunError,
    Progress,
    Report,
    Runner,
    stop_asked,
    usual_workers,
)
from fastcam.dataset.sources import Item, Source
from fastcam.dataset.store import Commit, Span, Store

_CORES = 8  # of one actor, at most, where there are no GPUs: a forward pass gains little from more
_AT_ONCE = 8  # shards an actor is given at a time, at most: it loads the next while it writes the last
_DEATHS = 2  # on one image, before it is taken for the cause
_ALONE = 2  # tries in vain, after which a shard is made image by image
_TRIES = 6  # of one shard in vain, before the run gives up

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """Where a run is scaled out to.

    Every node must see the folder for the maps, and the images, under the same path, and have fastcam and the model's
    code installed. A node with GPUs gets an actor for each; without any GPU in the cluster, one for every few cores.

    Attributes:
        address: of a Ray cluster, host:port; "auto" takes the one that runs here, or starts one of this machine alone.
        cores: processor cores of an actor; None takes 8, or as many as the smallest node has.
    """

    address: str = "auto"
    cores: int | None = None

    def __post_init__(self) -> None:
        if self.address.startswith("ray://"):
            raise ValueError(f"`address` must be host:port of the cluster, not of a Ray client, got {self.address!r}")
        if self.cores is not None and self.cores < 1:
            raise ValueError(f"`cores` must be a positive whole number, got {self.cores!r}")

    @classmethod
    def of(cls, cluster: "Cluster | str") -> "Cluster":
        """The cluster, or the one at the address."""
        return cluster if isinstance(cluster, Cluster) else cls(cluster)

    def run(self, job: Job, store: Store, report: Report) -> Progress:
        """Makes the shards that are not committed.

        Raises:
            InterruptedRunError: after SIGINT or SIGTERM.
            OSError: where a node cannot write a shard, or does not see the folder or the images.
            ValueError: where there is no such cluster, or Ray is not installed.
            RuntimeError: with what a node said, or where a shard failed again and again.
        """
        model = job.classifier.model
        job = replace(job, folder=job.folder.absolute())  # the nodes' working folders are others
        if device_of(model).type != "cpu":
            job = job.with_model(copy.deepcopy(model).cpu())  # the driver's device may be none of a node's
        with self._connected() as ray, _stop_raised():
            return _Driver(job, store, report, *self._pool(ray)).run()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        """Ray, connected; a connection that was there stays."""
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ValueError(f'a run on Ray needs {error.name}: pip install "fastcam[ray]"') from None
        if ray.is_initialized():
            yield ray
            return
        try:
            address = None if self.address == "auto" else self.address
            if address is not None:
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself asks again for minutes
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"there is no Ray cluster at {self.address!r}: {error}") from None
        try:
            yield ray
        finally:
            ray.shutdown()

    def _pool(self, ray: Any) -> tuple[int, dict[str, Any]]:
        """How many actors there may be, and what each takes."""
        nodes = [each["Resources"] for each in ray.nodes() if each["Alive"]]
        gpus = sum(int(each.get("GPU", 0)) for each in nodes)
        if gpus:
            return gpus, {"num_gpus": 1}
        counts = [int(each["CPU"]) for each in nodes if each.get("CPU", 0) >= 1]
        cores = self.cores or min(_CORES, *counts, _CORES)
        return max(1, sum(each // cores for each in counts)), {"num_cpus": cores}


@dataclass
class _Trial:
    """A shard that is still to be made.

    Attributes:
        span: its images.
        tries: how often it was tried in vain.
        deaths: how many processes died on an image, by its position.
    """

    span: Span
    tries: int = 0
    deaths: dict[int, int] = field(default_factory=dict)

    @property
    def lethal(self) -> list[int]:
        """The images that are left out."""
        return [position for position, count in self.deaths.items() if count >= _DEATHS]

    def failed(self, store: Store) -> None:
        """Takes note of a process that died on the shard, and of the image, if that is known.

        Raises:
            RuntimeError: after too many.
        """
        self.tries += 1
        position = _Mark(store.folder, self.span).read()
        if position is not None:
            self.deaths[position] = self.deaths.get(position, 0) + 1
            if self.deaths[position] == _DEATHS:
                self.tries = _ALONE  # the cause is known: again from here
        if self.tries > _TRIES:
            raise RuntimeError(
                f"shard {self.span.name} was given up after {self.tries} tries, each of which ended with the death of "
                "a process or node; what is committed stays"
            )


@dataclass
class _Driver:
    """Hands out shards until all are committed.

    Attributes:
        job: what is to be done.
        store: the folder.
        report: called after every commit.
        actors: how many there may be.
        resources: what each takes.
    """

    job: Job
    store: Store
    report: Report
    actors: int
    resources: dict[str, Any]

    def run(self) -> Progress:
        """As :meth:`Cluster.run`."""
        import ray

        todo = {span: _Trial(span) for span in self.job.todo(self.store)}
        total = len(self.job.source)
        progress = Progress(total, total - sum(span.stop - span.start for span in todo))
        began = time.monotonic()
        try:
            sent = ray.put(self.job)
        except Exception as error:  # whatever a model's own code makes of being pickled
            raise RuntimeError(f"the model or the source cannot be sent to the nodes: {error}") from error
        while todo:
            for answer in self._answers(sent, list(todo.values())):
                commit = _committed(answer)
                trial = todo.pop(commit.span, None)
                if trial is None:
                    continue
                _Mark(self.store.folder, trial.span).clear()
                count = commit.stop - commit.start
                progress.done, progress.new = progress.done + count, progress.new + count
                progress.failed += commit.failed
                progress.seconds, progress.commit = time.monotonic() - began, commit
                self.report(progress)
            for trial in todo.values():
                _log.warning("the process or node that had shard %s in work died; it is tried again", trial.span.name)
                trial.failed(self.store)
        return progress

    def _answers(self, sent: Any, trials: list[_Trial]) -> Iterator[dict[str, Any]]:
        """What the actors say of the shards; nothing of those on which one died."""
        import ray

        orders = [{"order": json.dumps(each)} for each in self._orders(trials)]
        with _losses_allowed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the arguments that Ray Data 2.64 will not take any more
            answers = ray.data.from_items(orders, override_num_blocks=len(orders)).map_batches(
                ShardMaker,
                fn_constructor_kwargs={"sent": [sent]},  # in a list, for the job itself would travel with every order
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(
                    size=min(self.actors, len(orders)),
                    max_tasks_in_flight_per_actor=1,  # those that wait would die with the one in work
                ),
                max_restarts=-1,  # of the actor; what bounds them is how often a shard is tried
                max_task_retries=0,
                **self.resources,
            )
            try:
                for row in answers.iter_rows():
                    yield json.loads(row["answer"])
            except ray.exceptions.RayError as error:
                raise RuntimeError(f"the cluster failed: {str(error).strip().splitlines()[-1]}") from error

    def _orders(self, trials: list[_Trial]) -> Iterator[dict[str, Any]]:
        """Several shards at a time while nothing went wrong, then one by one."""
        size = max(1, min(_AT_ONCE, len(trials) // (4 * self.actors)))
        fresh = [_plain(each.span) for each in trials if not each.tries]
        for first in range(0, len(fresh), size):
            yield {"spans": fresh[first : first + size], "one_by_one": False, "lethal": []}
        for each in trials:
            if each.tries:
                yield {"spans": [_plain(each.span)], "one_by_one": each.tries >= _ALONE, "lethal": each.lethal}


def _plain(span: Span) -> list[int]:
    return [span.start, span.stop]


def _committed(answer: dict[str, Any]) -> Commit:
    """The record in an answer.

    Raises:
        OSError, RuntimeError: with what went wrong there.
    """
    if "error" in answer:
        raise (OSError if answer["is_os_error"] else RuntimeError)(f"node {answer['node']}: {answer['error']}")
    return Commit(**answer)


class ShardMaker:
    """An actor: holds the prepared model, makes shards and commits them.

    Args:
        sent: a reference to the job, in a list.
    """

    def __init__(self, sent: list[Any]) -> None:
        self.sent = sent

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        """Answers orders: a commit record for each shard, or what went wrong."""
        for text in batch["order"]:
            try:
                for commit in self._made(json.loads(str(text))):
                    yield {"answer": [json.dumps(asdict(commit))]}
            except InterruptedRunError:
                pass  # the node is going; the shards are made elsewhere
            except Exception as error:
                reason = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
                bad = {"error": reason, "is_os_error": isinstance(error, OSError), "node": socket.gethostname()}
                yield {"answer": [json.dumps(bad)]}

    def _made(self, order: dict[str, Any]) -> Iterator[Commit]:
        runner = self._runner
        todo = []
        for span in (Span(*each) for each in order["spans"]):
            if runner.store.is_done(span):  # whoever made it could not say so any more
                yield runner.store.read_commit(span)
            else:
                todo.append(span)
        if order["one_by_one"]:
            (span,) = order["spans"]
            source = _Marked(runner.source, _Mark(runner.store.folder, Span(*span)), order["lethal"])
            runner = replace(runner, source=source, batch_size=1, workers=0)
        with stop_asked() as stop:
            yield from runner.make(todo, stop)

    @functools.cached_property
    def _runner(self) -> Runner:
        """Made with the first order, since what goes wrong in a constructor takes the actor with it."""
        import ray

        job: Job = ray.get(self.sent[0])
        _check_reachable(job)
        given = ray.get_runtime_context().get_assigned_resources()
        if given.get("GPU"):
            job.classifier.model.to("cuda")
        else:
            torch.set_num_threads(int(given.get("CPU", 1)))
        workers = job.workers or min(usual_workers(), int(given.get("CPU", usual_workers())))
        return job.runner(job.engine(), job.store(), lambda progress: None, workers=workers)


def _check_reachable(job: Job) -> None:
    """Refuses a node that sees other files than the driver does: it would call every image missing.

    Raises:
        OSError: with a sentence.
        ValueError: where the decoder is not installed.
    """
    if not (job.folder / "run.json").exists():
        raise FileNotFoundError(f"{str(job.folder)!r} is not there: the folder must be one that all nodes share")
    check_decoder(job.loader.decoder)
    first = next(job.source.items(0, 1))
    try:
        first.read(job.loader.limits)
    except FileNotFoundError:
        raise FileNotFoundError(f"{first.path!r} is not there: the images must be where all nodes see them") from None
    except Exception:  # whatever else is wrong with that image is told in its row
        return


class _Mark:
    """The position of the image in work, in a file, for the time after the process died."""

    def __init__(self, folder: Path, span: Span) -> None:
        self.file = folder / "trying" / span.name

    def write(self, position: int) -> None:
        """Notes a position, in place: a file cut short would tell nothing."""
        self.file.parent.mkdir(exist_ok=True)
        descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT, 0o666)
        os.write(descriptor, b"%012d" % position)
        os.close(descriptor)

    def read(self) -> int | None:
        """The position; None where none was noted."""
        try:
            return int(self.file.read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def clear(self) -> None:
        """Forgets it."""
        self.file.unlink(missing_ok=True)


class _Marked:
    """A source that notes which image is in work, and leaves out those on which processes died."""

    def __init__(self, source: Source, mark: _Mark, lethal: Collection[int]) -> None:
        self.source, self.mark, self.lethal = source, mark, lethal

    def __len__(self) -> int:
        """As the source."""
        return len(self.source)

    def digest(self) -> str:
        """As the source."""
        return self.source.digest()

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """As the source."""
        for position, item in enumerate(self.source.items(start, stop), start):
            yield replace(item, read=functools.partial(self._read, position, item))

    def _read(self, position: int, item: Item, limits: Limits) -> Any:
        if position in self.lethal:
            raise ValueError(f"the process died on this image, {_DEATHS} times")
        self.mark.write(position)
        return item.read(limits)


@contextlib.contextmanager
def _losses_allowed() -> Iterator[None]:
    """Ray Data goes on where an actor dies, and leaves it to us to tell."""
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    wanted = {"max_errored_blocks": -1, "enable_progress_bars": False, "print_on_execution_start": False}
    before = {name: getattr(context, name) for name in wanted}
    for name, value in wanted.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


@contextlib.contextmanager
def _stop_raised() -> Iterator[None]:
    """SIGINT and SIGTERM end the run at once: what the actors have in work is dropped."""

    def end(number: int, frame: FrameType | None) -> None:
        raise InterruptedRunError("the run was stopped: what is committed stays, and the same call goes on")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
