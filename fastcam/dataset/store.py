"""A folder of results: immutable Parquet shards, and a commit record of each.

``run.json`` holds the run's identity; ``shards/`` the Parquet files; ``commits/`` one JSON file per shard with its size
and SHA-256. A shard is valid once its commit record exists. After :meth:`Store.commit` returns it survives a killed
process, and a power failure on a file system that honours fsync. ``last-run.json`` says how fast the last run was, and
why: the only file that is not the same after every run.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from fastcam.dataset.durable_files import (
    is_only_lock,
    open_locked,
    set_aside,
    sweep,
    sync_folder,
    write_once,
    write_replacing,
)
from fastcam.dataset.records import Commit, DamagedError, JsonObject, Span, encode_json, read_json
from fastcam.dataset.rows import in_order
from fastcam.dataset.table import encode_shard, read_shard

RUN, LAST_RUN = "run.json", "last-run.json"
MAX_SHOWN_LENGTH = 40  # of a value in a message
PARQUET_MAGIC = b"PAR1"  # the last bytes of a Parquet file


class Store:
    """The folder of one run.

    Args:
        folder: path of the folder.
        identity: the run's identity, a JSON object; None reads it from the folder.

    Raises:
        ValueError: if the folder holds the results of another run, or has none and no identity is given.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, object] | None = None) -> None:
        self.folder = Path(folder)
        self.shards, self.commits = self.folder / "shards", self.folder / "commits"
        self._lock: BinaryIO | None = None
        try:
            self._open(identity)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock on the folder; committed shards stay readable."""
        if self._lock is not None:
            self._lock.close()

    def _open(self, identity: Mapping[str, object] | None) -> None:
        if identity is not None:
            self._create(dict(identity))
        self.identity = self._read_identity()
        self.run = hashlib.sha256(encode_json(self.identity)).hexdigest()
        if identity is not None and self.identity != identity:
            changes = ", ".join(_changes(self.identity, identity))
            raise ValueError(f"{str(self.folder)!r} holds the results of another run: {changes}; choose another folder")

    def _create(self, identity: JsonObject) -> None:
        """Create what is missing of the folder, and lock its ``run.json``."""
        for folder in (self.shards, self.commits):
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
        sweep(self.folder)
        file = self.folder / RUN
        write_once(file, encode_json(identity))
        self._lock = open_locked(file)
        if read_json(file) != identity and not any(self.commits.iterdir()) and is_only_lock(self._lock):
            os.unlink(file)  # of a finished run without commits
            for shard in self.shards.glob("*.parquet"):
                set_aside(shard)
            self._lock.close()
            write_once(file, encode_json(identity))
            self._lock = open_locked(file)
        sync_folder(self.folder)
        sync_folder(self.folder.absolute().parent)

    def _read_identity(self) -> JsonObject:
        file = self.folder / RUN
        if not file.exists():
            raise ValueError(f"{str(self.folder)!r} holds no maps: there is no run.json")
        identity = read_json(file)
        if identity is None:
            raise DamagedError(f"{str(file)!r} is damaged: it is no JSON object")
        return identity

    def shard(self, span: Span) -> Path:
        """Return the path of a span's Parquet file."""
        return self.shards / f"{span.name}.parquet"

    def record(self, span: Span) -> Path:
        """Return the path of a span's commit record."""
        return self.commits / f"{span.name}.json"

    def note_run(self, summary: JsonObject) -> None:
        """Keep what a run says of itself, in place of what the run before said.

        Raises:
            OSError: if the disk is full, broken or read-only; committed shards are kept.
        """
        write_replacing(self.folder / LAST_RUN, encode_json(summary))

    def last_run(self) -> JsonObject | None:
        """Return what the last run that made something said of itself; None where none has ended, or it is lost."""
        return read_json(self.folder / LAST_RUN)

    def is_committed(self, span: Span) -> bool:
        """Whether there is a commit record."""
        return self.record(span).exists()

    def commit(self, span: Span, rows: Sequence[pa.Table], recipe: Mapping[str, object]) -> Commit:
        """Write a shard, then its record; if another process wrote the shard first, that one is kept.

        Args:
            span: the images.
            rows: of the images, in tables of :data:`fastcam.dataset.rows.COLUMNS`.
            recipe: for full-size maps.

        Raises:
            OSError: if the disk is full, broken or read-only; committed shards are kept.
        """
        table, causes = in_order(rows)
        place = {"run": self.run, "start": span.start, "stop": span.stop}
        metadata = {"fastcam": json.dumps({**place, **recipe, **({"causes": causes} if causes else {})})}
        data = encode_shard(table, metadata)
        if not write_once(self.shard(span), data):
            kept = self._keep_or_replace(span, data)
            data, table = (data, table) if kept == data else (kept, read_shard(kept, ["image_id", "method"]))
        write_once(self.record(span), encode_json(asdict(self._make_record(span, data, table))))
        return self.read_commit(span)

    def _keep_or_replace(self, span: Span, data: bytes) -> bytes:
        """Return the bytes of an existing shard of this run if it is intact; else set it aside and write ``data``."""
        file = self.shard(span)
        existing = file.read_bytes()
        try:
            if existing == data or self._read_run(existing) == self.run:
                return existing
        except ValueError:
            pass
        set_aside(file)
        return data if write_once(file, data) else file.read_bytes()

    @staticmethod
    def _read_run(data: bytes) -> object:
        """Return the run digest in a shard's metadata; the whole shard is read, to detect damage.

        Raises:
            ValueError: for damaged bytes.
        """
        metadata: JsonObject = json.loads((read_shard(data).schema.metadata or {}).get(b"fastcam", b"{}"))
        return {"run": None, **metadata}["run"]

    def _make_record(self, span: Span, data: bytes, table: pa.Table) -> Commit:
        failed = table["method"].null_count  # the row of an image without a map has no method
        sha256 = hashlib.sha256(data).hexdigest()
        return Commit(span.start, span.stop, table.num_rows, failed, len(data), sha256, self.run)

    def read_commit(self, span: Span) -> Commit:
        """Return the record of a span.

        Raises:
            DamagedError: for a record that cannot be read, or belongs to another run.
        """
        file = self.record(span)
        try:
            commit = Commit(**(read_json(file) or {}))
        except TypeError:
            raise DamagedError(f"{str(file)!r} is damaged: it is no commit record") from None
        if commit.span != span or commit.run != self.run:
            raise DamagedError(f"{str(file)!r} is the record of another shard or run")
        return commit

    def spans(self) -> list[Span]:
        """Return all spans with a record, in order."""
        names = [file.stem.split("-") for file in self.commits.glob("part-*.json")]
        return sorted(Span(int(start), int(stop)) for _, start, stop in names)

    def committed(self) -> list[Commit]:
        """Return all records, in order.

        Raises:
            DamagedError: for a record that cannot be read.
        """
        return [self.read_commit(span) for span in self.spans()]

    def data(self, commit: Commit) -> bytes:
        """Return the bytes of a shard, verified against its SHA-256.

        Raises:
            DamagedError: for a shard that is missing or was changed.
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
        """Rehash shards; yield the damaged ones, and the damage."""
        for span in self.spans() if spans is None else spans:
            try:
                self.data(self.read_commit(span))
            except DamagedError as error:
                yield span, str(error)

    def is_intact(self, span: Span) -> bool:
        """Whether a committed shard exists with its full length; cheaper than its hash."""
        try:
            commit = self.read_commit(span)
            with self.shard(span).open("rb") as file:
                file.seek(-len(PARQUET_MAGIC), os.SEEK_END)
                return file.read() == PARQUET_MAGIC and file.tell() == commit.bytes
        except (DamagedError, OSError):
            return False

    def is_done(self, span: Span) -> bool:
        """Whether a span is committed and intact; a damaged shard is set aside."""
        if not self.is_committed(span):
            return False
        if self.is_intact(span):
            return True
        self.set_shard_aside(span)
        return False

    def set_shard_aside(self, span: Span) -> None:
        """Set a damaged shard and its record aside, so that the next run makes it again."""
        for file in (self.record(span), self.shard(span)):
            if file.exists():
                set_aside(file)


def _changes(before: Mapping[str, object], now: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield what differs between two identities, of settings that hold others each of these."""
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes(old, new, f"{prefix}{key} ")
        elif old != new:
            yield f"{prefix}{key} {_shorten(old)} (now {_shorten(new)})"


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN_LENGTH else f"{text[: MAX_SHOWN_LENGTH - 3]}..."
