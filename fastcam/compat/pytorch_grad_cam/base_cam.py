"""What all class activation maps of the package share: the call, and what becomes of the maps."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam import rules
from fastcam.compat.pytorch_grad_cam.smoothing import FLIPS_AND_FACTORS
from fastcam.compat.pytorch_grad_cam.utils.image import scale_cam_image
from fastcam.compat.pytorch_grad_cam.utils.model_targets import classes_of
from fastcam.compat.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from fastcam.explainer import Explainer
from fastcam.methods.registry import Method, Need, get_method
from fastcam.model import capture

Array = np.ndarray[Any, Any]

DIFFERENCES = (
    ("too few targets", "a sentence; the tool leaves zero maps"),
    (
        "a model in training mode",
        "is explained in evaluation mode and left as it was; the tool leaves it in evaluation",
    ),
    ("parameters", "get no .grad; the tool adds its gradients to theirs"),
    ("images", "stay as they are; the tool's guided backpropagation makes them require gradients, and ROAD then fails"),
    ("an IndexError inside `with`", "is raised; the tool prints it and goes on"),
    ("in-place modules behind the layer", "do not change the activations; in the tool they do"),
    (
        "GradCAMPlusPlus",
        "the paper's formula; exact_peer=True: 1e-6 in the denominator, which outweighs small gradients",
    ),
    ("the sign of principal components", "that of the mean activation; exact_peer=True: as numpy.linalg.svd has it"),
    ("RefineCAM with eigen_smooth", "smooths so; exact_peer=True: smooths by augmentation, as the tool does"),
    (
        "AblationCAM with ratio_channels_to_ablate above 0.5",
        "all channels of both ends count; the tool stops counting at the first that belongs to both",
    ),
    ("AblationCAM where activations are negative", "the channel becomes 0; the tool: the batch's least value less 1e7"),
)
"""Where the maps or the manners differ from pytorch-grad-cam's, and how."""


class _NoHooks:
    """Stands where the tool keeps its hooks: nothing is attached to the model between calls."""

    def clear(self) -> None:
        """Does nothing."""

    def release(self) -> None:
        """Does nothing."""


class BaseCAM:
    """A class activation map with the call of pytorch-grad-cam; the base of your own as well.

    A subclass may define ``get_cam_weights(input_tensor, target_layer, targets, activations, grads)``, which returns
    (N, C), or ``get_cam_image(input_tensor, target_layer, targets, activations, grads, eigen_smooth)``, which returns
    (N, *s); both get NumPy arrays (N, C, *s).

    Args:
        model: any module; it is not changed.
        target_layers: modules; their maps are scaled to [0, 1] and averaged.
        reshape_transform: from what a layer returns to (N, C, *s).
        compute_input_gradient: taken for the sake of the signature.
        uses_gradients: whether a subclass's functions need gradients.
        tta_transforms: what ``aug_smooth`` averages over, an iterable with ``augment_image`` and ``deaugment_mask``;
            None takes flipped images and three factors.
        detach: taken for the sake of the signature.
        exact_peer: do as the tool does where the right number is another, see ``DIFFERENCES``.

    Attributes:
        outputs: what the model returned in the last call.
        batch_size: copies of an image at a time, for the methods that try many; set it as you like.
    """

    smooths = True  # whether ``eigen_smooth`` changes anything

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        compute_input_gradient: bool = False,
        uses_gradients: bool = True,
        tta_transforms: Any = None,
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
        """Where the model is."""
        return next((each.device for each in self.model.parameters()), torch.device("cpu"))

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: nn.Module, targets: Any, activations: Array, grads: Array | None
    ) -> Array:
        """The weight of every channel, (N, C): for a subclass to define."""
        raise NotImplementedError(f"{type(self).__name__} must define get_cam_weights or get_cam_image")

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: nn.Module,
        targets: Any,
        activations: Array,
        grads: Array | None,
        eigen_smooth: bool = False,
    ) -> Array:
        """The map (N, *s): the weighted sum of the channels, unless a subclass defines another."""
        weights = self.get_cam_weights(input_tensor, target_layer, targets, activations, grads)
        weighted = weights.reshape(*weights.shape, *[1] * (activations.ndim - 2)) * activations
        return get_2d_projection(weighted) if eigen_smooth else weighted.sum(axis=1)

    def rule(self) -> str | Method:
        """The method, as the engine knows it; of a class without one, its functions above."""
        return _of_functions(self, False)

    def method(self, eigen_smooth: bool) -> str | Method:
        """The rule, smoothed where that is asked for and the method knows it."""
        own = type(self)
        ours = {
            each.__module__.startswith(rules.__package__ or "") for each in (own.get_cam_image, own.get_cam_weights)
        }
        if ours != {True} or own.rule is BaseCAM.rule:
            return _of_functions(self, eigen_smooth)
        return rules.smoothed(self.rule(), self.exact_peer) if eigen_smooth and self.smooths else self.rule()

    def options(self) -> dict[str, Any]:
        """Keyword options of the method."""
        return {}

    def __call__(
        self, input_tensor: Tensor, targets: Any = None, aug_smooth: bool = False, eigen_smooth: bool = False
    ) -> Array:
        """Maps of a batch.

        Args:
            input_tensor: (N, C, *S).
            targets: N callables from an image's output to its score; None for the highest class.
            aug_smooth: average over flipped and scaled images.
            eigen_smooth: the first principal component of the weighted activations in the place of their sum.

        Returns:
            (N, *S), float32, in [0, 1].

        Raises:
            ValueError, TypeError, RuntimeError: with a sentence that says what was expected and what came.
        """
        if aug_smooth:
            return self.forward_augmentation_smoothing(input_tensor, targets, eigen_smooth)
        return self.forward(input_tensor, targets, eigen_smooth)

    def forward(self, input_tensor: Tensor, targets: Any = None, eigen_smooth: bool = False) -> Array:
        """As the call, of the images as they are."""
        return self.aggregate_multi_layers(self.compute_cam_per_layer(input_tensor, targets, eigen_smooth))

    def compute_cam_per_layer(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool) -> list[Array]:
        """The map (N, 1, *S) of every layer, in [0, 1], from one pass."""
        images = input_tensor.to(self.device)
        with _in_evaluation(self.model):
            self.outputs, found = self.native(images, classes_of(targets), eigen_smooth)
        size = self.get_target_width_height(images)
        return [np.maximum(scale_cam_image(_positive(each), size), 0)[:, None] for each in found]  # splines overshoot

    def get_target_width_height(self, input_tensor: Tensor) -> tuple[int, ...]:
        """The images' size, the last axis first."""
        return tuple(input_tensor.shape[2:])[::-1]

    def aggregate_multi_layers(self, cam_per_target_layer: Sequence[Array]) -> Array:
        """The mean (N, *S) of the layers' maps (N, 1, *S), scaled to [0, 1)."""
        return scale_cam_image(np.concatenate(cam_per_target_layer, axis=1).mean(axis=1))

    def native(self, images: Tensor, target: Any, eigen_smooth: bool) -> tuple[Any, list[Tensor]]:
        """The model's output, and the signed map (N, *s) of every layer."""
        rule = get_method(self.method(eigen_smooth))
        if self.reshape_transform is not None and rule.needs == ("activations",):
            output, shaped = _reshaped(self.model, images, self.target_layers, self.reshape_transform)
            return output, [_map_of(rule, each, self.options()) for each in shaped]
        explainer = Explainer(
            self.model,
            self.method(eigen_smooth),
            self.target_layers or None,
            fuse=None,
            reshape_transform=self.reshape_transform,
            batch_size=getattr(self, "batch_size", "auto"),
            **self.options(),
        )
        found = explainer(images, target)
        each = list(found.values()) if isinstance(found, dict) else [found]
        return each[0].output, [explanation.native for explanation in each]

    def forward_augmentation_smoothing(
        self, input_tensor: Tensor, targets: Any = None, eigen_smooth: bool = False
    ) -> Array:
        """As the call, averaged over changed images."""
        maps = []
        for transform in self.tta_transforms:
            found = self.forward(transform.augment_image(input_tensor), targets, eigen_smooth)
            maps.append(transform.deaugment_mask(torch.from_numpy(found[:, None])).numpy()[:, 0])
        return np.asarray(np.mean(np.stack(maps), axis=0), np.float32)

    def __enter__(self) -> Self:
        """The object itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Nothing to undo: between calls nothing is attached to the model."""


def _of_functions(cam: BaseCAM, eigen_smooth: bool) -> Method:
    """What the functions of a subclass say, called with NumPy arrays as they are written for."""
    layers = itertools.cycle(cam.target_layers)

    def rule(activations: Tensor, *others: Any) -> Tensor:
        scorer = others[-1]
        gradients = others[0].cpu().numpy() if len(others) == 2 else None
        given = (scorer.images, next(layers), None, activations.cpu().numpy(), gradients)
        return torch.as_tensor(np.asarray(cam.get_cam_image(*given, eigen_smooth)), device=activations.device)

    needs: tuple[Need, ...] = ("activations", "gradients") if cam.uses_gradients else ("activations",)
    return rules.a_map(type(cam).__name__, rule, *needs, "scorer")


def _reshaped(
    model: nn.Module, images: Tensor, layers: Sequence[nn.Module], reshape: Callable[[Any], Tensor]
) -> tuple[Any, list[Tensor]]:
    """The model's output, and of what every layer returned, be it a collection, what the transform makes of it."""
    kept: dict[int, Tensor] = {}
    thread = threading.get_ident()
    with contextlib.ExitStack() as stack:
        for index, layer in enumerate(layers):

            def keep(module: nn.Module, given: Any, output: Any, index: int = index) -> None:
                if threading.get_ident() == thread:
                    kept[index] = reshape(output).detach().clone()

            stack.callback(layer.register_forward_hook(keep).remove)
        output = capture.forward(model, images).output
    return output, [kept[index] for index in range(len(layers))]


def _map_of(rule: Method, activations: Tensor, options: dict[str, Any]) -> Tensor:
    """The map (N, *s) of activations (N, C, *s), by a rule that needs nothing else."""
    found = rule.value(activations.flatten(2) if rule.is_flat else activations, **options)
    if rule.returns == "weights":
        found = (found.unsqueeze(-1) * activations.flatten(2)).sum(1)
    return found.reshape(len(activations), *activations.shape[2:])


def _positive(maps: Tensor) -> Array:
    return F.relu(maps).float().cpu().numpy()


@contextlib.contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
