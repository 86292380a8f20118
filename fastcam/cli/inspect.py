"""``fastcam activations``, ``neurons`` and ``filters``: what is inside a network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from fastcam.cli import options, outputs, photographs
from fastcam.cli.console import output, print_error, progress_bar, report_errors
from fastcam.cli.dataset import import_dataset, interruptible, show_progress
from fastcam.cli.dataset_options import ReadingOptions, RunOptions, SubsetOptions
from fastcam.cli.model_options import ClassifierOptions, InputOptions, WeightOptions

if TYPE_CHECKING:
    from torch import Tensor

    from fastcam.classifiers.models import Classifier
    from fastcam.classifiers.preprocessing import Preprocessing
    from fastcam.inspect import Survey
    from fastcam.render import Bytes

EXIT_CODES = (
    "Exit codes: 0 all fine; 1 some images could not be read, the others are done; 2 bad usage or nothing to do; "
    "130 ended by Ctrl-C."
)
Layers = Annotated[
    list[str] | None,
    typer.Option("--layer", help="See `fastcam layers`; repeatable.", show_default="the last of every resolution"),
]
Photographs = Annotated[list[str], typer.Argument(help="Files, folders (searched recursively) or globs.")]
Sources = Annotated[
    list[str],
    typer.Argument(help="Files, folders (searched recursively) or globs; or one .tar, .parquet, .txt list or URL."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]
PROJECTIONS = ("guided_backprop", "deconvnet", "saliency", "none")


def activations(
    images: Photographs,
    model: options.Model,
    network: WeightOptions,
    geometry: InputOptions,
    layer: Layers = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for pictures of stages and channels: PHOTO.stages.png, PHOTO.LAYER.png.")
    ] = None,
    device: options.Device = None,
    batch_size: BatchSize = 8,
) -> None:
    """Tell what the channels of layers do over photographs: mean, median, deviation, zeros, and dead channels.

    A channel is dead if it was zero at every position of every photograph; one more photograph may excite it.
    """
    with report_errors():
        network.check(model)
        if out is not None:
            outputs.check_folder(out)
        paths = photographs.find(images, out or Path("no folder of ours"))
        if not paths:
            raise ValueError("no pictures were found")
        classifier = network.load(model, options.find_device(device))
        pass_ = _Pass(classifier, geometry.change(classifier.preprocessing), paths)
        survey = pass_.run(layer, batch_size, 0)
        output().print(_table(survey))
        if out is not None:
            _write_channels(pass_, survey, out)
    raise typer.Exit(1 if pass_.failed else 0)


def neurons(
    source: Sources,
    model: options.Model,
    network: ClassifierOptions,
    images: SubsetOptions,
    geometry: InputOptions,
    reading: ReadingOptions,
    running: RunOptions,
    layer: Layers = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the sheets, LAYER.png, and neurons.csv; the same command resumes in it.")
    ] = Path("neurons"),
    k: Annotated[int, typer.Option("-k", min=1, help="Images of each channel.")] = 9,
    channels: Annotated[
        str | None, typer.Option(help="Channels to draw, as 0-15,40.", show_default="0-15, of a class its highest")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Draw the channels that add most to this class, by index or name; a folder holds one class."),
    ] = None,
    projection: Annotated[str, typer.Option(help=f"What a neuron took: {', '.join(PROJECTIONS)}.")] = PROJECTIONS[0],
) -> None:
    """Find the images that excite each channel most, and draw what its strongest unit saw of them.

    Every row of a sheet is a channel: the parts of the images in the exact receptive field of the unit, and below
    what it took from them. neurons.csv and neurons.parquet have all channels of all layers.
    """
    with report_errors():
        network.check(model)
        outputs.check_folder(out)
        drawn = None if channels is None else _numbers(channels)
        if projection not in PROJECTIONS:
            raise ValueError(f"--projection must be one of {', '.join(PROJECTIONS)}, got {projection!r}")
        import_dataset()
        chosen = images.select(_source(source, out))
        classifier = network.load(model, running.device_of_model())
        preprocessing = geometry.change(classifier.preprocessing)
        from fastcam.cli.neuron_sheets import NeuronSheets
        from fastcam.dataset.summary import problems
        from fastcam.features import neurons as package
    with interruptible(), report_errors(), show_progress(running.json_log, "looking inside", "result") as report:
        package.run(
            chosen,
            classifier,
            out,
            layers=layer,
            k=k,
            target=target,
            preprocessing=preprocessing,
            report=report,
            **reading.settings(),
            **running.settings(),
        )
    with report_errors():
        found = package.Neurons(out)
        failed = list(problems(found.maps))
        for row in failed:
            print_error(f"{row['image_id']}: {row['status']}")
        if not found.top:
            raise ValueError("none of the pictures can be read")
        if target is not None and not found.class_images:
            raise ValueError(f"the model sees {target!r} in none of the images: what it uses cannot be told")
        sheets = NeuronSheets(found, classifier, preprocessing, chosen, None if projection == "none" else projection)
        sheets.write_rows(out)
        for name in found.top:
            count = sheets.write(name, drawn, out / f"{name}.png")
            missing = [str(channel) for channel in drawn or () if channel >= len(found.top[name])]
            if missing:
                print_error(f"layer {name!r} has channels 0 to {len(found.top[name]) - 1}, not {', '.join(missing)}")
            if count:
                typer.echo(f"{out / name}.png: {count} of {len(found.top[name])} channels")
    raise typer.Exit(1 if failed else 0)


def filters(
    model: options.Model,
    network: WeightOptions,
    layer: Annotated[str | None, typer.Option(help="A convolution.", show_default="the first one")] = None,
    out: Annotated[Path, typer.Option(help="PNG file.")] = Path("filters.png"),
) -> None:
    """Draw the filters of a layer: in colour those that see colours."""
    with report_errors():
        network.check(model)
        outputs.check_folder(out.absolute().parent, "the folder of --out")
        import torch

        classifier = network.load(model, torch.device("cpu"))
        from fastcam.inspect import pictures

        _save(pictures.filters(classifier.model, layer), out)
        name = layer or pictures.find_stem(classifier.model)[0]
    typer.echo(f"{out}: the filters of {name}")


@dataclass
class _Pass:
    """Photographs that go through a model."""

    classifier: "Classifier"
    preprocessing: "Preprocessing"
    paths: list[Path]
    failed: int = 0
    _read: list[Path] = field(default_factory=list)  # by the number of the image

    def run(self, layers: list[str] | None, batch_size: int, k: int) -> "Survey":
        """Return the survey of all photographs that can be read."""
        import torch

        from fastcam.dataset.job import device_of
        from fastcam.inspect import Surveyor

        surveyor, device = Surveyor(self.classifier.model, layers, k), device_of(self.classifier.model)
        with progress_bar() as progress:
            task = progress.add_task("looking inside", total=len(self.paths))
            for tensors in self._batches(batch_size):
                surveyor(torch.stack(tensors).to(device))
                progress.update(task, completed=len(self._read) + self.failed)
        if not self._read:
            raise ValueError("none of the pictures can be read")
        return surveyor.survey

    def load(self, number: int) -> "tuple[Tensor, Bytes]":
        """Return the input of an image, and what the model sees of it."""
        from fastcam.classifiers.preprocessing import read_photograph

        crop = self.preprocessing.crop(read_photograph(self._read[number]))
        return self.preprocessing.tensor(crop), np.asarray(crop.convert("RGB"))

    def path(self, number: int) -> Path:
        """Return the file of an image."""
        return self._read[number]

    def _batches(self, size: int) -> "Iterator[list[Tensor]]":
        from fastcam.classifiers.preprocessing import read_photograph

        batch: list[Tensor] = []
        for path in self.paths:
            try:
                batch.append(self.preprocessing(read_photograph(path)))
            except ValueError as error:
                self.failed += 1
                print_error(f"{path}: {error}")
                continue
            self._read.append(path)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


def _table(survey: "Survey") -> Table:
    table = Table("layer", title=f"{survey.images} images", title_justify="left")
    heads = {"mean": ".4g", "median": ".4g", "deviation": ".4g", "zero_share": ".1%", "dead": "d", "nearly_dead": "d"}
    for name in ("channels", *heads):
        table.add_column(name.replace("_", " "), justify="right")
    for name, seen in survey.items():
        over = seen.statistics.over_channels()
        numbers = [format(int(over[key]) if form == "d" else over[key], form) for key, form in heads.items()]
        table.add_row(escape(name), str(len(seen.statistics)), *numbers)
    return table


def _write_channels(pass_: _Pass, survey: "Survey", out: Path) -> None:
    """Write a picture of the stages of every photograph, and one of the channels of each layer."""
    import fastcam.inspect
    from fastcam.classifiers.preprocessing import write_png
    from fastcam.dataset.job import device_of
    from fastcam.inspect import pictures

    outputs.make_folder(out)
    model = pass_.classifier.model
    read = [pass_.path(number) for number in range(survey.images)]
    for number, name in enumerate(outputs.names(read)):
        tensor, picture = pass_.load(number)
        seen = fastcam.inspect.activations(model, tensor.unsqueeze(0).to(device_of(model)), list(survey))
        maps = {layer: stage.maps for layer, stage in seen.items() if stage.maps.dim() == 4}
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        if maps:
            write_png(seen.figure(0, picture), out / f"{name}.stages.png")
        for layer, values in maps.items():
            _save(pictures.channel_grid(values[0]), out / f"{name}.{layer}.png")


def _source(texts: Sequence[str], out: Path) -> "str | list[str]":
    """Return one dataset, or the pictures in files, folders and globs."""
    (first, *others) = texts
    is_dataset = "://" in first or Path(first).suffix in (".tar", ".parquet", ".txt")
    if is_dataset and not others:
        return first
    paths = photographs.find(texts, out)
    if not paths:
        raise ValueError("no pictures were found")
    return [str(path) for path in paths]


def _numbers(text: str) -> list[int]:
    """Return the numbers of a text such as 0-15,40.

    Raises:
        ValueError: for another text.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"--channels must be numbers and ranges, as 0-15,40; got {text!r}")
        found += range(int(first), int(last if dash else first) + 1)
    return list(dict.fromkeys(found))


def _save(picture: "Bytes", file: Path) -> None:
    from PIL import Image

    from fastcam.classifiers.preprocessing import write_png

    write_png(Image.fromarray(picture), file)
