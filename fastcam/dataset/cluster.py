"""Runs on a Ray cluster: each row of the Ray dataset is a shard, made and committed by an actor that holds the model.

Actors return only commit records. The records in the folder decide which shards are done, so that a lost node, actor
or driver costs only the shards in progress. A shard on which a process died is retried, first alone, then image by
image until the image in progress at each death is known; that image becomes a row with an error status.
"""

import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType

from fastcam.artefacts import on_cpu
from fastcam.dataset.job import Job, device_of
from fastcam.dataset.ray_driver import ActorResources, RayDriver
from fastcam.dataset.runner import Progress, Report
from fastcam.dataset.signals import interrupt_on_signal
from fastcam.dataset.store import Store

MAX_CORES_PER_ACTOR = 8  # without GPUs, by default: a forward pass gains little from more
CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster to run on.

    Every node must see the folder for the maps, and the images, under the same path, and have fastcam and the model's
    code installed. There is one actor per GPU, or several that share it; in a cluster without GPUs, one per ``cores``
    CPU cores.

    Attributes:
        address: host:port of a Ray cluster; "auto" connects to the cluster on this machine, or starts a local one.
        cores: CPU cores per actor; None takes 8, or as many as the smallest node has.
        gpus: GPUs per actor: a share such as 0.5 for several actors on each, 0 for actors on processors alone; None
            takes one where there are any.
    """

    address: str = "auto"
    cores: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.address.startswith("ray://"):
            raise ValueError(f"`address` must be host:port of the cluster, not of a Ray client, got {self.address!r}")
        if self.cores is not None and self.cores < 1:
            raise ValueError(f"`cores` must be a positive whole number, got {self.cores!r}")
        if self.gpus is not None and not 0 <= self.gpus <= 1:
            raise ValueError(f"`gpus` must be a share from 0 to 1 of one GPU for each actor, got {self.gpus!r}")

    @classmethod
    def of(cls, cluster: "Cluster | str") -> "Cluster":
        """Return the cluster, or the cluster at an address."""
        return cluster if isinstance(cluster, Cluster) else cls(cluster)

    def run(self, job: Job, store: Store, report: Report) -> Progress:
        """Make the shards that are not committed.

        Raises:
            InterruptedRunError: after SIGINT or SIGTERM.
            OSError: if a node cannot write a shard, or does not see the folder or the images.
            ValueError: if there is no such cluster, or Ray is not installed.
            RuntimeError: for an error on a node, or a shard that failed too often.
        """
        model = job.classifier.model
        job = replace(job, folder=job.folder.absolute())  # nodes have other working directories
        if device_of(model).type != "cpu":
            job = job.with_model(on_cpu(model))  # nodes may not have the driver's device
        with self._connect() as ray, interrupt_on_signal():
            return RayDriver(job, store, report, *self._plan_actors(ray)).run()

    @contextlib.contextmanager
    def _connect(self) -> Iterator[ModuleType]:
        """Yield the connected Ray module; an existing connection is used and kept."""
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
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()  # Ray itself retries for minutes
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"there is no Ray cluster at {self.address!r}: {error}") from None
        try:
            yield ray
        finally:
            ray.shutdown()

    def _plan_actors(self, ray: ModuleType) -> tuple[int, ActorResources]:
        """Return the maximum number of actors, and the Ray resources of each."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        on_nodes = [int(resources.get("GPU", 0)) for resources in nodes]
        gpus = float(any(on_nodes)) if self.gpus is None else self.gpus
        if gpus:
            if not any(on_nodes):
                raise ValueError(f"`gpus` is {gpus:g} for each actor, but no node of the cluster has a GPU")
            return sum(on_nodes) * int(1 / gpus + 1e-9), {"num_gpus": gpus}  # an actor is on one GPU
        counts = [int(resources["CPU"]) for resources in nodes if resources.get("CPU", 0) >= 1]
        cores = self.cores or min(MAX_CORES_PER_ACTOR, *counts, MAX_CORES_PER_ACTOR)
        return max(1, sum(count // cores for count in counts)), {"num_cpus": cores}
