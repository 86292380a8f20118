"""A list of names in two blocks of memory."""

import array
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

BLOCK = 4096  # names that are decoded together


class PathList:
    """Names, in a third of the memory that a list of strings takes.

    Args:
        names: in any number.

    Raises:
        ValueError: for a name that occurs twice.
    """

    def __init__(self, names: Iterable[str]) -> None:
        text, ends, hashes = bytearray(), array.array("q", [0]), array.array("q")
        for name in names:
            text += name.encode("utf-8", "surrogatepass")
            ends.append(len(text))
            hashes.append(hash(name))
        self._text, self._ends = text, ends
        self._check_unique(np.frombuffer(hashes, np.int64) if hashes else np.empty(0, np.int64))

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        """Return one name."""
        return self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        """Yield all names."""
        return map(self.__getitem__, range(len(self)))

    def digest(self) -> str:
        """Return the SHA-256 of the names, with a zero between them."""
        digest = hashlib.sha256()
        for first in range(0, len(self), BLOCK):
            names = [self[index] for index in range(first, min(first + BLOCK, len(self)))]
            digest.update(("\0" * (first > 0) + "\0".join(names)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _check_unique(self, hashes: npt.NDArray[np.int64]) -> None:
        """Refuse a name that occurs twice, found by the names' hashes."""
        order = np.argsort(hashes, kind="stable")
        ranked = hashes[order]
        seen: dict[int, set[str]] = {}
        for place in np.flatnonzero(np.diff(ranked) == 0):
            names = seen.setdefault(int(ranked[place]), {self[order[place]]})
            name = self[order[place + 1]]
            if name in names:
                raise ValueError(f"image id {name!r} occurs twice in the source: ids must be unique")
            names.add(name)
