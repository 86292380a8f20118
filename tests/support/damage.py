"""Damaged copies of a file's bytes, the same in every run."""

import io
import random
import zipfile
from collections.abc import Iterator

TEXTS = (
    b"",
    b"abc" * 50,
    b"\x80",
    b"{}",
    b"PK\x03\x04",
    b"<!DOCTYPE html>\n<html>404</html>\n",
    b"version https://git-lfs",
)


def damaged(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield texts, archives of strange names, and the data cut, with other bytes, and with a part gone or doubled."""
    draw = random.Random(seed)
    yield from TEXTS
    yield from (
        _archive(names) for names in (["a/" * 9000], [f"archive/data/{i}" for i in range(3000)], ["../data.pkl"])
    )
    for index in range(count - len(TEXTS) - 3):
        start, stop = sorted(draw.sample(range(len(data) + 1), 2))
        stop = min(stop, start + 40)
        kind = index % 5
        if kind == 0:
            yield data[:start]
        elif kind == 1:
            yield data[:start] + data[stop:]
        elif kind == 2:
            yield data[:stop] + data[start:]
        else:
            changed = bytearray(data)
            for _ in range(1 if kind == 3 else 30):
                changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            yield bytes(changed)


def _archive(names: list[str]) -> bytes:
    """A ZIP file of files without content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return buffer.getvalue()
