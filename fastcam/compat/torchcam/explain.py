"""The explanation of one prediction, saved with all that is needed to reproduce it."""

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastcam.compat.torchcam.methods import GradCAM
from fastcam.compat.torchcam.methods.core import _CAM
from fastcam.compat.torchcam.utils import overlay_mask

__all__ = ["PredictionExplanation", "explain"]


@dataclass(frozen=True)
class PredictionExplanation:
    """A prediction, with maps of the predicted and the expected class.

    Attributes:
        logits: (1, K), on the CPU.
        predicted_class_idx: the highest class.
        expected_class_idx: the other explained class.
        cams: by class, the maps (h, w) of the layers, or one of all layers.
        method: the extractor's name.
        target_layers: the layers' names.
        model: the class of the model.
        input_shape: shape of the image.
        versions: of Python, torch and, as "torchcam", this package.
        class_names: of all classes, if known.
    """

    logits: Tensor
    predicted_class_idx: int
    expected_class_idx: int | None
    cams: Mapping[int, tuple[Tensor, ...]]
    method: str
    target_layers: tuple[str, ...]
    model: str
    input_shape: tuple[int, ...]
    versions: Mapping[str, str]
    class_names: tuple[str, ...] | None = None

    def save(self, directory: str | Path, image: Image.Image, alpha: float = 0.5) -> Path:
        """Write maps, images and manifest.json into a new folder, which is removed again after an error.

        Args:
            directory: the folder.
            image: the background of the overlays.
            alpha: its weight.

        Returns:
            The folder.

        Raises:
            TypeError: if ``image`` is not a PIL image.
            FileExistsError: if the folder exists.
        """
        if not isinstance(image, Image.Image):
            raise TypeError(f"`image` must be a PIL image, got {type(image).__name__}")
        folder = Path(directory)
        folder.mkdir(parents=True)
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, folder)
            manifest = self._manifest(image, alpha)
            manifest["classes"] = {
                str(index): self._write_class(folder, index, image, alpha) for index in sorted(self.cams)
            }
            text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False)
            (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
            undo.pop_all()
        return folder

    def _manifest(self, image: Image.Image, alpha: float) -> dict[str, object]:
        return {
            "schema_version": 1,
            "prediction": self._class_entry(self.predicted_class_idx),
            "expected": None if self.expected_class_idx is None else self._class_entry(self.expected_class_idx),
            "method": self.method,
            "target_layers": list(self.target_layers),
            "model": self.model,
            "input_shape": list(self.input_shape),
            "versions": dict(self.versions),
            "image_size": list(image.size),
            "alpha": alpha,
        }

    def _class_entry(self, class_idx: int) -> dict[str, int | str | None]:
        name = None if self.class_names is None else self.class_names[class_idx]
        return {"class_idx": class_idx, "class_name": name}

    def _write_class(self, folder: Path, class_idx: int, image: Image.Image, alpha: float) -> dict[str, object]:
        """Write the files of a class and return its manifest entry."""
        maps, artifacts = self.cams[class_idx], []
        layers = [self.target_layers] if len(maps) == 1 else [(name,) for name in self.target_layers]
        for index, (names, layer_map) in enumerate(zip(layers, maps, strict=True)):
            stem, values = f"class-{class_idx}-layer-{index}", layer_map.numpy()
            files = {"map": f"{stem}.npy", "heatmap": f"{stem}-heatmap.png", "overlay": f"{stem}-overlay.png"}
            np.save(folder / files["map"], values, allow_pickle=False)
            shades = (255 * values.clip(0, 1)).round().astype(np.uint8)
            Image.fromarray(shades).save(folder / files["heatmap"])
            overlay_mask(image, Image.fromarray(values), alpha=alpha).save(folder / files["overlay"])
            artifacts.append({"target_layers": list(names), **files})
        probability = self.logits.softmax(1)[0, class_idx].item()
        scores = {"logit": self.logits[0, class_idx].item(), "probability": probability}
        return {**self._class_entry(class_idx), **scores, "artifacts": artifacts}


def explain(
    model: nn.Module,
    input_tensor: Tensor,
    *,
    expected_class_idx: int | None = None,
    class_names: Sequence[str] | None = None,
    method: type[_CAM] = GradCAM,
    target_layer: nn.Module | str | list[nn.Module | str] | None = None,
    method_kwargs: Mapping[str, Any] | None = None,
) -> PredictionExplanation:
    """Explain the highest class of one image, and an expected one.

    Args:
        model: a classifier in evaluation mode.
        input_tensor: (1, C, H, W).
        expected_class_idx: another class to explain.
        class_names: of all classes.
        method: an extractor class.
        target_layer: its target layer.
        method_kwargs: its other arguments.

    Raises:
        RuntimeError: under ``torch.inference_mode()``.
        TypeError, ValueError: for arguments that do not fit the model or the image.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("`explain` needs gradients: call it outside torch.inference_mode()")
    _check(model, input_tensor, expected_class_idx, method, method_kwargs)
    options = dict(method_kwargs or {})
    if target_layer is not None:
        options["target_layer"] = target_layer
    elif method is GradCAM:
        options.setdefault("input_shape", tuple(input_tensor.shape[1:]))
    images = input_tensor.detach()
    with torch.enable_grad(), method(model, **options) as extractor:
        logits = _checked_logits(model(images))
        predicted, class_count = int(logits[0].argmax()), logits.shape[1]
        names = _checked_names(class_names, class_count)
        cams = {predicted: _checked_maps(extractor(predicted, logits))}
        if expected_class_idx is not None and not 0 <= expected_class_idx < class_count:
            raise ValueError(f"`expected_class_idx` must lie in [0, {class_count}), got {expected_class_idx}")
        if expected_class_idx not in (None, predicted):
            cams[expected_class_idx] = _checked_maps(extractor(expected_class_idx, _checked_logits(model(images))))
        layers = tuple(extractor.target_names)
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "torchcam": version("fastcam")}
    return PredictionExplanation(
        logits.detach().cpu(),
        predicted,
        expected_class_idx,
        MappingProxyType(cams),
        method.__name__,
        layers,
        f"{type(model).__module__}.{type(model).__qualname__}",
        tuple(input_tensor.shape),
        MappingProxyType(versions),
        names,
    )


def _check(model: object, images: object, expected: object, method: object, options: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    if any(module.training for module in model.modules()):
        raise ValueError("`model` must be in evaluation mode: call model.eval()")
    if not isinstance(images, Tensor):
        raise TypeError(f"`input_tensor` must be a torch.Tensor, got {type(images).__name__}")
    if images.dim() != 4 or len(images) != 1 or not images.is_floating_point():
        kind = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"`input_tensor` must be one floating point image (1, C, H, W), got {kind}")
    if expected is not None and (not isinstance(expected, int) or isinstance(expected, bool)):
        raise TypeError(f"`expected_class_idx` must be a whole number or None, got {type(expected).__name__}")
    if not isinstance(method, type) or not issubclass(method, _CAM):
        raise TypeError(f"`method` must be an extractor class, got {method!r}")
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"`method_kwargs` must be a mapping or None, got {type(options).__name__}")
    if options is not None and "target_layer" in options:
        raise ValueError("`method_kwargs` must not hold `target_layer`, which is a separate argument")


def _checked_logits(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"the model must return a tensor, got {type(output).__name__}")
    if output.dim() != 2 or len(output) != 1 or output.shape[1] < 1:
        raise ValueError(f"the model must return scores of shape (1, K), got {tuple(output.shape)}")
    if not output.isfinite().all():
        raise ValueError("the model's scores must be finite, got NaN or infinity among them")
    return output


def _checked_names(names: Sequence[str] | None, class_count: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or len(names) != class_count:
        raise ValueError(f"`class_names` must hold a name for each of the {class_count} classes")
    if not all(isinstance(name, str) for name in names):
        raise TypeError("`class_names` must hold strings")
    return tuple(names)


def _checked_maps(maps: list[Tensor]) -> tuple[Tensor, ...]:
    for layer_map in maps:
        if layer_map.dim() != 3 or len(layer_map) != 1:
            raise ValueError(f"maps must have shape (1, h, w), got {tuple(layer_map.shape)}")
        if not layer_map.isfinite().all():
            raise ValueError("maps must be finite, got NaN or infinity in one of them")
    return tuple(layer_map[0].detach().to("cpu", torch.float32).contiguous() for layer_map in maps)
