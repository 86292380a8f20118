"""Options of the model and of what it is asked: weights, input, layers and methods, preparation."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from fastcam.cli import options

if TYPE_CHECKING:
    import torch

    from fastcam.classifiers.models import Classifier
    from fastcam.classifiers.preprocessing import Preprocessing


@dataclass(frozen=True)
class WeightOptions:
    """Weights and outputs of a network."""

    heading: ClassVar[str] = "Network"

    weights: Annotated[
        Path | None, typer.Option(help="State dict: .safetensors, .pth, .pt or .ckpt, tensors only.")
    ] = None
    trust_model: options.Trust = False
    num_classes: options.ClassCount = None

    def check(self, model: str) -> None:
        """Raise for an invalid model specification or a missing weights file, before torch is imported.

        Raises:
            ValueError: for either.
        """
        options.check_model(model, self.weights)

    def load(self, model: str, device: "torch.device") -> "Classifier":
        """Return the network on its device, with a warning if its weights are random.

        Raises:
            ValueError: if it cannot be loaded.
        """
        return self.load_with(model, device, [])

    def load_with(self, model: str, device: "torch.device", class_names: list[str]) -> "Classifier":
        """Return the network with names of its classes; see :meth:`load`."""
        return options.load_classifier(model, self.weights, class_names, self.num_classes, device, self.trust_model)


@dataclass(frozen=True)
class ClassifierOptions(WeightOptions):
    """Weights, outputs and class names of a network."""

    classes: options.ClassNames = None

    def check(self, model: str) -> None:
        """Raise for an invalid model specification, a missing weights file, or one of class names that has no text.

        Raises:
            ValueError: for any of them.
        """
        super().check(model)
        _ = self._class_names

    def load(self, model: str, device: "torch.device") -> "Classifier":
        """Return the network with its class names; see :meth:`WeightOptions.load`.

        Raises:
            ValueError: if it cannot be loaded.
        """
        return self.load_with(model, device, self._class_names)

    @functools.cached_property
    def _class_names(self) -> list[str]:
        return options.read_class_names(self.classes)  # once: the file may be a pipe


@dataclass(frozen=True)
class SeveralClassifierOptions:
    """Weights, outputs and class names of one network or several."""

    heading: ClassVar[str] = "Network"

    weights: Annotated[
        list[Path] | None,
        typer.Option(help="State dict: .safetensors, .pth, .pt or .ckpt, tensors only; one for each --model."),
    ] = None
    trust_model: options.Trust = False
    num_classes: options.ClassCount = None
    classes: options.ClassNames = None

    def check(self, models: Sequence[str]) -> None:
        """Raise for what is wrong with the specifications or the files, before torch is imported.

        Raises:
            ValueError: also for two models of one name, or too few files of weights.
        """
        names = list(map(options.name_of, models))
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two models are named {name!r}: their maps would have the same folder")
        if self.weights and len(self.weights) != len(models):
            raise ValueError(
                f"there must be a --weights for each of the {len(models)} models, or none, got {len(self.weights)}"
            )
        for model, each in self._each(models):
            each.check(model)
        _ = self._class_names

    def load(self, models: Sequence[str], device: "torch.device") -> "dict[str, Classifier]":
        """Return the networks by name, on their device, each with a warning if its weights are random.

        Raises:
            ValueError: if one cannot be loaded.
        """
        names = self._class_names
        return {options.name_of(model): each.load_with(model, device, names) for model, each in self._each(models)}

    def _each(self, models: Sequence[str]) -> Iterator[tuple[str, WeightOptions]]:
        """Yield each model with the options of its own."""
        files: Sequence[Path | None] = self.weights or [None] * len(models)
        for model, weights in zip(models, files, strict=True):
            yield model, WeightOptions(weights, self.trust_model, self.num_classes)

    @functools.cached_property
    def _class_names(self) -> list[str]:
        return options.read_class_names(self.classes)  # once: the file may be a pipe


@dataclass(frozen=True)
class InputOptions:
    """What a network sees of a photograph."""

    heading: ClassVar[str] = "Input of the network"

    size: options.Size = None
    shorter_side: Annotated[int | None, typer.Option(min=1, help="Resize to this before cropping.")] = None
    mean: options.Colours = None
    std: options.Colours = None

    def change(self, preprocessing: "Preprocessing") -> "Preprocessing":
        """Return the preprocessing with the user's values in place of its own."""
        return preprocessing.changed(size=self.size, shorter_side=self.shorter_side, mean=self.mean, std=self.std)


@dataclass(frozen=True)
class LayerMethodOptions:
    """Methods, and the layers that they explain."""

    heading: ClassVar[str] = "Maps"
    usual: ClassVar[str] = "grad_cam"

    method: Annotated[
        list[str] | None, typer.Option(help="See `fastcam methods`; repeatable.", show_default="grad_cam")
    ] = None
    layer: Annotated[list[str] | None, typer.Option(help="See `fastcam layers`; repeatable.", show_default="found")] = (
        None
    )
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the methods, as window=32; repeatable.", show_default=False)
    ] = None

    def methods(self) -> list[str]:
        """Return the names of the methods.

        Raises:
            ValueError: for an unknown one.
        """
        names = list(dict.fromkeys(self.method or [self.usual]))
        options.check_methods(names)
        return names

    def target_layer(self) -> tuple[str, ...] | None:
        """Return the names of the layers, None if they are to be found."""
        return tuple(self.layer) if self.layer else None

    def settings(self) -> dict[str, Any]:
        """Return the options of the methods.

        Raises:
            ValueError: for a text that is not name=value.
        """
        return options.parse_method_options(self.option or [])


@dataclass(frozen=True)
class MethodOptions(LayerMethodOptions):
    """Methods, and the layers and classes that they explain."""

    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Class index or name, top3 for the highest 3, label of a dataset, objects for the annotated, "
            "detections>0.5 of a detector in `fastcam map`; repeatable.",
            show_default="top1",
        ),
    ] = None


@dataclass(frozen=True)
class PreparedOptions:
    """How a network is run: see :func:`fastcam.prepare`."""

    heading: ClassVar[str] = "Running"

    precision: Annotated[
        options.Precision | None,
        typer.Option(help="Prepare the model: faster, the same maps.", show_default="not prepared"),
    ] = None
    compile: Annotated[bool, typer.Option(help="Prepare and compile the model; takes up to a minute.")] = False

    def settings(self) -> dict[str, Any]:
        """Return the arguments of the explainer."""
        return {"precision": self.precision.value if self.precision else None, "compile": self.compile}
