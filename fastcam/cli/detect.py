"""``fastcam detect``: what a detector finds in photographs, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer
from rich.markup import escape
from rich.table import Table

import fastcam
from fastcam.cli import options, outputs, photographs
from fastcam.cli.console import output, print_error, progress_bar, report_errors, status_text
from fastcam.cli.model_options import ClassifierOptions, LayerMethodOptions

if TYPE_CHECKING:
    from fastcam.cli.detection_run import Found

EXIT_CODES = (
    "Exit codes: 0 all fine, also where nothing was detected; 1 some images could not be read or have a non-finite "
    "map, the others are done; 2 bad usage or nothing to do; 130 ended by Ctrl-C."
)


@dataclass(frozen=True)
class DetectionMethodOptions(LayerMethodOptions):
    """Methods of detections: another one is usual, see docs/detectors.md."""

    usual: ClassVar[str] = "layer_cam"
    method: Annotated[
        list[str] | None, typer.Option(help="See `fastcam methods`; repeatable.", show_default="layer_cam")
    ] = None


class Following(StrEnum):
    """What is scored of a detection in copies of the image."""

    score = "score"
    similarity = "similarity"


def detect(
    images: Annotated[list[str], typer.Argument(help="Files, folders (searched recursively) or globs.")],
    model: options.Model,
    network: ClassifierOptions,
    maps: DetectionMethodOptions,
    above: Annotated[float, typer.Option(min=0, max=1, help="Confidence of the detections.")] = 0.5,
    most: Annotated[int, typer.Option(min=1, help="Detections of a photograph.")] = 10,
    label: Annotated[
        list[str] | None, typer.Option(help="Only this class, by name or number; repeatable.", show_default="all")
    ] = None,
    following: Annotated[
        Following, typer.Option(help="In copies of the image: the score of the object, or the similarity of D-RISE.")
    ] = Following.score,
    out: Annotated[
        Path, typer.Option(help="Folder for the pictures, PHOTO.png and PHOTO.N.METHOD.png, and detections.csv.")
    ] = Path("detections"),
    device: options.Device = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Share of the colour in the overlay.")] = 0.5,
    colormap: Annotated[str, typer.Option(help="jet, or any name known to matplotlib.")] = "jet",
    max_megapixels: options.Megapixels = 50,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Height and width that the model takes.", show_default="those of the photograph"),
    ] = None,
    mean: options.Colours = None,
    std: options.Colours = None,
) -> None:
    """Explain every detection of a detector by a map of its own: pictures, and a table of what was found.

    Detectors of torchvision by name; others, such as Hugging Face's, by a factory. Photographs go in whole, with
    colours from 0 to 1 unless --mean and --std say otherwise.
    """
    with report_errors():
        names, method_options = maps.methods(), maps.settings()
        network.check(model)
        paths = photographs.check(photographs.find(images, out))
        outputs.check_folder(out)
        fastcam.render.colors(colormap)  # raises for an unknown name
        torch_device = options.find_device(device)
        classifier = network.load(model, torch_device)
        from fastcam.cli.detection_run import DetectionRun, Failure, Frame, chosen_labels, write_table

        known = classifier.given_names or classifier.own_names
        target = fastcam.targets.Detections(
            above, most, labels=chosen_labels(label, known) if label else None, following=following.value
        )
        explainer = fastcam.Explainer(classifier.model, names, maps.target_layer(), fuse="mean", **method_options)
        frame = Frame(size, mean or (0.0, 0.0, 0.0), std or (1.0, 1.0, 1.0), torch_device)
        run = DetectionRun(explainer, target, frame, known, out, colormap, alpha, round(max_megapixels * 1e6))
        found: list[Found] = []
        failed = False
        with progress_bar() as progress:
            task = progress.add_task("detecting", total=len(paths))
            for path, outcome in run.over(paths):
                if isinstance(outcome, Failure):
                    failed = True
                    print_error(f"{path}: {outcome.reason}", progress.console)
                else:
                    found += outcome
                    if not outcome:
                        print_error(f"{path}: nothing was detected above {above:g}", progress.console)
                progress.advance(task)
        if found:
            output().print(_table(found, len(names) > 1))
            write_table(found, out / "detections.csv")
    raise typer.Exit(1 if failed or any(each.status == "non-finite" for each in found) else 0)


def _table(found: "Sequence[Found]", several: bool) -> Table:
    table = Table(
        "photo", "detection", "class", "confidence", "box", *(["method"] if several else []), "status", "file"
    )
    for each in found:
        color = "green" if each.status == "ok" else "yellow"
        table.add_row(
            escape(str(each.photograph)),
            str(each.number),
            escape(each.label),
            f"{each.confidence:.1%}",
            " ".join(f"{x:.0f}" for x in each.box),
            *([each.method] if several else []),
            f"[{color}]{status_text(each.status, each.cause)}[/]",
            escape(str(each.file)),
        )
    return table
