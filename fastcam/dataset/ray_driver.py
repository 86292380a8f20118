"""The driver of a run on a Ray cluster."""

import contextlib
import functools
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from fastcam.dataset.actor import ShardMaker
from fastcam.dataset.driver import Driver
from fastcam.dataset.job import Job
from fastcam.dataset.orders import Order
from fastcam.dataset.records import JsonObject

if TYPE_CHECKING:
    from ray import ObjectRef


class ActorResources(TypedDict, total=False):
    """Ray resources of one actor."""

    num_cpus: int
    num_gpus: float


@dataclass
class RayDriver(Driver):
    """The driver of one run on the nodes of a Ray cluster; a process is an actor.

    Attributes:
        resources: Ray resources of each actor.
    """

    resources: ActorResources = field(default_factory=lambda: ActorResources(num_cpus=1))

    @functools.cached_property
    def _job_ref(self) -> "ObjectRef[Job]":
        import ray

        try:
            return ray.put(self.sent_job)
        except Exception as error:  # pickling runs the model's own code
            raise RuntimeError(f"the model or the source cannot be sent to the nodes: {error}") from error

    def answers(self, orders: list[Order]) -> Iterator[JsonObject]:
        """Yield the actors' answers; there are none for the shards of actors that died."""
        import ray

        rows = [{"order": json.dumps(order)} for order in orders]
        job_ref = self._job_ref
        with _tolerate_lost_blocks(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray Data 2.64 deprecates some of these arguments
            answers = ray.data.from_items(rows, override_num_blocks=len(orders)).map_batches(
                ShardMaker,
                fn_constructor_kwargs={"job_refs": [job_ref]},  # in a list: Ray would resolve a bare reference
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(
                    size=min(self.processes, len(orders)),
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
