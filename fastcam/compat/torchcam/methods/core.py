"""The base class of all extractors: hooks that record the last forward pass, the call, and the maps."""

import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastcam.compat.torchcam.methods._hooks import Hooks, PassRecord
from fastcam.compat.torchcam.methods._maps import Maps
from fastcam.compat.torchcam.methods._selection import (
    Classes,
    ModelOutput,
    OutputTarget,
    Targets,
    are_classes,
    plain_classes,
    targets_per_image,
)
from fastcam.compat.torchcam.methods._utils import locate_candidate_layer
from fastcam.model import layers

__all__ = ["_CAM", "OutputTarget"]

logger = logging.getLogger(__name__)

TargetLayer = nn.Module | str | list[nn.Module | str] | None


class _CAM(Hooks, Maps):
    """A class activation map of the model's last forward pass, run by the caller; also the base of custom extractors.

    A subclass defines ``_get_weights(class_idx, scores, **kwargs)``, which returns for every layer (N, C) or
    (N, C, *s), from ``self.hook_a``, the activations (N, C, *s) of every layer.

    Hooks record the outputs of the layers per thread and pass them on unchanged. No parameter's ``.grad`` is
    written, and after :meth:`remove_hooks`, or without the extractor, nothing is left in the model. Passes that other
    methods of this package make on the model are not recorded.

    Args:
        model: any module.
        target_layer: a module, its name, or a list of either; None for the last one with a spatial output.
        input_shape: (C, *S) of the image used to find the layer.
        enable_hooks: whether recording starts at once.
        reshape_transform: from the output of a layer to (N, C, *s).
        exact_peer: reproduce torch-cam's results where they are wrong, see ``torchcam.DIFFERENCES``.

    Attributes:
        target_names: the names of the layers.
        hook_handles: the handles of the hooks.
        hook_a: the calling thread's activations, per layer.
        hook_g: the calling thread's gradients, per layer.

    Raises:
        TypeError, ValueError: for arguments that do not fit the model.
    """

    _score_used = False  # whether the call needs the model's output
    _targets_supported = False  # whether callables may take the place of classes

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        exact_peer: bool = False,
    ) -> None:
        _check_reshape(reshape_transform, target_layer)
        self.model, self.exact_peer = model, exact_peer
        self.submodule_dict = dict(model.named_modules())
        self.target_names = self._layer_names(target_layer, input_shape)
        self._reshape_transform = reshape_transform
        self._hooks_enabled = enable_hooks
        self._record = PassRecord(len(self.target_names))
        self.hook_handles = self._no_hooks()
        for index, name in enumerate(self.target_names):
            hook = self._weak_hook("_hook_a", idx=index)
            self.hook_handles.append(self.submodule_dict[name].register_forward_hook(hook))

    def _layer_names(self, target_layer: TargetLayer, input_shape: tuple[int, ...]) -> list[str]:
        if target_layer is None:
            name = locate_candidate_layer(self.model, input_shape)
            if name is None:
                raise ValueError(
                    f"no layer returns a map for an image {input_shape}: pass target_layer= or input_shape="
                )
            logger.warning(f"no `target_layer` was given: using {name!r}")
            return [name]
        target_layers = target_layer if isinstance(target_layer, list) else [target_layer]
        return [self._resolve_layer_name(layer) for layer in target_layers]

    def _resolve_layer_name(self, target_layer: nn.Module | str) -> str:
        """Return the name of a module of the model, given as the module or its name."""
        if isinstance(target_layer, str) and target_layer in self.submodule_dict:
            return target_layer
        return layers.resolve_one(self.model, target_layer).name

    def _hook_a(self, module: nn.Module, arguments: tuple[object, ...], output: object, idx: int = 0) -> object:
        """Record the layer's output, so that later in-place modules cannot change it."""
        if self._is_recording:
            # torch-cam records the tensor itself, which later in-place modules may change.
            recorded = output.clone() if isinstance(output, Tensor) and not self.exact_peer else output
            self._record.activations[idx] = self._reshaped(recorded, idx)
        return None

    def _reshaped(self, output: object, idx: int) -> Tensor:
        """Return the output as (N, C, *s), detached."""
        if self._reshape_transform is not None:
            output = self._reshape_transform(cast(Tensor, output))
        if not isinstance(output, Tensor):
            raise TypeError(
                f"target layer {self.target_names[idx]!r} must return a tensor, or reshape_transform= make one of it, "
                f"got a {type(output).__name__}"
            )
        return output.detach()

    def _get_weights(self, class_idx: Classes | None, scores: ModelOutput | None = None, **kwargs: Any) -> list[Tensor]:
        """Return per layer the weights of the channels, (N, C), or of the elements; defined by subclasses."""
        raise NotImplementedError(f"{type(self).__name__} must define _get_weights")

    def _precheck(
        self, class_idx: Classes | None, scores: ModelOutput | None = None, targets: Targets | None = None
    ) -> None:
        """Raise a readable error for arguments that do not fit the method or the last forward pass."""
        if (class_idx is None) == (targets is None):
            raise ValueError("the call must name either `class_idx` or `targets`, got both or neither")
        if targets is not None and not self._targets_supported:
            raise ValueError(f"{type(self).__name__} takes no callables as `targets`, only `class_idx`")
        self._check_batch(class_idx, targets)
        if targets is None and not are_classes(class_idx):
            raise ValueError(f"`class_idx` must be a class or a list of one per image, from 0 on, got {class_idx!r}")
        if self._score_used and scores is None:
            raise ValueError(f"{type(self).__name__} needs the model's output as `scores`")
        if self._score_used and targets is None and not isinstance(scores, Tensor):
            raise TypeError(f"`scores` must be a tensor (N, K) for `class_idx`, got {type(scores).__name__}")

    def _check_batch(self, class_idx: Classes | None, targets: Targets | None) -> None:
        for activations in self._record.activations:
            if activations is None:
                raise AssertionError(
                    "no forward pass was recorded in this thread: run the model with the hooks enabled"
                )
            if isinstance(class_idx, list) and len(class_idx) != len(activations):
                raise ValueError(
                    f"`class_idx` must hold one class for each of the {len(activations)} images, got {len(class_idx)}"
                )
        if targets is not None:
            targets_per_image(targets, len(self.hook_a[0]))

    def __call__(
        self,
        class_idx: Classes | None = None,
        scores: ModelOutput | None = None,
        normalized: bool = True,
        *,
        targets: Targets | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Check the arguments and call :meth:`compute_cams`.

        Raises:
            AssertionError: before a forward pass.
            ValueError, TypeError, IndexError, RuntimeError: for arguments that do not fit the last forward pass.
        """
        class_idx = plain_classes(class_idx)
        self._precheck(class_idx, scores, targets)
        return self.compute_cams(class_idx, scores, normalized, targets=targets, **kwargs)

    def compute_cams(
        self,
        class_idx: Classes | None = None,
        scores: ModelOutput | None = None,
        normalized: bool = True,
        *,
        targets: Targets | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Return the maps of the last forward pass.

        Args:
            class_idx: a class, or one per image; a list or a tensor.
            scores: the model's output (N, K), for the methods that need it.
            normalized: scale every map to [0, 1].
            targets: a callable from an image's output to its score, or one per image, instead of classes.
            kwargs: options of the method; ``retain_graph`` to allow another call after the same forward pass.

        Returns:
            Per layer (N, *s), on its device; float32 for half precision.
        """
        if targets is not None:
            kwargs["targets"] = targets
        maps = self._maps(plain_classes(class_idx), scores, **kwargs)
        return [self._scaled(layer_maps) for layer_maps in maps] if normalized else maps

    def _maps(self, class_idx: Classes | None, scores: ModelOutput | None, **kwargs: Any) -> list[Tensor]:
        weights = self._get_weights(class_idx, scores, **kwargs)
        with torch.no_grad():
            return [self._weighted(w, a) for w, a in zip(weights, self.hook_a, strict=True)]

    def _extra_repr(self) -> str:
        return f"target_layer={self.target_names}"

    def __repr__(self) -> str:
        """Return the class name with its layers."""
        return f"{type(self).__name__}({self._extra_repr()})"


def _check_reshape(reshape_transform: object, target_layer: object) -> None:
    if reshape_transform is None:
        return
    if not callable(reshape_transform):
        raise TypeError(f"`reshape_transform` must be callable, got {type(reshape_transform).__name__}")
    if target_layer is None:
        raise ValueError("`reshape_transform` needs a `target_layer`, got None")
