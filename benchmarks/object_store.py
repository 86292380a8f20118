"""Datasets in an object store that takes its time: ``python -m benchmarks.object_store``.

A folder of JPEG files in an S3 server on this machine (moto, a process of its own), each request of which takes some
milliseconds more, as a network does; with a network of two convolutions, so that reading is what a run waits for. In
turns: the run as it is, which reads ahead; the same that reads as files of a disk are read, on the decoding threads;
the files alone, all asked for at once. Each over the run over the same files on the disk; medians.
"""

import argparse
import asyncio
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import s3fs
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fastcam.dataset
from benchmarks.results_io import write
from fastcam.bench.timing import interleave
from fastcam.cli import demo

DELAYS = (0, 20, 100)  # milliseconds a request
SIZE = (320, 240)


def start_server() -> subprocess.Popen[bytes]:
    """Start the store, and let clients of this process find it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    names = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update({**names, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return server
        except OSError:
            time.sleep(0.1)


def pictures(folder: Path, count: int) -> None:
    """Write parts of real photographs."""
    photographs = [each.convert("RGB") for each in demo.photographs().values()]
    for index in range(count):
        left = index % 50
        buffer = io.BytesIO()
        photographs[index % 4].resize((400, 300)).crop((left, 0, left + SIZE[0], SIZE[1])).save(buffer, "JPEG")
        (folder / f"{index:04d}.jpg").write_bytes(buffer.getvalue())


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()


def delayed(milliseconds: int) -> Any:
    """Every request takes longer, within a context."""
    call = s3fs.S3FileSystem._call_s3

    async def slow(self: Any, *arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(milliseconds / 1000)
        return await call(self, *arguments, **options)

    return mock.patch.object(s3fs.S3FileSystem, "_call_s3", slow)


def contestants(local: Path) -> dict[str, Callable[[], object]]:
    model, store = network(), fsspec.filesystem("s3")

    def run(source: Path | str) -> None:
        with tempfile.TemporaryDirectory() as out:
            done = fastcam.dataset.run(source, model, out, target_layer="2")
            assert not done.failed

    def without() -> None:
        with mock.patch("fastcam.dataset.runner.is_remote", return_value=False):
            run("s3://bucket/pictures")

    paths = [f"bucket/pictures/{each.name}" for each in sorted(local.iterdir())]
    return {
        "disk": lambda: run(local),
        "ahead": lambda: run("s3://bucket/pictures"),
        "without": without,
        "alone": lambda: store.cat(paths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    server, rows = start_server(), []
    try:
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder)
            pictures(local, options.images)
            store = fsspec.filesystem("s3")
            store.mkdir("bucket")
            store.put(folder, "bucket/pictures", recursive=True)
            for delay in DELAYS:
                with delayed(delay):
                    timings = interleave(contestants(local), options.rounds)
                base = timings.pop("disk").median
                rows.append({"delay_ms": delay, **{name: each.median / base for name, each in timings.items()}})
    finally:
        server.kill()
    write("object_store", rows)
    table = Table("ms a request", "run, over that of a disk", "without reading ahead", "the files alone")
    for row in rows:
        table.add_row(str(row["delay_ms"]), *(f"{row[name]:.2f}" for name in ("ahead", "without", "alone")))
    Console().print(table)


if __name__ == "__main__":
    main()
