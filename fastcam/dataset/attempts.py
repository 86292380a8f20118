"""Failed attempts at a shard, and the image in progress when a process died."""

import functools
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from fastcam.dataset.decode import Limits
from fastcam.dataset.records import Span
from fastcam.dataset.sources import Item, Source

MAX_DEATHS_PER_IMAGE = 2  # process deaths on one image before it is blamed
MAX_FAILURES_WHOLE = 2  # failures of a shard before it is made image by image
MAX_FAILURES = 6  # failures of a shard before the run gives up


@dataclass
class ShardAttempts:
    """A shard that is not committed yet, and its failures.

    Attributes:
        span: its images.
        failures: number of failed attempts.
        deaths: number of process deaths by image position.
    """

    span: Span
    failures: int = 0
    deaths: dict[int, int] = field(default_factory=dict)

    @property
    def lethal(self) -> list[int]:
        """The positions of the images to skip: those blamed for process deaths."""
        return [position for position, count in self.deaths.items() if count >= MAX_DEATHS_PER_IMAGE]

    @property
    def is_one_by_one(self) -> bool:
        """Whether the shard is to be made image by image."""
        return self.failures >= MAX_FAILURES_WHOLE

    def add_failure(self, folder: Path) -> None:
        """Count a process death on the shard, and on the image in progress if it is known.

        Args:
            folder: folder of the run.

        Raises:
            RuntimeError: after too many failures.
        """
        self.failures += 1
        position = ProgressFile(folder, self.span).read()
        if position is not None:
            self.deaths[position] = self.deaths.get(position, 0) + 1
            if self.deaths[position] == MAX_DEATHS_PER_IMAGE:
                self.failures = MAX_FAILURES_WHOLE  # the cause is known: count the failures from here again
        if self.failures > MAX_FAILURES:
            raise RuntimeError(
                f"gave up shard {self.span.name} after {self.failures} attempts, each of which ended with the death of "
                "a process or node; committed shards are kept"
            )


class ProgressFile:
    """A file with the position of the image in progress, read after the death of a process.

    Args:
        folder: folder of the run.
        span: images of the shard.
    """

    def __init__(self, folder: Path, span: Span) -> None:
        self.file = folder / "trying" / span.name

    def write(self, position: int) -> None:
        """Write a position in place: the file is never truncated, so that it always holds one."""
        self.file.parent.mkdir(exist_ok=True)
        descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT, 0o666)
        os.write(descriptor, b"%012d" % position)
        os.close(descriptor)

    def read(self) -> int | None:
        """Return the position; None if none was written."""
        try:
            return int(self.file.read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def clear(self) -> None:
        """Remove the file."""
        self.file.unlink(missing_ok=True)


class TrackedSource:
    """A source that records the image in progress, and refuses images blamed for process deaths.

    Args:
        source: the images.
        progress: file for the position of the image in progress.
        lethal: positions of the images to refuse.
    """

    def __init__(self, source: Source, progress: ProgressFile, lethal: Collection[int]) -> None:
        self.source, self.progress, self.lethal = source, progress, lethal

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source)

    def digest(self) -> str:
        """Return the digest of the source."""
        return self.source.digest()

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yield the images from position ``start`` to ``stop``."""
        for position, item in enumerate(self.source.items(start, stop), start):
            yield replace(item, read=functools.partial(self._read, position, item))

    def _read(self, position: int, item: Item, limits: Limits) -> object:
        if position in self.lethal:
            raise ValueError(f"the process died on this image, {MAX_DEATHS_PER_IMAGE} times")
        self.progress.write(position)
        return item.read(limits)
