"""Runs on several devices of this machine: a process for each makes and commits shards, until none is missing."""

import contextlib
import functools
import multiprocessing
import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Literal, TypeAlias

import torch

from fastcam.artefacts import on_cpu
from fastcam.dataset.driver import Driver
from fastcam.dataset.job import Job, device_of
from fastcam.dataset.orders import Order, answers_of
from fastcam.dataset.records import JsonObject
from fastcam.dataset.runner import Progress, Report, Runner
from fastcam.dataset.signals import interrupt_on_signal
from fastcam.dataset.store import Store
from fastcam.dataset.workers import usable_cores
from fastcam.devices import unusable

END_SECONDS = 30  # that a process may take to drop the shard in work


@dataclass(frozen=True)
class Devices:
    """Devices of this machine to run on, each with a process of its own.

    The processes share the cores. Programs that start such a run must be importable: their work stands below
    ``if __name__ == "__main__":``.

    Attributes:
        names: of the devices, "cuda:0"; the same one twice has two processes.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, devices: "OnDevices") -> "Devices":
        """Return devices by their names; whole numbers are GPUs, and "all" is every GPU there is.

        Raises:
            ValueError: for a device that is not there.
        """
        if isinstance(devices, Devices):
            return devices
        if devices == "all":
            devices = range(torch.cuda.device_count())
            if not devices:
                raise ValueError('`devices` "all" is every GPU, and there is none')
        if isinstance(devices, str) or not isinstance(devices, Sequence) or not devices:
            raise ValueError(f'`devices` must be a list of devices, or "all" for every GPU, got {devices!r}')
        names = tuple(str(f"cuda:{each}" if isinstance(each, int) else each) for each in devices)
        for name in names:
            try:
                torch.zeros(1, device=name)
            except (RuntimeError, AssertionError) as error:
                raise ValueError(unusable(name, error)) from None
        return cls(names)

    def run(self, job: Job, store: Store, report: Report) -> Progress:
        """Make the shards that are not committed.

        Raises:
            InterruptedRunError: after SIGINT or SIGTERM.
            OSError: for a shard that cannot be written.
            ValueError, RuntimeError: for an error of a process, or a shard that failed too often.
        """
        if device_of(job.classifier.model).type != "cpu":
            job = job.with_model(on_cpu(job.classifier.model))
        job = replace(job, folder=job.folder.absolute())
        with interrupt_on_signal():
            return LocalDriver(job, store, report, len(self.names), self.names).run()


OnDevices: TypeAlias = Devices | Sequence[str | int | torch.device] | Literal["all"]


@dataclass
class LocalDriver(Driver):
    """The driver of one run on devices of this machine.

    Attributes:
        names: of the devices, one for each process.
    """

    names: Sequence[str] = field(default_factory=list)

    @functools.cached_property
    def _sent(self) -> bytes:
        try:
            return pickle.dumps(self.sent_job)
        except Exception as error:  # pickling runs the model's own code
            raise ValueError(f"the model or the source cannot be sent to other processes: {error}") from error

    def answers(self, orders: list[Order]) -> Iterator[JsonObject]:
        """Yield the processes' answers; there are none for the shards of processes that died."""
        waiting = deque(orders)
        processes: list[_Process] = []
        working: dict[Connection, _Process] = {}

        def start(device: str) -> None:
            process = _Process.start(self._sent, device, len(self.names))
            processes.append(process)
            working[process.connection] = process
            process.send(waiting)

        try:
            for name in self.names[: len(orders)]:
                start(name)
            while working:
                for connection in wait(list(working)):
                    assert isinstance(connection, Connection)
                    process = working[connection]
                    try:
                        answer = connection.recv()
                    except (EOFError, OSError):  # it died, and another one takes its place
                        del working[connection]
                        if waiting:
                            start(process.device)
                        continue
                    if answer is not None:
                        yield answer
                    elif not process.send(waiting):
                        del working[connection]
        finally:
            for process in processes:
                process.stop()
            for process in processes:
                process.end()


@dataclass(frozen=True)
class _Process:
    """A process that makes shards.

    Attributes:
        device: that it uses.
        process: itself.
        connection: to it.
    """

    device: str
    process: SpawnProcess
    connection: Connection

    @classmethod
    def start(cls, sent: bytes, device: str, processes: int) -> "_Process":
        """Start one of so many processes."""
        cores = max(1, usable_cores() // processes)
        context = multiprocessing.get_context("spawn")  # a forked process could not use a GPU
        here, there = context.Pipe()
        process = context.Process(
            target=_work, args=(sent, device, cores, there), name=f"fastcam {device}", daemon=True
        )
        process.start()
        there.close()
        return cls(device, process, here)

    def send(self, waiting: deque[Order]) -> bool:
        """Send the next order; whether there was one. One that is lost with the process is answered by nobody."""
        if not waiting:
            return False
        with contextlib.suppress(OSError):
            self.connection.send(waiting.popleft())
        return True

    def stop(self) -> None:
        """Ask the process to drop the shard in work, and to end."""
        self.connection.close()
        self.process.terminate()

    def end(self) -> None:
        """Wait until the process has ended."""
        self.process.join(END_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(sent: bytes, device: str, cores: int, connection: Connection) -> None:
    """Answer orders until the driver hangs up: each shard with its record, and None after an order."""
    torch.set_num_threads(cores)

    @functools.cache
    def runner() -> Runner:
        job: Job = pickle.loads(sent)  # of the driver, of this machine and user
        job.classifier.model.to(device)
        return job.make_runner(job.make_maker(), job.open_store(), lambda progress: None, cores)

    with contextlib.suppress(EOFError, OSError):  # the driver is gone
        while True:
            for answer in answers_of(connection.recv(), runner, f"device {device}"):
                connection.send(answer)
            connection.send(None)
