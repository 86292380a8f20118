"""The base of all class activation maps of the package: the call, and the scaling and averaging of maps."""

import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam import rules
from fastcam.compat.pytorch_grad_cam._types import Array, ReshapeTransform, Targets
from fastcam.compat.pytorch_grad_cam.smoothing import FLIPS_AND_FACTORS, FlipAndFactor
from fastcam.compat.pytorch_grad_cam.utils.image import scale_cam_image
from fastcam.compat.pytorch_grad_cam.utils.model_targets import folded_target
from fastcam.compat.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from fastcam.explainer import Explainer
from fastcam.methods.registry import Method, Need, get_method
from fastcam.model import capture
from fastcam.targets.binding import Score, Target


class _NoHooks:
    """A stand-in for pytorch-grad-cam's hooks: nothing is attached to the model between calls."""

    def clear(self) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Do nothing."""


class BaseCAM:
    """A class activation map with the call of pytorch-grad-cam; also the base of custom ones.

    A subclass may define ``get_cam_weights(input_tensor, target_layer, targets, activations, grads)``, which returns
    (N, C), or ``get_cam_image(input_tensor, target_layer, targets, activations, grads, eigen_smooth)``, which returns
    (N, *s); both get NumPy arrays (N, C, *s).

    Args:
        model: any module; it is not changed.
        target_layers: modules; their maps are scaled to [0, 1] and averaged.
        reshape_transform: from the output of a layer to (N, C, *s).
        compute_input_gradient: not used.
        uses_gradients: whether a subclass's functions need gradients.
        tta_transforms: augmentations for ``aug_smooth``, with ``augment_image`` and ``deaugment_mask``; None for flips
            and three factors.
        detach: not used.
        exact_peer: reproduce pytorch-grad-cam's results where they are wrong, see ``DIFFERENCES``.

    Attributes:
        outputs: the model's output in the last call.
        batch_size: copies of an image per batch, for the methods that rerun the model; may be changed.
    """

    smooths = True  # whether ``eigen_smooth`` changes anything

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: ReshapeTransform | None = None,
        compute_input_gradient: bool = False,
        uses_gradients: bool = True,
        tta_transforms: Iterable[FlipAndFactor] | None = None,
        detach: bool = True,
        *,
        exact_peer: bool = False,
    ) -> None:
        self.model, self.target_layers, self.reshape_transform = model, list(target_layers), reshape_transform
        self.compute_input_gradient, self.uses_gradients, self.detach = compute_input_gradient, uses_gradients, detach
        self.tta_transforms = FLIPS_AND_FACTORS if tta_transforms is None else tta_transforms
        self.exact_peer = exact_peer
        self.activations_and_grads = _NoHooks()
        self.outputs: Any = None

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: nn.Module, targets: object, activations: Array, grads: Array | None
    ) -> Array:
        """Return the weight of every channel, (N, C); defined by subclasses."""
        raise NotImplementedError(f"{type(self).__name__} must define get_cam_weights or get_cam_image")

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: nn.Module,
        targets: object,
        activations: Array,
        grads: Array | None,
        eigen_smooth: bool = False,
    ) -> Array:
        """Return the map (N, *s), the weighted sum of the channels; subclasses may override it."""
        weights = self.get_cam_weights(input_tensor, target_layer, targets, activations, grads)
        weighted = weights.reshape(*weights.shape, *[1] * (activations.ndim - 2)) * activations
        return get_2d_projection(weighted) if eigen_smooth else weighted.sum(axis=1)

    def rule(self) -> str | Method:
        """Return the engine's method; without one, a method that calls the functions above."""
        return _function_method(self, False)

    def method(self, eigen_smooth: bool) -> str | Method:
        """Return the rule, smoothed if requested and supported."""
        cls, package = type(self), rules.__package__ or ""
        functions = (cls.get_cam_image, cls.get_cam_weights)
        is_overridden = not all(function.__module__.startswith(package) for function in functions)
        if is_overridden or cls.rule is BaseCAM.rule:
            return _function_method(self, eigen_smooth)
        return rules.smoothed_method(self.rule(), self.exact_peer) if eigen_smooth and self.smooths else self.rule()

    def options(self) -> dict[str, Any]:
        """Return the keyword options of the method."""
        return {}

    def __call__(
        self, input_tensor: Tensor, targets: Targets | None = None, aug_smooth: bool = False, eigen_smooth: bool = False
    ) -> Array:
        """Return the maps of a batch.

        Args:
            input_tensor: (N, C, *S).
            targets: N callables from an image's output to its score; None for the highest class.
            aug_smooth: average over flipped and scaled images.
            eigen_smooth: the first principal component of the weighted activations instead of their sum.

        Returns:
            (N, *S), float32, in [0, 1].

        Raises:
            ValueError, TypeError, RuntimeError: for arguments that do not fit the model or the images.
        """
        if aug_smooth:
            return self.forward_augmentation_smoothing(input_tensor, targets, eigen_smooth)
        return self.forward(input_tensor, targets, eigen_smooth)

    def forward(
        self, input_tensor: Tensor, targets: Targets | Score | None = None, eigen_smooth: bool = False
    ) -> Array:
        """Return the maps without augmentation."""
        return self.aggregate_multi_layers(self.compute_cam_per_layer(input_tensor, targets, eigen_smooth))

    def compute_cam_per_layer(
        self, input_tensor: Tensor, targets: Targets | Score | None, eigen_smooth: bool
    ) -> list[Array]:
        """Return per layer the map (N, 1, *S), in [0, 1], from one pass."""
        if not isinstance(input_tensor, Tensor):
            raise TypeError(
                f"`input_tensor` must be a tensor (N, C, ...), got a {type(input_tensor).__name__}: explain a "
                "module that gets the images alone and passes the model its other inputs"
            )
        images = input_tensor.to(self.device)
        with _in_evaluation(self.model):
            self.outputs, layer_maps = self.native(images, folded_target(targets, len(images)), eigen_smooth)
        size = self.get_target_width_height(images)
        # Cubic splines may overshoot below 0.
        return [np.maximum(scale_cam_image(_positive(maps), size), 0)[:, None] for maps in layer_maps]

    def get_target_width_height(self, input_tensor: Tensor) -> tuple[int, ...]:
        """Return the images' size, the last axis first."""
        return tuple(input_tensor.shape[2:])[::-1]

    def aggregate_multi_layers(self, cam_per_target_layer: Sequence[Array]) -> Array:
        """Return the mean (N, *S) of the layers' maps (N, 1, *S), scaled to [0, 1)."""
        return scale_cam_image(np.concatenate(cam_per_target_layer, axis=1).mean(axis=1))

    def native(self, images: Tensor, target: Target, eigen_smooth: bool) -> tuple[Any, list[Tensor]]:
        """Return the model's output, and per layer the signed map (N, *s)."""
        rule = get_method(self.method(eigen_smooth))
        if self.reshape_transform is not None and rule.needs == ("activations",):
            output, reshaped = _output_and_activations(self.model, images, self.target_layers, self.reshape_transform)
            return output, [_map_of(rule, activations, self.options()) for activations in reshaped]
        explainer = Explainer(
            self.model,
            self.method(eigen_smooth),
            self.target_layers or None,
            fuse=None,
            reshape_transform=self.reshape_transform,
            select=lambda output: _check_output(output, target, rule),
            batch_size=getattr(self, "batch_size", "auto"),
            **self.options(),
        )
        result = explainer(images, target)
        explanations = list(result.values()) if isinstance(result, dict) else [result]
        return explanations[0].output, [explanation.native for explanation in explanations]

    def forward_augmentation_smoothing(
        self, input_tensor: Tensor, targets: Targets | None = None, eigen_smooth: bool = False
    ) -> Array:
        """Return the maps averaged over augmented images."""
        maps = []
        for transform in self.tta_transforms:
            augmented = self.forward(transform.augment_image(input_tensor), targets, eigen_smooth)
            maps.append(transform.deaugment_mask(torch.from_numpy(augmented[:, None])).numpy()[:, 0])
        return np.asarray(np.mean(np.stack(maps), axis=0), np.float32)

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Do nothing: between calls nothing is attached to the model."""


def _function_method(cam: BaseCAM, eigen_smooth: bool) -> Method:
    """Return a method that calls the functions of a subclass with NumPy arrays."""
    layers = itertools.cycle(cam.target_layers)

    def rule(activations: Tensor, *others: Any) -> Tensor:
        scorer = others[-1]
        gradients = others[0].cpu().numpy() if len(others) == 2 else None
        maps = cam.get_cam_image(scorer.images, next(layers), None, activations.cpu().numpy(), gradients, eigen_smooth)
        return torch.as_tensor(np.asarray(maps), device=activations.device)

    needs: tuple[Need, ...] = ("activations", "gradients") if cam.uses_gradients else ("activations",)
    return rules.map_method(type(cam).__name__, rule, *needs, "scorer")


def _output_and_activations(
    model: nn.Module, images: Tensor, layers: Sequence[nn.Module], reshape: ReshapeTransform
) -> tuple[Any, list[Tensor]]:
    """Return the model's output, and per layer its reshaped output, which may be a collection before."""
    activations: dict[int, Tensor] = {}
    thread = threading.get_ident()
    with contextlib.ExitStack() as stack:
        for index, layer in enumerate(layers):

            def record(module: nn.Module, inputs: object, output: object, index: int = index) -> None:
                if threading.get_ident() == thread:
                    activations[index] = reshape(output).detach().clone()

            stack.callback(layer.register_forward_hook(record).remove)
        output = capture.forward(model, images).output
    return output, [activations[index] for index in range(len(layers))]


def _check_output(output: Any, target: Target, rule: Method) -> Any:
    """Return the output; refuse one that the targets cannot score."""
    by_class = not callable(target) and not (isinstance(target, Sequence) and any(map(callable, target)))
    if isinstance(output, Tensor) or (isinstance(output, list) and not by_class):
        return output
    if (target is None and rule.needs == ("activations",)) or callable(target) or isinstance(target, Score):
        return output
    raise TypeError(
        f"the model must return a tensor (N, classes), or a list with one entry per image for own targets, got a "
        f"{type(output).__name__}: explain a module that returns only the scored part of it"
    )


def _map_of(rule: Method, activations: Tensor, options: dict[str, Any]) -> Tensor:
    """Return the map (N, *s) of activations (N, C, *s), by a rule that needs nothing else."""
    values = rule.value(activations.flatten(2) if rule.is_flat else activations, **options)
    if rule.returns == "weights":
        values = (values.unsqueeze(-1) * activations.flatten(2)).sum(1)
    return values.reshape(len(activations), *activations.shape[2:])


def _positive(maps: Tensor) -> Array:
    return F.relu(maps).float().cpu().numpy()


@contextlib.contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode within the context."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
