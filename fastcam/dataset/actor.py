"""The Ray actor that makes and commits shards."""

import functools
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from fastcam.dataset.decode import check_decoder
from fastcam.dataset.job import Job
from fastcam.dataset.orders import answers_of
from fastcam.dataset.runner import Runner
from fastcam.dataset.workers import usable_cores

if TYPE_CHECKING:
    from ray import ObjectRef


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
            for answer in answers_of(json.loads(str(text)), lambda: self._runner, f"node {socket.gethostname()}"):
                yield {"answer": [json.dumps(answer)]}

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
        cores = max(1, int(resources.get("CPU", usable_cores())))
        return job.make_runner(job.make_maker(), job.open_store(), lambda progress: None, cores)


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
