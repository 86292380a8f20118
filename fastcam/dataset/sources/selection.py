"""A part of a dataset: by an expression over names and labels, by ids, the first ones, or a random sample."""

import ast
import hashlib
from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fastcam.dataset.sources.base import Item, Source, is_remote
from fastcam.dataset.sources.parquet import ParquetSource
from fastcam.dataset.sources.resolve import SourceLike, source_of

Condition: TypeAlias = Callable[[str, str, str], bool]  # of id, path and label

MAX_GAP = 64  # images that are passed over rather than looked up anew
NAMES = ("id", "path", "label")
_ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Compare, ast.Name, ast.Load),
    *(ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Constant, ast.Tuple, ast.List),
)


class Selection:
    """Some images of a source.

    Args:
        source: all images.
        positions: of the chosen ones, in the order in which they are wanted.

    Raises:
        ValueError: if nothing is chosen.
    """

    def __init__(self, source: Source, positions: npt.NDArray[np.int64]) -> None:
        if not len(positions):
            raise ValueError(f"none of the {len(source)} images is selected")
        self.source, self.positions = source, positions

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network."""
        return is_remote(self.source)

    def __len__(self) -> int:
        """Return the number of chosen images."""
        return len(self.positions)

    def digest(self) -> str:
        """Return a digest of the source and the choice."""
        return hashlib.sha256(self.source.digest().encode() + self.positions.astype("<i8").tobytes()).hexdigest()

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yield the chosen images from number ``start`` to ``stop``."""
        positions = self.positions[start:stop]
        steps = np.diff(positions)
        for run in np.split(positions, np.flatnonzero((steps > MAX_GAP) | (steps <= 0)) + 1):
            if not len(run):
                continue
            first, chosen = int(run[0]), set(run.tolist())
            for position, item in enumerate(self.source.items(first, int(run[-1]) + 1), first):
                if position in chosen:
                    yield item


def select(
    source: SourceLike,
    *,
    where: str | None = None,
    ids: Collection[str] | None = None,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    shuffle_seed: int | None = None,
) -> Source:
    """Return the images of a source that fulfil all conditions, in its order unless they are shuffled.

    Args:
        source: as for :func:`fastcam.dataset.run`, which takes what is returned.
        where: comparisons of ``id``, ``path`` and ``label`` with texts, with ``and``, ``or``, ``not`` and ``in``:
            ``"label == 'cat'"``. An image without a label has "", and so has every sample of a PyTorch dataset, which
            would have to be loaded for it.
        ids: of the images.
        limit: the first so many of them.
        sample: so many of them at random, of which ``limit`` takes the first.
        seed: of the sample.
        shuffle_seed: the seed of a random order, so that what is done first is of all parts of the source; None keeps
            its own. Rows of Parquet files cannot be shuffled: they are read in groups.

    Raises:
        ValueError: for another expression, an id that the source lacks, rows of Parquet files to be shuffled, or if no
            image is left.
    """
    for name, count in (("limit", limit), ("sample", sample)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"`{name}` must be a positive whole number, got {count!r}")
    whole = source_of(source)
    positions = np.arange(len(whole))
    if where is not None or ids is not None:
        positions = _fulfilling(whole, _compile(where) if where is not None else None, ids)
    if sample is not None and sample < len(positions):
        positions = np.sort(np.random.default_rng(seed).choice(positions, sample, replace=False))
    if shuffle_seed is not None:
        if isinstance(whole, ParquetSource):
            raise ValueError(
                "rows of Parquet files cannot be shuffled: each would take the reading of its whole row group; "
                "take some at random with `sample`"
            )
        positions = np.random.default_rng(shuffle_seed).permutation(positions)
    positions = positions[:limit]
    is_whole = shuffle_seed is None and 0 < len(positions) == len(whole)
    return whole if is_whole else Selection(whole, positions)


def _fulfilling(source: Source, is_chosen: Condition | None, ids: Collection[str] | None) -> npt.NDArray[np.int64]:
    """Return the positions of the images with such ids for which the condition holds."""
    found, missing = [], set(ids or ())
    for position, described in enumerate(_descriptions(source)):
        if ids is not None and described[0] not in missing:
            continue
        missing.discard(described[0])
        if is_chosen is None or is_chosen(*described):
            found.append(position)
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ValueError(f"the source has no image {min(missing)!r}{more}")
    return np.array(found, np.int64)


def _descriptions(source: Source) -> Iterator[tuple[str, str, str]]:
    """Yield (id, path, label) of all images; "" for no label."""
    if isinstance(source, ParquetSource):
        yield from source.descriptions()
        return
    for item in source.items(0, len(source)):
        yield item.id, item.path, item.label or ""


def _compile(where: str) -> Condition:
    """Return the condition that an expression means.

    Raises:
        ValueError: for an expression of anything but comparisons of ``id``, ``path`` and ``label`` with texts.
    """
    example = "\"label == 'cat'\" or \"'2024' in path and label in ('cat', 'dog')\""
    explanation = f"`where` must compare {', '.join(NAMES)} with texts, as in {example}; got {where!r}"
    try:
        tree = ast.parse(where.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last three for zeros and for endless brackets
        raise ValueError(explanation) from None
    for node in ast.walk(tree):
        is_text = not isinstance(node, ast.Constant) or isinstance(node.value, str)
        is_known = not isinstance(node, ast.Name) or node.id in NAMES
        if not (isinstance(node, _ALLOWED) and is_text and is_known):
            raise ValueError(explanation)
    code = compile(tree, "where", "eval")

    def is_chosen(identity: str, path: str, label: str) -> bool:
        values = dict(zip(NAMES, (identity, path, label), strict=True))
        try:
            return bool(eval(code, {"__builtins__": {}}, values))
        except TypeError:  # an order of a text and a list
            raise ValueError(explanation) from None

    return is_chosen
