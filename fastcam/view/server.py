"""The page's server: rows, maps, photographs and tags of folders of maps, for the page alone."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import fastcam.pictures
from fastcam import render
from fastcam.pictures.page import Page
from fastcam.view.conditions import COLUMNS, OPERATORS, read_conditions
from fastcam.view.gate import Gate
from fastcam.view.pictures import MapValues, Photographs, encoded
from fastcam.view.table import Table
from fastcam.view.tags import Tags

PAGE = Path(__file__).parent / "page"
DRAWING = Path(fastcam.pictures.__file__).parent / "drawing.js"  # which pages in one file have too
MOST_ROWS = 500
MOST_MAPS = 200
MOST_MEANS = 2000
MOST_EXPORTED = 100_000
SIDES = (64, 128, 256, 512, 1024)  # of photographs
_COLORMAPS = ("jet", "turbo", "viridis", "magma", "inferno", "cividis", "gray", "RdBu_r")
_IMMUTABLE = {"Cache-Control": "private, max-age=3600"}


def _has_colors(name: str) -> bool:
    """Whether a colour map is to be had here: most are matplotlib's."""
    try:
        render.colors(name)
    except ValueError:
        return False
    return True


class _Routes:
    """What the page asks for."""

    def __init__(self, table: Table, photographs: Photographs, tags: Tags) -> None:
        self.table, self.photographs, self.tags = table, photographs, tags
        self.maps = MapValues(table)
        self.colormaps = [name for name in _COLORMAPS if _has_colors(name)]

    def about(self, request: Request) -> Response:
        """What there is: folders, columns, operators, number of rows."""
        stores = [
            {"name": name, "size": list(maps.identity["preprocessing"]["size"]), "images": maps.identity["images"]}
            for name, maps in zip(self.table.names, self.table.stores, strict=True)
        ]
        return JSONResponse(
            {
                "stores": stores,
                "columns": COLUMNS,
                "operators": OPERATORS,
                "rows": self.table.count(),
                "colormaps": self.colormaps,
                "photographs": self.photographs.source is not None,
            }
        )

    def rows(self, request: Request) -> Response:
        """Some rows, and how many there are in all."""
        query = request.query_params
        if "places" in query:
            places = _places(query["places"])
            return JSONResponse({"count": len(places), "rows": _plain(self.table.of_places(places))})
        conditions = read_conditions(json.loads(query.get("where", "[]")))
        offset, limit = _number(query.get("offset", "0")), min(_number(query.get("limit", "100")), MOST_ROWS)
        found = self.table.page(conditions, query.get("sort", "place"), query.get("descending") == "1", offset, limit)
        return JSONResponse({"count": self.table.count(conditions), "rows": _plain(found)})

    def values(self, request: Request) -> Response:
        """The most frequent values of a column."""
        found = self.table.values_of(request.query_params.get("column", ""))
        return JSONResponse([[_finite(value), number] for value, number in found])

    def histogram(self, request: Request) -> Response:
        """The counts of a column of numbers."""
        query = request.query_params
        conditions = read_conditions(json.loads(query.get("where", "[]")))
        return JSONResponse(self.table.histogram(query.get("column", ""), conditions))

    def map_values(self, request: Request) -> Response:
        """The maps of rows."""
        places = _places(request.query_params.get("places", ""))
        return Response(self.maps.encoded(places), media_type="application/octet-stream", headers=_IMMUTABLE)

    def means(self, request: Request) -> Response:
        """The mean maps of every folder, method, layer and class, each with how it is called."""
        found = []
        for name, maps, means in zip(self.table.names, self.table.stores, self.table.means(), strict=True):
            classes = maps.class_names
            for (method, layer, target), values in sorted(means.items(), key=str)[:MOST_MEANS]:
                label = "" if target is None else f"class {target}"
                if target is not None and 0 <= target < len(classes):
                    label = classes[target]
                found.append(({"folder": name, "method": method, "layer": layer, "label": label}, values))
        return Response(encoded(found), media_type="application/octet-stream")

    def colours(self, request: Request) -> Response:
        """The 256 colours of a colour map, as bytes."""
        name = request.query_params.get("name", "")
        if name not in self.colormaps:
            raise ValueError(f"a colour map is one of {', '.join(self.colormaps)}")
        return Response(render.colors(name).tobytes(), media_type="application/octet-stream", headers=_IMMUTABLE)

    def photograph(self, request: Request) -> Response:
        """The photograph of a row."""
        side = _number(request.query_params.get("side", "256"))
        if side not in SIDES:
            raise ValueError(f"a side is one of {', '.join(map(str, SIDES))}, got {side}")
        data = self.photographs.picture(_number(request.path_params["place"]), side)
        return Response(data, media_type="image/jpeg", headers=_IMMUTABLE)

    def tag(self, body: bytes) -> Response:
        """Set the tag of rows."""
        asked = json.loads(body)
        if not isinstance(asked, dict) or not isinstance(asked.get("places"), list):
            raise ValueError("tags are set by {places: [...], tag: 1 to 9, or null}")
        tag = asked.get("tag")
        if tag is not None and (not isinstance(tag, int) or isinstance(tag, bool) or not 1 <= tag <= 9):
            raise ValueError("a tag is a number from 1 to 9, or null")
        places = [_number(place) for place in asked["places"][:MOST_ROWS]]
        self.table.tag(places, tag)
        self.tags.save()
        return JSONResponse({"tagged": len(places)})

    def page(self, request: Request) -> Response:
        """The first of the chosen rows as a page in one file, which opens without this server."""
        query = request.query_params
        conditions = read_conditions(json.loads(query.get("where", "[]")))
        rows = self.table.page(conditions, query.get("sort", "place"), query.get("descending") == "1", 0, MOST_MAPS)
        groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault((row["store"], row["image_id"]), []).append(row)
        made = Page(", ".join(self.table.names))
        for (_, image_id), same in groups.items():
            maps = [(_row_title(row), self.maps.values(row["place"])) for row in same]
            photograph = self.photographs.pixels(same[0]["place"])
            made.add(image_id, photograph, [(title, values) for title, values in maps if values is not None])
        headers = {"Content-Disposition": 'attachment; filename="maps.html"'}
        return Response(made.html(), media_type="text/html; charset=utf-8", headers=headers)

    def export(self, request: Request) -> Response:
        """The chosen rows as CSV."""
        query = request.query_params
        conditions = read_conditions(json.loads(query.get("where", "[]")))
        found = self.table.page(
            conditions, query.get("sort", "place"), query.get("descending") == "1", 0, MOST_EXPORTED
        )
        text = io.StringIO()
        writer = csv.writer(text)
        names = [name for name in (found[0] if found else {}) if name not in ("place", "store")]
        writer.writerow(["folder", *names])
        for row in found:
            writer.writerow([self.table.names[row["store"]], *(_harmless(row[name]) for name in names)])
        headers = {"Content-Disposition": 'attachment; filename="maps.csv"'}
        return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _row_title(row: dict[str, Any]) -> str:
    """Return what a map is called beside its photograph."""
    label = row["target_name"] or ("" if row["target"] is None else f"class {row['target']}")
    number = "" if row["detection"] is None else f"detection {row['detection']}"
    score = "" if row["score"] is None else f"{row['score']:.3g}"
    return ", ".join(part for part in (row["method"], label, number, score) if part)


def application(table: Table, photographs: Photographs, tags: Tags, token: str, port: int) -> Starlette:
    """Return the server's application.

    Args:
        table: the rows.
        photographs: their photographs.
        tags: where tags are kept.
        token: that the page must have.
        port: that is listened on.
    """
    routes = _Routes(table, photographs, tags)

    def get(path: str, answer: Callable[[Request], Response]) -> Route:
        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(_answered, lambda: answer(request))

        return Route(path, endpoint, methods=["GET"])

    async def tag(request: Request) -> Response:
        body = await request.body()
        return await run_in_threadpool(_answered, lambda: routes.tag(body))

    async def index(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def drawing(request: Request) -> Response:
        return FileResponse(DRAWING)

    return Starlette(
        routes=[
            Route("/", index, methods=["GET"]),
            get("/api/about", routes.about),
            get("/api/rows", routes.rows),
            get("/api/values", routes.values),
            get("/api/histogram", routes.histogram),
            get("/api/maps", routes.map_values),
            get("/api/colours", routes.colours),
            get("/api/means", routes.means),
            get("/api/photographs/{place}", routes.photograph),
            get("/api/export.csv", routes.export),
            get("/api/export.html", routes.page),
            Route("/api/tags", tag, methods=["POST"]),
            Route("/page/drawing.js", drawing, methods=["GET"]),
            Mount("/page", StaticFiles(directory=PAGE, follow_symlink=False)),
        ],
        middleware=[Middleware(Gate, token=token, port=port)],
    )


def _answered(answer: Callable[[], Response]) -> Response:
    """Return an answer, or a sentence that says why there is none."""
    try:
        return answer()
    except LookupError as error:
        return PlainTextResponse(f"{error.args[0]}\n", 404)
    except TimeoutError as error:
        return PlainTextResponse(f"{error}\n", 503)
    except (ValueError, TypeError, RecursionError) as error:
        return PlainTextResponse(f"{error}\n", 400)


def _places(text: str) -> list[int]:
    """Return the places in a text with commas between them.

    Raises:
        ValueError: for anything else, or too many.
    """
    places = [_number(each) for each in text.split(",") if each]
    if len(places) > MOST_MAPS:
        raise ValueError(f"at most {MOST_MAPS} at a time, got {len(places)}")
    return places


def _number(value: Any) -> int:
    """Return a whole number that is not negative.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 16:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15:
        return value
    raise ValueError(f"a whole number was expected, got {str(value)[:50]!r}")


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: _finite(value) for name, value in row.items()} for row in rows]


def _finite(value: Any) -> Any:
    """Return a value as JSON has it: infinities and NaN as texts."""
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _harmless(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
