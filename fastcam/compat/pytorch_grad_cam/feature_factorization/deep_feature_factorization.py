"""Deep Feature Factorization: activations as products of a few concepts and their maps (arXiv:1806.10206)."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam._types import Array, ReshapeTransform
from fastcam.compat.pytorch_grad_cam.utils.image import (
    create_labels_legend,
    scale_cam_image,
    show_factorization_on_image,
)
from fastcam.model import capture


def dff(activations: Array, n_components: int = 5) -> tuple[Array, Array]:
    """Return concepts (C, n) and their maps (N, n, h, w), by non-negative factorisation; needs scikit-learn.

    Args:
        activations: (N, C, h, w); every channel is shifted to a minimum of 0, NaN counts as 0.
        n_components: number of concepts.
    """
    try:
        from sklearn.decomposition import NMF
    except ImportError:
        raise ImportError('deep feature factorization needs scikit-learn: pip install "fastcam[compat]"') from None
    count, channels, *size = activations.shape
    flat = np.nan_to_num(np.moveaxis(activations, 1, 0).reshape(channels, -1), nan=0.0)
    lowest = flat.min(axis=1, keepdims=True)
    model = NMF(n_components=n_components, init="random", random_state=0)
    concepts = model.fit_transform(flat - lowest) + lowest
    return concepts, np.moveaxis(model.components_.reshape(n_components, count, *size), 1, 0)


class DeepFeatureFactorization:
    """Concepts of a layer's activations.

    Args:
        model: any module.
        target_layer: the layer.
        reshape_transform: from its output to (N, C, h, w).
        computation_on_concepts: function of the concepts (n, C), such as the model's classifier.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module,
        reshape_transform: ReshapeTransform | None = None,
        computation_on_concepts: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.model, self.target_layer, self.reshape_transform = model, target_layer, reshape_transform
        self.computation_on_concepts = computation_on_concepts

    def __call__(self, input_tensor: Tensor, n_components: int = 16) -> tuple[Any, ...]:
        """Return concepts (C, n), N arrays (n, H, W) of maps in [0, 1), and results (n, ...) of the computation.

        Args:
            input_tensor: (N, C, H, W).
            n_components: number of concepts.
        """
        layer = capture.Layer("target_layer", self.target_layer)
        (activations,) = capture.forward(self.model, input_tensor, [layer]).activations
        shaped = activations if self.reshape_transform is None else self.reshape_transform(activations)
        concepts, maps = dff(shaped.float().cpu().numpy(), n_components)
        size = (input_tensor.shape[3], input_tensor.shape[2])
        scaled = [scale_cam_image(image_maps, size) for image_maps in maps]
        if self.computation_on_concepts is None:
            return concepts, scaled
        with torch.no_grad():
            inputs = torch.from_numpy(np.float32(concepts).T.copy()).to(input_tensor.device)
            return concepts, scaled, self.computation_on_concepts(inputs).cpu().numpy()

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Do nothing."""


def run_dff_on_image(
    model: nn.Module,
    target_layer: nn.Module,
    classifier: Callable[[Tensor], Tensor],
    img_pil: Image.Image,
    img_tensor: Tensor,
    reshape_transform: ReshapeTransform | None = None,
    n_components: int = 5,
    top_k: int = 2,
) -> Array:
    """Return an image beside its concepts and a legend with the top classes of each.

    Args:
        model: a Hugging Face classifier, with ``config.id2label``.
        target_layer: the layer.
        classifier: from concepts to scores.
        img_pil: the image.
        img_tensor: the same image as the model's input, (C, H, W).
        reshape_transform: from the output of the layer to (N, C, h, w).
        n_components: number of concepts.
        top_k: number of classes per concept.
    """
    factorization = DeepFeatureFactorization(model, target_layer, reshape_transform, classifier)
    _, maps, scores = factorization(img_tensor[None], n_components)
    shares = torch.from_numpy(scores).softmax(-1).numpy()
    config: Any = model.config
    legend = create_labels_legend(shares, config.id2label, top_k)
    image = np.array(img_pil)
    overlay = show_factorization_on_image(image / 255, maps[0], image_weight=0.3, concept_labels=legend)
    return np.hstack((image, overlay))
