"""The rows of one or more folders of maps, in a table in memory, without their maps, that is filtered and sorted."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from fastcam.dataset.reader import Maps
from fastcam.dataset.table import Row
from fastcam.view.conditions import COLUMNS, OF_MAPS, Columns, Condition, where
from fastcam.view.scores import Scores
from fastcam.view.statistics import Floats, MeanKey, statistics_of

_SHOWN = ("image_id", "label", "target", "predicted", "score", "method", "layer", "status", "detection", "confidence")
_NAMES = (*_SHOWN, "target_name", "predicted_name", "is_right", "box", "store", "tag", *OF_MAPS)
_OPTIONAL = {"detection": "INTEGER", "confidence": "FLOAT", "box": "FLOAT[4]"}
_SECONDS = 20.0  # that a query may take
BINS = 40  # of histograms


class Table:
    """Rows of folders of maps; safe for many threads.

    Args:
        folders: of maps, as ``fastcam map`` writes them.
        scores: folders of measured values, as ``fastcam evaluate`` writes them; every measure becomes a column.

    Attributes:
        stores: the maps of every folder.
        names: how the folders are called.
        columns: that there are, with the kinds of their values.
        measures: names of those that hold measured values.

    Raises:
        ValueError: for a folder without committed maps, or scores that are not of these maps.
    """

    def __init__(self, folders: Sequence[str | Path], scores: Sequence[str | Path] = ()) -> None:
        self.stores = [Maps(folder) for folder in folders]
        resolved = [Path(folder).resolve() for folder in folders]
        if len(set(resolved)) < len(resolved):
            raise ValueError("a folder of maps is given twice")
        self.names = [folder.name for folder in resolved]
        self._database = duckdb.connect(":memory:", config={"threads": "2"})
        for number, maps in enumerate(self.stores):
            if not maps.commits:
                raise ValueError(f"{folders[number]} holds no maps yet")
            self._add(number, maps)
        measured = Scores.of(scores, self.stores)
        measured.add(self._database)
        self.columns: Columns = {**COLUMNS, **dict.fromkeys(measured.measures, "number")}
        self.measures = measured.measures
        self._database.execute("CREATE TABLE tags (place BIGINT PRIMARY KEY, tag INTEGER)")
        self._database.execute("CREATE TABLE of_maps (place BIGINT, entropy FLOAT, disagreement FLOAT)")
        # From here on it reads no file, and nothing can change that.
        self._database.execute("SET enable_external_access = false; SET lock_configuration = true")
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._means: list[dict[MeanKey, Floats]] | None = None

    def _add(self, number: int, maps: Maps) -> None:
        files = [str(maps.store.shard(commit.span)) for commit in maps.commits]
        present = set(maps.dataset().schema.names)
        optional = ", ".join(
            f"{name} AS {name}" if name in present else f"NULL::{kind} AS {name}" for name, kind in _OPTIONAL.items()
        )
        plain = "lower(replace({}, '_', ' '))"
        select = f"""
            SELECT {number} AS store, list_position($files, filename) - 1 AS shard, file_row_number AS row_in_shard,
                image_id, label, target, predicted, score, method, layer, status, {optional},
                CAST($names AS VARCHAR[])[target + 1] AS target_name,
                CAST($names AS VARCHAR[])[predicted + 1] AS predicted_name,
                if(list_contains($plain_names, {plain.format("label")}),
                    {plain.format("label")} = {plain.format("predicted_name")}, NULL) AS is_right
            FROM read_parquet($files, filename = true, file_row_number = true)
        """
        begin = "CREATE TABLE rows AS" if number == 0 else "INSERT INTO rows"
        names = maps.class_names
        plain_names = [name.replace("_", " ").lower() for name in names]
        values = {"files": files, "names": names, "plain_names": plain_names}
        self._database.execute(f"{begin} {select}", values)

    def close(self) -> None:
        """Give the memory back."""
        self._database.close()

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query of this module's own, whose values come from outside.

        Raises:
            TimeoutError: where it takes too long.
        """
        with self._lock:
            cursor = self._database.cursor()
            timer = threading.Timer(_SECONDS, cursor.interrupt)
            timer.start()
            try:
                return cursor.execute(sql, list(values)).fetchall()
            except duckdb.InterruptException:
                raise TimeoutError(f"the query took longer than {_SECONDS:g} seconds") from None
            finally:
                timer.cancel()
                cursor.close()

    def count(self, conditions: Sequence[Condition] = ()) -> int:
        """Return how many rows there are."""
        text, values = self._where(conditions)
        return int(self.query(f"SELECT count(*) FROM {_SOURCE} {text}", values)[0][0])

    def page(
        self, conditions: Sequence[Condition], sort: str, is_descending: bool, offset: int, limit: int
    ) -> list[Row]:
        """Return some rows, each with its ``place`` in the table, by which its map and photograph are asked for.

        Args:
            conditions: that all hold.
            sort: one of the columns, or "place" for the order of the dataset.
            is_descending: whether the largest come first; rows without a value come last.
            offset: of the first row.
            limit: the most rows.

        Raises:
            ValueError: for an unknown column.
        """
        if sort != "place" and sort not in self.columns:
            raise ValueError(f"rows are sorted by place, {', '.join(self.columns)}; got {sort!r}")
        direction = "DESC" if is_descending else "ASC"
        if sort == "place" and not conditions:  # found without a look at those before
            first = max(0, self.count() - offset - limit) if is_descending else offset
            stop = max(0, self.count() - offset) if is_descending else offset + limit
            return self._rows(
                f"WHERE rows.rowid >= ? AND rows.rowid < ? ORDER BY rows.rowid {direction}", [first, stop]
            )
        text, values = self._where(conditions, sort)
        order = f"rows.rowid {direction}" if sort == "place" else f'"{sort}" {direction} NULLS LAST, rows.rowid'
        return self._rows(f"{text} ORDER BY {order} LIMIT ? OFFSET ?", [*values, limit, offset])

    def means(self) -> list[dict[MeanKey, Floats]]:
        """Return the mean maps of every folder, by method, layer and class."""
        with self._reading:
            if self._means is None:
                found = [statistics_of(maps) for maps in self.stores]
                entropy = np.concatenate([each.entropy for each in found])
                disagreement = np.concatenate([each.disagreement for each in found])
                columns = {"place": np.arange(len(entropy)), "entropy": entropy, "disagreement": disagreement}
                with self._lock:
                    self._database.register("made", pa.table(columns))
                    self._database.execute(
                        "INSERT INTO of_maps SELECT place, if(isnan(entropy), NULL, entropy), "
                        "if(isnan(disagreement), NULL, disagreement) FROM made"
                    )
                    self._database.unregister("made")
                self._means = [each.means for each in found]
            return self._means

    def _where(self, conditions: Sequence[Condition], *columns: str) -> tuple[str, list[str | float | bool]]:
        """Return a WHERE clause and its values, after the columns that it needs have been made."""
        if any(name in OF_MAPS for name in (*columns, *(each.column for each in conditions))):
            self.means()
        return where(conditions)

    def of_places(self, places: Sequence[int]) -> list[Row]:
        """Return the rows of places, as :meth:`page` does; unknown ones are left out."""
        return self._rows("WHERE rows.rowid IN (SELECT unnest(?)) ORDER BY rows.rowid", [list(places)])

    def _rows(self, end: str, values: Sequence[object]) -> list[Row]:
        names = [*_NAMES, *self.measures]
        columns = ", ".join(f'"{name}"' for name in names)
        found = self.query(f"SELECT rows.rowid AS place, {columns} FROM {_SOURCE} {end}", values)
        return [dict(zip(["place", *names], row, strict=True)) for row in found]

    def locations(self, places: Sequence[int]) -> dict[int, tuple[int, int, int, str]]:
        """Return store, shard, row in it and image of places; unknown places are left out."""
        found = self.query(
            "SELECT rowid, store, shard, row_in_shard, image_id FROM rows WHERE rowid IN (SELECT unnest(?))",
            [list(places)],
        )
        return {place: (store, shard, row, image) for place, store, shard, row, image in found}

    def values_of(self, column: str) -> list[tuple[Any, int]]:
        """Return the most frequent values of a column, and how often they occur."""
        if column not in self.columns:
            raise ValueError(f"there is no column {column!r}")
        self._where([], column)
        found = self.query(f'SELECT "{column}", count(*) AS n FROM {_SOURCE} GROUP BY 1 ORDER BY n DESC, 1 LIMIT 200')
        return [(value, number) for value, number in found]

    def histogram(self, column: str, conditions: Sequence[Condition]) -> Row:
        """Return the counts of equal bins over a column of numbers, and their edges."""
        if self.columns.get(column) != "number":
            raise ValueError(f"a histogram is of a column of numbers, got {column!r}")
        text, values = self._where(conditions, column)
        cell = f'"{column}"'
        low, high = self.query(f"SELECT min({cell}), max({cell}) FROM {_SOURCE} WHERE isfinite({cell})")[0]
        if low is None:
            return {"low": 0.0, "high": 0.0, "counts": []}
        width = (high - low) or 1.0
        joined = f"{text} AND isfinite({cell})" if text else f"WHERE isfinite({cell})"
        found = self.query(
            f"SELECT least(CAST(floor(({cell} - ?) / ? * {BINS}) AS INTEGER), {BINS - 1}) AS bin, count(*) "
            f"FROM {_SOURCE} {joined} GROUP BY 1",
            [low, width, *values],
        )
        counts = [0] * BINS
        for place, number in found:
            counts[place] = number
        return {"low": low, "high": low + width, "counts": counts}

    def tag(self, places: Sequence[int], tag: int | None) -> None:
        """Set the tag of rows, 1 to 9, or take it away."""
        with self._lock:
            known = [(place,) for place in places]
            self._database.executemany("DELETE FROM tags WHERE place = ?", known)
            if tag is not None:
                self._database.executemany(
                    f"INSERT INTO tags SELECT rowid, {int(tag)} FROM rows WHERE rowid = ?", known
                )

    def tagged(self) -> list[tuple[Any, ...]]:
        """Return store, image, method, layer, class, detection and tag of every tagged row."""
        return self.query(
            "SELECT store, image_id, method, layer, target, detection, tag "
            "FROM rows JOIN tags ON rows.rowid = tags.place ORDER BY rows.rowid"
        )

    def tag_again(self, tags: Sequence[Row], store: int) -> None:
        """Set tags that were kept, by the values that tell rows apart."""
        with self._lock:
            for each in tags:
                self._database.execute(
                    "INSERT OR REPLACE INTO tags SELECT rowid, ? FROM rows WHERE store = ? AND image_id = ? "
                    "AND method IS NOT DISTINCT FROM ? AND layer IS NOT DISTINCT FROM ? "
                    "AND target IS NOT DISTINCT FROM ? AND detection IS NOT DISTINCT FROM ?",
                    [
                        each["tag"],
                        store,
                        *(each[name] for name in ("image_id", "method", "layer", "target", "detection")),
                    ],
                )


_SOURCE = "rows" + "".join(
    f" LEFT JOIN {name} ON {name}.place = rows.rowid" for name in ("tags", "of_maps", "measured")
)
