"""Options shared by several commands, and their parsing."""

import ast
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import fastcam
from fastcam.classifiers.specification import check_specification, check_weights_file
from fastcam.cli.console import print_error

if TYPE_CHECKING:  # torch takes seconds to import; bad usage is reported before
    import torch
    from torch import Tensor

    from fastcam.classifiers.models import Classifier
    from fastcam.dataset import Devices, Limits

# The names of the registry, available without importing torch; a test keeps them equal.
METHODS = (
    "cam",
    "gmp_cam",
    "eigen_cam",
    "eigen_grad_cam",
    "grad_cam",
    "grad_cam_pp",
    "xgrad_cam",
    "hires_cam",
    "layer_cam",
    "grad_cam_elementwise",
    "score_cam",
    "ablation_cam",
    "rise",
    "occlusion",
    "saliency",
    "input_x_gradient",
    "deconvnet",
    "guided_backprop",
    "guided_grad_cam",
    "integrated_gradients",
    "smooth_grad",
    "full_grad",
)


class Reshape(StrEnum):
    """The reshape transforms of tokens."""

    vit = "vit"
    swin = "swin"


class Precision(StrEnum):
    """The precision of a prepared model."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    auto = "auto"


class Decoder(StrEnum):
    """The decoder of JPEG files."""

    torchcodec = "torchcodec"
    pillow = "pillow"
    scaled = "scaled"
    gpu = "gpu"


class DecodeIn(StrEnum):
    """Where images are decoded."""

    threads = "threads"
    processes = "processes"


Model = Annotated[
    str, typer.Option(help="torchvision:NAME, timm:NAME, package.module:factory, or a TorchScript or .pt2 file.")
]
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        help="torchvision:NAME, timm:NAME, package.module:factory, or a TorchScript or .pt2 file; several see each "
        "image in the same pass, and have a folder each.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust-model", help="Load a model file that contains code, which then runs: trust its author."),
]
ClassCount = Annotated[int | None, typer.Option(min=1, help="Number of outputs, if not that of the architecture.")]
ClassNames = Annotated[Path | None, typer.Option(help="Class names, one per line.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...", show_default="cuda if available")]
Tokens = Annotated[Reshape | None, typer.Option(help="Grid of tokens, where none is found.")]
Size = Annotated[int | None, typer.Option(min=1, help="Input of N x N pixels; --shorter-side is scaled accordingly.")]
Source = Annotated[
    str, typer.Argument(help="Folder, .tar (WebDataset), .parquet or .txt list, a glob or an fsspec URL of such.")
]
Megapixels = Annotated[float, typer.Option(min=0.001, help="Larger images are not decoded.")]
Colours = Annotated[tuple[float, float, float] | None, typer.Option(help="Per channel, 0 to 1.")]


def check_methods(names: Sequence[str]) -> None:
    """Raise for unknown method names.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}; got {name!r}")


def check_model(model: str, weights: Path | None) -> None:
    """Raise for an invalid model specification or a missing weights file.

    Raises:
        ValueError: for either.
    """
    check_specification(model)
    if weights is not None:
        check_weights_file(weights)


def name_of(model: str) -> str:
    """Return a short name for a model specification: of the architecture, the function, or the file."""
    return model.rpartition(":")[2] if ":" in model else Path(model).stem


def reshape_transform(tokens: Reshape | None) -> "Callable[[Tensor], Tensor] | None":
    """Return the reshape transform of that name."""
    if tokens is None:
        return None
    return fastcam.vit_reshape if tokens is Reshape.vit else fastcam.swin_reshape


def load_classifier(
    model: str,
    weights: Path | None,
    class_names: Sequence[str],
    num_classes: int | None,
    device: "torch.device",
    trust: bool,
) -> "Classifier":
    """Load a classifier onto its device, with a warning if its weights are random."""
    from fastcam.classifiers import models

    classifier = models.load(model, weights, class_names=class_names, num_classes=num_classes, trust=trust)
    if classifier.random_weights:
        print_error(
            "warning: the weights are random, so the results are meaningless and others in every run; "
            "load trained ones with --weights"
        )
    classifier.model.to(device)
    return classifier


def limits(megapixels: float, megabytes: float) -> "Limits":
    """Return the limits of the images that are read."""
    from fastcam.dataset import Limits

    return Limits(round(megapixels * 1e6), round(megabytes * 2**20))


def parse_method_options(texts: list[str]) -> dict[str, Any]:
    """Parse name=value texts; Python literals such as numbers, tuples, True and None are evaluated."""
    options = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator):
            raise ValueError(f"--option must be name=value, got {text!r}")
        try:
            options[name.replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name.replace("-", "_")] = value
    return options


def find_device(name: str | None) -> "torch.device":
    """Return the device of that name; None takes a GPU if available.

    Raises:
        ValueError: for an unavailable device.
    """
    import torch

    from fastcam.devices import unusable

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(unusable(name, error)) from None


def find_devices(names: str | None, ray: str | None) -> "tuple[torch.device, Devices | None]":
    """Return where the model is loaded, and the devices of a run, if they are several: commas part them.

    Raises:
        ValueError: for an unavailable device.
    """
    import torch

    from fastcam.dataset import Devices

    if names is None and ray is None and torch.cuda.device_count() > 1:
        names = "all"
    if names is None or (names != "all" and "," not in names):
        return find_device(names), None
    parts = [name.strip() for name in names.split(",")]
    chosen = "all" if names == "all" else [int(name) if name.isdecimal() else name for name in parts]
    return torch.device("cpu"), Devices.of(chosen)


def read_lines(file: Path, holds: str) -> list[str]:
    """Read the lines of a text file, which a message says to hold something.

    Raises:
        ValueError: for a file that cannot be read.
    """
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").strip().splitlines()]
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"the file of {holds} {str(file)!r} cannot be read as text") from None


def read_class_names(file: Path | None) -> list[str]:
    """Read the lines of a file of class names; none without a file.

    Raises:
        ValueError: for a file that cannot be read.
    """
    return [] if file is None else read_lines(file, "class names")
