"""Options that several commands take together: a dataclass for each subject, whose fields are the options."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from fastcam.cli import options

if TYPE_CHECKING:
    import torch

    from fastcam.classifiers.models import Classifier
    from fastcam.classifiers.preprocessing import Preprocessing
    from fastcam.dataset import Cluster
    from fastcam.dataset.sources import Source


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes the fields of its groups as options of their own, under the headings of the groups.

    Args:
        command: a function whose parameters are annotated for typer, or with a dataclass of this module.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters(hints[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = hints[name](**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    del flat.__wrapped__  # its signature is another one
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def first_given(*groups: Any, but: Sequence[str] = ()) -> str | None:
    """Return the first option of groups that is not what it is by default, as it is written; None if all are."""
    for group in groups:
        for field in fields(group):
            if field.name not in but and getattr(group, field.name) != field.default:
                return f"--{field.name.replace('_', '-')}"
    return None


def _parameters(group: type[Any]) -> Iterator[inspect.Parameter]:
    """Yield a parameter for every field of a group."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind, described = get_args(hints[field.name])
        shown: OptionInfo = copy(described)
        shown.rich_help_panel = group.heading
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=Annotated[kind, shown]
        )


def _default(field: "Field[Any]") -> object:
    return inspect.Parameter.empty if field.default is MISSING else field.default


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
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per batch.", show_default="8, GPU 64")] = None
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
