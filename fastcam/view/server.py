"""The page's server: rows, maps, photographs and tags of folders of maps, for the page alone."""

import json
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import fastcam.pictures
from fastcam import render
from fastcam.dataset.table import Row
from fastcam.view import exports
from fastcam.view.conditions import OPERATORS, Condition, read_conditions
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
MOST_ON_SHEET = 120
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
                "columns": self.table.columns,
                "operators": OPERATORS,
                "measures": self.table.measures,
                "rows": self.table.count(),
                "colormaps": self.colormaps,
                "photographs": self.photographs.source is not None,
            }
        )

    def rows(self, request: Request) -> Response:
        """Some rows, and with the first ones how many there are in all."""
        query = request.query_params
        if "places" in query:
            places = _places(query["places"])
            return JSONResponse({"count": len(places), "rows": _plain(self.table.of_places(places))})
        offset, limit = _number(query.get("offset", "0")), min(_number(query.get("limit", "100")), MOST_ROWS)
        found: Row = {"rows": _plain(self._chosen(query, limit, offset))}
        if offset == 0:
            found["count"] = self.table.count(self._conditions(query))
        return JSONResponse(found)

    def values(self, request: Request) -> Response:
        """The most frequent values of a column."""
        found = self.table.values_of(request.query_params.get("column", ""))
        return JSONResponse([[_finite(value), number] for value, number in found])

    def histogram(self, request: Request) -> Response:
        """The counts of a column of numbers."""
        query = request.query_params
        conditions = self._conditions(query)
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
        name = self._colormap(request.query_params)
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

    def export_csv(self, request: Request) -> Response:
        """The chosen rows as CSV."""
        text = exports.as_csv(self.table, self._chosen(request.query_params, MOST_EXPORTED))
        return Response(text, media_type="text/csv; charset=utf-8", headers=_named("maps.csv"))

    def export_page(self, request: Request) -> Response:
        """The first of the chosen rows as a page in one file, which opens without this server."""
        rows, colours = self._chosen(request.query_params, MOST_MAPS), self._colormap(request.query_params)
        text = exports.as_page(
            self.table, rows, self.maps, self.photographs, colours, self._number_of_order(request.query_params)
        )
        return Response(text, media_type="text/html; charset=utf-8", headers=_named("maps.html"))

    def export_sheet(self, request: Request) -> Response:
        """The first of the chosen rows as a sheet of pictures."""
        rows, colours = self._chosen(request.query_params, MOST_ON_SHEET), self._colormap(request.query_params)
        opacity = min(100, _number(request.query_params.get("opacity", "50"))) / 100
        data = exports.as_sheet(
            rows, self.maps, self.photographs, colours, opacity, self._number_of_order(request.query_params)
        )
        return Response(data, media_type="image/png", headers=_named("maps.png"))

    def _conditions(self, query: QueryParams) -> list[Condition]:
        """Return what a query asks of rows."""
        return read_conditions(json.loads(query.get("where", "[]")), self.table.columns)

    def _chosen(self, query: QueryParams, limit: int, offset: int = 0) -> list[Row]:
        """Return rows that a query asks for, in its order."""
        sort, is_descending = query.get("sort", "place"), query.get("descending") == "1"
        return self.table.page(self._conditions(query), sort, is_descending, offset, limit)

    def _number_of_order(self, query: QueryParams) -> str | None:
        """Return the column of numbers by which rows are ordered, if they are."""
        sort = query.get("sort", "place")
        return sort if self.table.columns.get(sort) == "number" and sort != "score" else None

    def _colormap(self, query: QueryParams) -> str:
        """Return the colour map that a query names."""
        name = query.get("colours", self.colormaps[0])
        if name not in self.colormaps:
            raise ValueError(f"a colour map is one of {', '.join(self.colormaps)}")
        return name


def _named(name: str) -> dict[str, str]:
    """Return the headers of a file to keep."""
    return {"Content-Disposition": f'attachment; filename="{name}"'}


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
            get("/api/export.csv", routes.export_csv),
            get("/api/export.html", routes.export_page),
            get("/api/export.png", routes.export_sheet),
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


def _number(value: object) -> int:
    """Return a whole number that is not negative.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 16:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15:
        return value
    raise ValueError(f"a whole number was expected, got {str(value)[:50]!r}")


def _plain(rows: list[Row]) -> list[Row]:
    return [{name: _finite(value) for name, value in row.items()} for row in rows]


def _finite(value: object) -> object:
    """Return a value as JSON has it: infinities and NaN as texts."""
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return list(value) if isinstance(value, tuple) else value
