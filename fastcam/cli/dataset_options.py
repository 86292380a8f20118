"""Options of runs over datasets: which images, how they are read, and where the run goes on."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from fastcam.cli import options

if TYPE_CHECKING:
    import torch

    from fastcam.dataset import Cluster
    from fastcam.dataset.sources import Source


@dataclass(frozen=True)
class SubsetOptions:
    """Which images of a dataset."""

    heading: ClassVar[str] = "Which images"

    where: Annotated[
        str | None, typer.Option(help="Only these images: \"label == 'cat' and '2024' in path\"; also id.")
    ] = None
    ids: Annotated[Path | None, typer.Option(help="Only these images: a file with an id per line.")] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many of them.")] = None
    sample: Annotated[int | None, typer.Option(min=1, help="Only so many of them, at random.")] = None
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0
    shuffle_seed: Annotated[
        int | None, typer.Option(help="In the random order of this seed, not that of their names.", show_default=False)
    ] = None

    def select(self, source: str | list[str]) -> "Source":
        """Return the chosen images of a source.

        Raises:
            ValueError: for a source or a choice that is none.
        """
        from fastcam import dataset

        chosen = options.read_lines(self.ids, "ids") if self.ids else None
        return dataset.select(
            source,
            where=self.where,
            ids=chosen,
            limit=self.limit,
            sample=self.sample,
            seed=self.seed,
            shuffle_seed=self.shuffle_seed,
        )


@dataclass(frozen=True)
class ReadingOptions:
    """How images are read, and which are refused."""

    heading: ClassVar[str] = "Reading"

    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads.", show_default="one per core")] = None
    decode_in: Annotated[
        options.DecodeIn | None,
        typer.Option(
            help="Where they decode: processes, one for each thread, are faster from a few cores on.",
            show_default="processes for a model on a GPU",
        ),
    ] = None
    decoder: Annotated[
        options.Decoder | None,
        typer.Option(
            help="Of JPEG files; scaled decodes large photographs at 1/2 to 1/8, gpu decodes where the model is.",
            show_default="torchcodec where installed",
        ),
    ] = None
    max_megapixels: options.Megapixels = 50
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Larger files are not read.")] = 64

    def settings(self) -> dict[str, Any]:
        """Return the arguments of :func:`fastcam.dataset.run`."""
        return {
            "workers": self.workers,
            "decode_in": self.decode_in.value if self.decode_in else None,
            "decoder": self.decoder.value if self.decoder else None,
            "limits": options.limits(self.max_megapixels, self.max_megabytes),
        }


@dataclass(frozen=True)
class RunOptions:
    """Where a dataset is run, and in what portions."""

    heading: ClassVar[str] = "Running"

    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, ...; several, as 0,1,2,3, or all GPUs, have a process each.",
            show_default="all GPUs, or cpu",
        ),
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per batch.", show_default="8, GPU 64, or the folder's")
    ] = None
    shard_size: Annotated[int | None, typer.Option(min=1, help="Images per Parquet file.", show_default="1024")] = None
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ray cluster, host:port; auto for a local one.")
    ] = None
    ray_cores: Annotated[int | None, typer.Option(min=1, help="Cores per actor without a GPU.", show_default="8")] = (
        None
    )
    ray_gpus: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of a GPU per actor: 0.5 for two on each, 0 for none.", show_default="1"),
    ] = None
    json_log: Annotated[bool, typer.Option("--json-log", help="A JSON line per shard on standard output.")] = False

    def device_of_model(self) -> "torch.device":
        """Return where the model is loaded.

        Raises:
            ValueError: for an unavailable device.
        """
        return options.find_devices(self.device, self.ray)[0]

    def settings(self) -> dict[str, Any]:
        """Return the arguments of :func:`fastcam.dataset.run`.

        Raises:
            ValueError: for an unavailable device.
        """
        sizes = {"shard_size": self.shard_size} if self.shard_size else {}  # runs have defaults of their own
        devices = options.find_devices(self.device, self.ray)[1]
        return {"batch_size": self.batch_size, "ray": self._cluster(), "devices": devices, **sizes}

    def _cluster(self) -> "Cluster | None":
        from fastcam.dataset import Cluster

        return Cluster(self.ray, self.ray_cores, self.ray_gpus) if self.ray else None
