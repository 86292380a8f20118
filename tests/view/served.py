"""Folders of maps for the tests of the page, and a server of them."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import uvicorn
from PIL import Image
from torch import nn

import fastcam.dataset
from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.view import Photographs, Table, Tags, application

TOKEN = "a-token-of-the-tests"
NAMES = ("red", "lime", "blue")


def classifier() -> Classifier:
    """Scores are the means of the colours, so that a picture's class is its colour."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AvgPool2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[0].weight.data = torch.eye(3)[:, :, None, None]
    model.append(nn.Linear(3, 3, bias=False))
    model[4].weight.data = torch.eye(3)
    return Classifier(model.eval(), Preprocessing(32, (32, 32), (0.0,) * 3, (1.0,) * 3), given_names=NAMES)


def photographs(folder: Path) -> Path:
    """Twelve pictures of one colour with a brighter square, and a broken file, in folders named for the colours."""
    for number in range(12):
        colour = number % 3
        picture = np.full((32, 32, 3), 10, np.uint8)
        picture[..., colour] = 60 + 5 * number
        picture[4:12, 16:28, colour] = 250
        file = folder / NAMES[colour if number != 11 else 0] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    (folder / "red" / "99.png").write_bytes(b"broken")
    return folder


def maps_of(source: Path, out: Path, methods: tuple[str, ...] = ("grad_cam", "layer_cam")) -> Path:
    options = {"method": list(methods), "target_layer": "1", "target": ["top2"], "workers": 1, "shard_size": 5}
    fastcam.dataset.run(source, classifier(), out, batch_size=4, **options)
    return out


@dataclass(frozen=True)
class Served:
    """A server on this machine."""

    port: int
    table: Table

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def served(folders: list[Path], source: Path | None, scores: Sequence[Path] = ()) -> Iterator[Served]:
    table = Table(folders, scores)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        app = application(table, Photographs(table, None if source is None else str(source)), Tags(table), TOKEN, port)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", server_header=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Served(port, table)
        finally:
            server.should_exit = True
            thread.join(10)
            table.close()
