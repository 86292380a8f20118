"""Measured values beside the maps that they are of: ``fastcam evaluate``'s measures as columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from fastcam.dataset.reader import Maps
from fastcam.view.conditions import COLUMNS

_SAME = ("weights", "source", "preprocessing")  # in runs of one model over one dataset


@dataclass(frozen=True)
class Scores:
    """Folders of measured values, each with the folders of maps that it is of.

    Attributes:
        parts: the measured values, and the numbers of the folders of maps.
        measures: their names, sorted.
    """

    parts: Sequence[tuple[Maps, list[int]]]
    measures: Sequence[str]

    @classmethod
    def of(cls, folders: Sequence[str | Path], stores: Sequence[Maps]) -> "Scores":
        """Return the measured values in folders of ``fastcam evaluate``.

        Raises:
            ValueError: for a folder that holds none, or that is of none of the maps.
        """
        parts: list[tuple[Maps, list[int]]] = []
        measures: set[str] = set()
        for folder in folders:
            scores = Maps(folder)
            names = scores.identity.get("measures")
            if names is None or not scores.commits:
                raise ValueError(f"{str(folder)!r} holds no measured values; `fastcam evaluate` writes them")
            places = [place for place, maps in enumerate(stores) if _are_of(scores, maps)]
            if not places:
                raise ValueError(
                    f"the measured values in {str(folder)!r} are not of these maps, their model and images"
                )
            if taken := measures & set(names) or set(COLUMNS) & set(names):
                raise ValueError(f"{str(folder)!r} measures {min(taken)!r}, of which there is a column already")
            if odd := [name for name in names if not name.isidentifier()]:
                raise ValueError(f"the name of a measure is one word of letters, digits and _, got {odd[0]!r}")
            parts.append((scores, places))
            measures.update(names)
        return cls(parts, sorted(measures))

    def add(self, database: duckdb.DuckDBPyConnection) -> None:
        """Make the table ``measured`` beside ``rows``: a column for every measure.

        Values that several rows share, as those of detections of one class do, are of none of them.
        """
        database.execute("CREATE TABLE long (place BIGINT, measure VARCHAR, value DOUBLE)")
        for scores, places in self.parts:
            files = [str(scores.store.shard(commit.span)) for commit in scores.commits]
            database.execute(
                """
                INSERT INTO long
                SELECT rows.rowid, found.measure, any_value(found.value)
                FROM read_parquet($files) AS found JOIN rows ON rows.image_id = found.image_id
                    AND rows.method = found.method AND rows.layer IS NOT DISTINCT FROM found.layer
                    AND rows.target IS NOT DISTINCT FROM found.target
                WHERE list_contains($places, rows.store) AND isfinite(found.value)
                GROUP BY rows.rowid, found.measure HAVING count(*) = 1
                """,
                {"files": files, "places": places},
            )
        cells = "".join(f", max(value) FILTER (WHERE measure = '{name}') AS \"{name}\"" for name in self.measures)
        database.execute(f"CREATE TABLE measured AS SELECT place{cells} FROM long GROUP BY place; DROP TABLE long")


def _are_of(scores: Maps, maps: Maps) -> bool:
    """Whether values were measured on these maps, or on maps of the same model and images."""
    if "maps_run" in scores.identity:
        return bool(scores.identity["maps_run"] == maps.store.run)
    return all(scores.identity.get(name) == maps.identity.get(name) for name in _SAME)
