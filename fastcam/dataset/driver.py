"""The driver of a run on a Ray cluster: it sends orders to actors until all shards are committed."""

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from fastcam.dataset.actor import Order, ShardMaker
from fastcam.dataset.attempts import ProgressFile, ShardAttempts
from fastcam.dataset.job import Job
from fastcam.dataset.records import Commit, JsonObject
from fastcam.dataset.runner import Progress, Report
from fastcam.dataset.store import Store

if TYPE_CHECKING:
    from ray import ObjectRef

MAX_SHARDS_PER_ORDER = 8  # an actor loads the next shard of an order while it writes the last
MIN_ORDERS_PER_ACTOR = 4  # for an even load, where there are enough shards

_log = logging.getLogger(__name__)


class ActorResources(TypedDict, total=False):
    """Ray resources of one actor."""

    num_cpus: int
    num_gpus: int


@dataclass
class Driver:
    """The driver of one run.

    Attributes:
        job: the run.
        store: its folder.
        report: called after every commit.
        actors: maximum number of actors.
        resources: Ray resources of each actor.
    """

    job: Job
    store: Store
    report: Report
    actors: int
    resources: ActorResources

    def run(self) -> Progress:
        """Make the missing shards, as :meth:`Cluster.run` does."""
        import ray

        missing = {span: ShardAttempts(span) for span in self.job.missing_spans(self.store)}
        total = len(self.job.source)
        progress = Progress(total, total - sum(span.stop - span.start for span in missing))
        start = time.monotonic()
        try:
            job_ref = ray.put(self.job)
        except Exception as error:  # pickling runs the model's own code
            raise RuntimeError(f"the model or the source cannot be sent to the nodes: {error}") from error
        while missing:
            for answer in self._answers(job_ref, list(missing.values())):
                commit = _parse_answer(answer)
                attempts = missing.pop(commit.span, None)
                if attempts is None:
                    continue
                ProgressFile(self.store.folder, attempts.span).clear()
                count = commit.stop - commit.start
                progress.done, progress.new = progress.done + count, progress.new + count
                progress.failed += commit.failed
                progress.seconds, progress.commit = time.monotonic() - start, commit
                self.report(progress)
            for attempts in missing.values():
                _log.warning("the process or node that was making shard %s died; retrying", attempts.span.name)
                attempts.add_failure(self.store.folder)
        return progress

    def _answers(self, job_ref: "ObjectRef[Job]", shards: list[ShardAttempts]) -> Iterator[JsonObject]:
        """Yield the actors' answers; there are none for the shards of actors that died."""
        import ray

        orders = [{"order": json.dumps(order)} for order in self._orders(shards)]
        with _tolerate_lost_blocks(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray Data 2.64 deprecates some of these arguments
            answers = ray.data.from_items(orders, override_num_blocks=len(orders)).map_batches(
                ShardMaker,
                fn_constructor_kwargs={"job_refs": [job_ref]},  # in a list: Ray would resolve a bare reference
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(
                    size=min(self.actors, len(orders)),
                    max_tasks_in_flight_per_actor=1,  # waiting tasks would die with the running one
                ),
                max_restarts=-1,  # of the actor; the attempts per shard are limited instead
                max_task_retries=0,
                **self.resources,
            )
            try:
                for row in answers.iter_rows():
                    yield json.loads(row["answer"])
            except ray.exceptions.RayError as error:
                raise RuntimeError(f"the cluster failed: {str(error).strip().splitlines()[-1]}") from error

    def _orders(self, shards: list[ShardAttempts]) -> Iterator[Order]:
        """Yield orders of several shards each, then one order for each shard that failed before."""
        size = max(1, min(MAX_SHARDS_PER_ORDER, len(shards) // (MIN_ORDERS_PER_ACTOR * self.actors)))
        bounds = [[shard.span.start, shard.span.stop] for shard in shards if not shard.failures]
        for first in range(0, len(bounds), size):
            yield {"spans": bounds[first : first + size], "one_by_one": False, "lethal": []}
        for shard in shards:
            if shard.failures:
                span = [shard.span.start, shard.span.stop]
                yield {"spans": [span], "one_by_one": shard.is_one_by_one, "lethal": shard.lethal}


def _parse_answer(answer: JsonObject) -> Commit:
    """Return the commit record of an answer.

    Raises:
        OSError, RuntimeError: with the error of the node.
    """
    if "error" in answer:
        raise (OSError if answer["is_os_error"] else RuntimeError)(f"node {answer['node']}: {answer['error']}")
    return Commit(**answer)


@contextlib.contextmanager
def _tolerate_lost_blocks() -> Iterator[None]:
    """Let Ray Data continue when an actor dies, without logs and progress bars of its own."""
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    changes = {"max_errored_blocks": -1, "enable_progress_bars": False, "print_on_execution_start": False}
    previous = {name: getattr(context, name) for name in changes}
    for name, value in changes.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in previous.items():
            setattr(context, name, value)
