"""``fastcam view``: a page to look at maps."""

import contextlib
import secrets
import socket
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli.console import report_errors

HOST = "127.0.0.1"


def view(
    maps: Annotated[list[Path], typer.Argument(help="Folders of maps, of `fastcam map`; several to compare them.")],
    source: Annotated[
        str | None, typer.Option(help="The photographs that the maps are of, as `fastcam map` was given them.")
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of `fastcam evaluate` for these maps: a column for every measure. Repeatable."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="To listen on.", show_default="a free one")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Show maps on a page of this machine: grid, filters, order, photographs, tags. Nothing leaves the machine."""
    with report_errors():
        try:
            import uvicorn

            from fastcam import view as page
        except ImportError as error:
            raise ValueError(f'fastcam view needs {error.name}: pip install "fastcam[view]"') from None
        table = page.Table(maps, scores or ())
        photographs, tags = page.Photographs(table, source), page.Tags(table)
        photographs.check()
        token = secrets.token_urlsafe(24)
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((HOST, port))
                listening.listen()  # who opens the address at once waits, instead of being refused
            except OSError as error:
                raise ValueError(
                    f"port {port} cannot be listened on: {error.strerror}; name another, or none for a free one"
                ) from None
            number = listening.getsockname()[1]
            address = f"http://{HOST}:{number}/?token={token}"
            typer.echo(f"{table.count():,} maps at {address}\nCtrl-C ends it")
            if browser:
                webbrowser.open(address)
            app = page.application(table, photographs, tags, token, number)
            config = uvicorn.Config(app, log_level="warning", server_header=False, h11_max_incomplete_event_size=65536)
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listening])
