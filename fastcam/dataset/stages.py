"""Where the time of a run goes: what its stages could do, and which one the others wait for."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Literal, TypeAlias, TypeVar

from fastcam.dataset.loading import LoadedImage

Loaded = TypeVar("Loaded")
Stage: TypeAlias = Literal["read", "decode", "preprocess", "explain", "write"]
Limit: TypeAlias = Literal["loading", "explaining", "writing"]
MIN_WAIT = 0.1  # of the time, from which on explaining is said to wait for another stage

ADVICE: dict[Limit, str] = {
    "loading": "more cores or --workers, --decode-in processes, --decoder torchcodec, or scaled for large photographs",
    "explaining": "--precision bf16, --compile, a GPU, or a larger --batch-size there",
    "writing": "a faster disk, --resolution native, --dtype uint8, or a larger --shard-size",
}


@dataclass
class Stages:
    """Seconds that images spent in the stages of a run.

    Loading (reading, decoding, preprocessing) and writing go on in threads of their own while images are explained, so
    that the stages do not add up to the time of the run; where they share processor cores, each is slower than alone.

    Attributes:
        workers: threads that load, of all processes.
        images: that were explained, without those of the first batch, which takes longer.
        written: images that were committed.
        read: seconds of all threads.
        decode: seconds of all threads.
        preprocess: seconds of all threads.
        explain: seconds from batches of inputs to rows, with the copies to the device and back.
        write: seconds of the thread that encodes and commits shards.
        waited_for_loading: seconds in which no image was there to be explained.
        waited_for_writing: seconds in which the last shard had not been written yet.
        processes: that explain and write at the same time.
    """

    workers: int = 1
    images: int = 0
    written: int = 0
    read: float = 0.0
    decode: float = 0.0
    preprocess: float = 0.0
    explain: float = 0.0
    write: float = 0.0
    waited_for_loading: float = 0.0
    waited_for_writing: float = 0.0
    processes: int = 1

    @classmethod
    def together(cls, parts: "Iterable[Stages]") -> "Stages":
        """Return the sum of what processes did at the same time."""
        columns = zip(*(astuple(part) for part in parts), strict=True)
        return cls(*map(sum, columns))

    def start_again(self) -> None:
        """Forget everything."""
        vars(self).update(vars(Stages(self.workers)))

    def add(self, images: Iterable[LoadedImage]) -> None:
        """Count images that were explained."""
        for image in images:
            self.images += 1
            read, decode, preprocess = image.seconds
            self.read += read
            self.decode += decode
            self.preprocess += preprocess

    @contextlib.contextmanager
    def timed(self, name: Literal["explain", "write", "waited_for_writing"]) -> Iterator[None]:
        """Add the time of a block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - start)

    def awaited(self, loaded: Iterable[Loaded]) -> Iterator[Loaded]:
        """Yield what is loaded, and add the time until each of it is there."""
        start = time.perf_counter()
        for image in loaded:
            self.waited_for_loading += time.perf_counter() - start
            yield image
            start = time.perf_counter()
        self.waited_for_loading += time.perf_counter() - start

    @property
    def rates(self) -> dict[Stage, float]:
        """Images a second that each stage could do if it were the only one; without stages that took no time."""
        seconds: dict[Stage, tuple[int, float]] = {
            "read": (self.images, self.read / self.workers),
            "decode": (self.images, self.decode / self.workers),
            "preprocess": (self.images, self.preprocess / self.workers),
            "explain": (self.images, self.explain / self.processes),
            "write": (self.written, self.write / self.processes),
        }
        return {name: images / taken for name, (images, taken) in seconds.items() if images and taken}

    @property
    def limit(self) -> Limit | None:
        """The stage that the others wait for; None before a second batch was explained."""
        if not self.images:
            return None
        whole = self.explain + self.waited_for_loading + self.waited_for_writing
        if max(self.waited_for_loading, self.waited_for_writing) < MIN_WAIT * whole:
            return "explaining"
        return "loading" if self.waited_for_loading >= self.waited_for_writing else "writing"
