"""The Ray actor that makes and commits shards."""

import functools
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, TypedDict

import torch

from fastcam.dataset.attempts import ProgressFile, TrackedSource
from fastcam.dataset.decode import check_decoder
from fastcam.dataset.job import Job
from fastcam.dataset.records import Commit, Span
from fastcam.dataset.runner import Runner, default_workers
from fastcam.dataset.signals import InterruptedRunError
from fastcam.model.cancellation import stop_event

if TYPE_CHECKING:
    from ray import ObjectRef


class Order(TypedDict):
    """Shards for an actor to make, sent as JSON.

    Attributes:
        spans: [start, stop] of each shard.
        one_by_one: whether to make its images one by one; then there is one shard.
        lethal: positions of images to skip.
    """

    spans: list[list[int]]
    one_by_one: bool
    lethal: list[int]


class ShardMaker:
    """An actor that holds the prepared model, makes shards and commits them.

    Args:
        job_refs: a reference to the job, in a list.
    """

    def __init__(self, job_refs: "list[ObjectRef[Job]]") -> None:
        self.job_refs = job_refs

    def __call__(self, batch: Mapping[str, Sequence[object]]) -> Iterator[dict[str, list[str]]]:
        """Yield an answer, as JSON, for each shard of the orders: its commit record or the error."""
        for text in batch["order"]:
            try:
                for commit in self._make(json.loads(str(text))):
                    yield {"answer": [json.dumps(asdict(commit))]}
            except InterruptedRunError:
                pass  # the node is shutting down; other actors make the shards
            except Exception as error:
                reason = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
                answer = {"error": reason, "is_os_error": isinstance(error, OSError), "node": socket.gethostname()}
                yield {"answer": [json.dumps(answer)]}

    def _make(self, order: Order) -> Iterator[Commit]:
        runner = self._runner
        missing = []
        for span in (Span(*bounds) for bounds in order["spans"]):
            if runner.store.is_done(span):  # committed by an actor that died before it could answer
                yield runner.store.read_commit(span)
            else:
                missing.append(span)
        if order["one_by_one"]:
            (bounds,) = order["spans"]
            progress = ProgressFile(runner.store.folder, Span(*bounds))
            source = TrackedSource(runner.source, progress, order["lethal"])
            runner = replace(runner, source=source, batch_size=1, workers=0)
        with stop_event() as stop:
            yield from runner.make(missing, stop)

    @functools.cached_property
    def _runner(self) -> Runner:
        """The runner, made with the first order: an error in the constructor would kill the actor."""
        import ray

        job = ray.get(self.job_refs[0])
        check_reachable(job)
        resources = ray.get_runtime_context().get_assigned_resources()
        if resources.get("GPU"):
            job.classifier.model.to("cuda")
        else:
            torch.set_num_threads(int(resources.get("CPU", 1)))
        workers = job.workers or min(default_workers(), int(resources.get("CPU", default_workers())))
        return job.make_runner(job.make_maker(), job.open_store(), lambda progress: None, workers=workers)


def check_reachable(job: Job) -> None:
    """Refuse a node that does not see the driver's files: every image would be reported as missing.

    Raises:
        OSError: for a folder or an image that is missing on this node.
        ValueError: for a decoder that is not installed.
    """
    if not (job.folder / "run.json").exists():
        raise FileNotFoundError(f"{str(job.folder)!r} does not exist: the folder must be one that all nodes share")
    check_decoder(job.loader.decoder)
    first = next(job.source.items(0, 1))
    try:
        first.read(job.loader.limits)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{first.path!r} does not exist: the images must be under the same path on all nodes"
        ) from None
    except Exception:  # any other error of this image is reported in its row
        return
