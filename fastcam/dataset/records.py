"""Spans of images, commit records of their shards, and JSON files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]


@dataclass(frozen=True, order=True)
class Span:
    """The images of one shard: a range of positions in the source."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        """The shard's file name without its suffix."""
        return f"part-{self.start:09d}-{self.stop:09d}"


@dataclass(frozen=True)
class Commit:
    """The record of a committed shard.

    Attributes:
        start: position of the first image in the source.
        stop: position after the last image.
        rows: number of rows.
        failed: number of images without a map.
        bytes: size of the Parquet file.
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
    """A shard or its record differs from what was committed; the message names the file and the damage."""


def read_json(file: Path) -> JsonObject | None:
    """Return the JSON object of a file; None for a missing or damaged file."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, FileNotFoundError):
        return None
    return content if isinstance(content, dict) else None


def encode_json(value: Mapping[str, object]) -> bytes:
    """Return a JSON object as bytes, the same for equal objects."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
