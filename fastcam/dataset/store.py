"""A folder of maps: immutable Parquet shards, and a record of each that was committed.

``run.json`` says what the maps are of; ``shards/`` holds the Parquet files; ``commits/`` one JSON file per shard with
its size and SHA-256. A shard counts once its commit record is there. After :meth:`Store.commit` returns it survives a
killed process, and a power failure on a file system that honours fsync.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fastcam.dataset.durable_files import is_ours_alone, set_aside, shared_lock, sweep, sync_folder, write_once
from fastcam.dataset.table import read_shard, shard_bytes


@dataclass(frozen=True, order=True)
class Span:
    """The images of a shard: positions in the source."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        """The shard's name, without a suffix."""
        return f"part-{self.start:09d}-{self.stop:09d}"


@dataclass(frozen=True)
class Commit:
    """The record of a shard.

    Attributes:
        start: position of the first image in the source.
        stop: position behind the last.
        rows: number of rows.
        failed: number of images without a map.
        bytes: of the Parquet file.
        sha256: of the Parquet file.
        run: digest of the run's identity.
    """

    start: int
    stop: int
    rows: int
    failed: int
    bytes: int
    sha256: str
    run: str

    @property
    def span(self) -> Span:
        """The images."""
        return Span(self.start, self.stop)


class DamagedError(ValueError):
    """A shard or its record is not what was committed; the message says which and how."""


class Store:
    """The folder of one run.

    Args:
        folder: where it lies.
        identity: what the maps are of, JSON; None takes what the folder says.

    Raises:
        ValueError: where the folder holds the maps of another run, or none and no identity is given.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.shards, self.commits = self.folder / "shards", self.folder / "commits"
        self._alive: BinaryIO | None = None
        try:
            self._open(identity)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the folder; what is committed can still be read."""
        if self._alive is not None:
            self._alive.close()

    def _open(self, identity: Mapping[str, Any] | None) -> None:
        if identity is not None:
            self._begin(dict(identity))
        self.identity = self._read_identity()
        self.run = _digest(self.identity)
        if identity is not None and self.identity != identity:
            keys = [each for each in {**self.identity, **identity} if self.identity.get(each) != identity.get(each)]
            was = ", ".join(f"{key} {_brief(self.identity.get(key))} (now {_brief(identity.get(key))})" for key in keys)
            raise ValueError(f"{str(self.folder)!r} holds the maps of another run: {was}; choose another folder")

    def _begin(self, identity: dict[str, Any]) -> None:
        for each in (self.shards, self.commits):
            each.mkdir(parents=True, exist_ok=True)
            sweep(each)
        sweep(self.folder)
        file = self.folder / "run.json"
        write_once(file, _encoded(identity))
        self._alive = shared_lock(file)
        if _json(file) != identity and not any(self.commits.iterdir()) and is_ours_alone(self._alive):
            os.unlink(file)  # of a run that made nothing that counts, and is over
            for each in self.shards.glob("*.parquet"):
                set_aside(each)
            self._alive.close()
            write_once(file, _encoded(identity))
            self._alive = shared_lock(file)
        sync_folder(self.folder)
        sync_folder(self.folder.absolute().parent)

    def _read_identity(self) -> dict[str, Any]:
        file = self.folder / "run.json"
        if not file.exists():
            raise ValueError(f"{str(self.folder)!r} holds no maps: there is no run.json")
        found = _json(file)
        if found is None:
            raise DamagedError(f"{str(file)!r} is damaged: it is no JSON object")
        return found

    def shard(self, span: Span) -> Path:
        """The Parquet file of a span."""
        return self.shards / f"{span.name}.parquet"

    def record(self, span: Span) -> Path:
        """The commit record of a span."""
        return self.commits / f"{span.name}.json"

    def is_committed(self, span: Span) -> bool:
        """Whether there is a commit record."""
        return self.record(span).exists()

    def commit(self, span: Span, rows: list[dict[str, Any]], recipe: Mapping[str, Any]) -> Commit:
        """Writes a shard, then its record; where another process was faster, its shard is the one that counts.

        Raises:
            OSError: where the disk is full, broken or read-only; what is committed stays.
        """
        metadata = {"fastcam": json.dumps({"run": self.run, "start": span.start, "stop": span.stop, **recipe})}
        data = shard_bytes(rows, metadata)
        if not write_once(self.shard(span), data):
            data = self._adopted(span, data)
        write_once(self.record(span), _encoded(asdict(self._described(span, data))))
        return self.read_commit(span)

    def _adopted(self, span: Span, data: bytes) -> bytes:
        """What counts of a shard that lies there already: it, if it is whole."""
        file = self.shard(span)
        found = file.read_bytes()
        try:
            if found == data or self._metadata(found)["run"] == self.run:
                return found
        except ValueError:
            pass
        set_aside(file)
        return data if write_once(file, data) else file.read_bytes()

    @staticmethod
    def _metadata(data: bytes) -> dict[str, Any]:
        """What a shard says of itself; all of it is read, so that damage shows.

        Raises:
            ValueError: for damaged bytes.
        """
        found: dict[str, Any] = json.loads((read_shard(data).schema.metadata or {}).get(b"fastcam", b"{}"))
        return {"run": None, **found}

    def _described(self, span: Span, data: bytes) -> Commit:
        table = read_shard(data, ["image_id", "map"])
        failed = table["map"].null_count
        sha256 = hashlib.sha256(data).hexdigest()
        return Commit(span.start, span.stop, table.num_rows, failed, len(data), sha256, self.run)

    def read_commit(self, span: Span) -> Commit:
        """The record of a span.

        Raises:
            DamagedError: where it cannot be read, or belongs to another run.
        """
        file = self.record(span)
        try:
            found = Commit(**(_json(file) or {}))
        except TypeError:
            raise DamagedError(f"{str(file)!r} is damaged: it is no commit record") from None
        if found.span != span or found.run != self.run:
            raise DamagedError(f"{str(file)!r} is the record of another shard or run")
        return found

    def spans(self) -> list[Span]:
        """All spans with a record, in order."""
        names = [each.stem.split("-") for each in self.commits.glob("part-*.json")]
        return sorted(Span(int(start), int(stop)) for _, start, stop in names)

    def committed(self) -> list[Commit]:
        """All records, in order.

        Raises:
            DamagedError: for one that cannot be read.
        """
        return [self.read_commit(each) for each in self.spans()]

    def data(self, commit: Commit) -> bytes:
        """The bytes of a shard as they were committed.

        Raises:
            DamagedError: where they are not.
        """
        file = self.shard(commit.span)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise DamagedError(f"{str(file)!r} is missing") from None
        if hashlib.sha256(data).hexdigest() != commit.sha256:
            raise DamagedError(f"{str(file)!r} is damaged: its SHA-256 is not the one that was committed")
        return data

    def damaged(self, spans: Iterable[Span] | None = None) -> Iterator[tuple[Span, str]]:
        """Rehashes shards; yields those that are not what was committed, and why."""
        for span in self.spans() if spans is None else spans:
            try:
                self.data(self.read_commit(span))
            except DamagedError as error:
                yield span, str(error)

    def is_intact(self, span: Span) -> bool:
        """Whether a committed shard is there in its whole length; cheaper than its hash."""
        try:
            commit = self.read_commit(span)
            with self.shard(span).open("rb") as file:
                file.seek(-4, 2)
                return file.read() == b"PAR1" and file.tell() == commit.bytes
        except (DamagedError, OSError):
            return False

    def is_done(self, span: Span) -> bool:
        """Whether a span is committed; one that was, and is damaged, is set aside."""
        if not self.is_committed(span):
            return False
        if self.is_intact(span):
            return True
        self.give_up(span)
        return False

    def give_up(self, span: Span) -> None:
        """Sets a damaged shard and its record aside, so that it is made anew."""
        for file in (self.record(span), self.shard(span)):
            if file.exists():
                set_aside(file)


def _json(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, FileNotFoundError):
        return None
    return found if isinstance(found, dict) else None


def _encoded(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(_encoded(identity)).hexdigest()


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
