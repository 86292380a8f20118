"""Extractors that use the gradients at the target layers."""

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fastcam import ops
from fastcam.compat.torchcam.methods._selection import Classes, ModelOutput, Targets, class_scores, target_scores
from fastcam.compat.torchcam.methods.core import _CAM, TargetLayer
from fastcam.methods.registry import get_method


class _GradCAM(_CAM):
    """The base class of extractors with gradients.

    A forward pass under ``torch.no_grad()``, or of a model whose parameters are frozen, is recorded from the first
    target layer on. Under ``torch.no_grad()`` the caller gets the output without its graph; that same tensor, passed as
    ``scores``, stands for the one with the graph.
    """

    _relu = True
    _score_used = True
    _targets_supported = True
    _rule: ClassVar[str] = ""  # name of the method in the registry

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.hook_handles.append(model.register_forward_pre_hook(self._weak_hook("_begin")))
        self.hook_handles.append(model.register_forward_hook(self._weak_hook("_end"), always_call=True))

    def _begin(self, model: nn.Module, arguments: tuple[object, ...]) -> None:
        self._record.grad_modes.append(torch.is_grad_enabled())

    def _end(self, model: nn.Module, arguments: tuple[object, ...], output: object) -> object:
        """Restore the caller's grad mode, also after an error."""
        had_grad = self._record.grad_modes.pop() if self._record.grad_modes else True
        enabled_grad, self._record.enabled_grad = self._record.enabled_grad, False
        if self._is_recording:
            self._record.result = None
        if had_grad or not enabled_grad:
            return None
        torch.set_grad_enabled(False)
        without_graph = tree_map_only(Tensor, Tensor.detach, output)
        self._record.result = (without_graph, output)
        return without_graph

    def _hook_a(self, module: nn.Module, arguments: tuple[object, ...], output: object, idx: int = 0) -> object:
        """Record the layer's output in the graph; the model continues with a copy."""
        if not self._is_recording:
            return None
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise TypeError(f"target layer {self.target_names[idx]!r} must return a floating point tensor, got {kind}")
        recorded, replacement = self._record_and_replacement(output)
        self._record.outputs[idx] = recorded
        self._record.activations[idx] = self._reshaped(recorded, idx)
        return replacement

    def _record_and_replacement(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the tensor to differentiate by, and the one that the model continues with, None for its own."""
        has_grad = torch.is_grad_enabled()
        if torch.is_inference_mode_enabled() or not (has_grad or self._record.grad_modes):
            return output.clone(), None
        if has_grad and output.requires_grad:
            if self.exact_peer:
                return output, None
            recorded = output.clone()
        else:
            if not has_grad:
                torch.set_grad_enabled(True)  # until the model has run
                self._record.enabled_grad = True
            recorded = output.detach().clone().requires_grad_()
        return recorded, recorded.clone()

    def _with_graph(self, scores: ModelOutput | None) -> ModelOutput | None:
        """Return the output with its graph, for the one that the caller got without."""
        result = self._record.result
        return result[1] if result is not None and scores is result[0] else scores

    def _backprop(
        self,
        scores: ModelOutput | None,
        class_idx: Classes | None = None,
        retain_graph: bool = False,
        targets: Targets | None = None,
    ) -> None:
        """Set ``hook_g``: per layer, the gradients (N, C, *s) of every image's score.

        Raises:
            RuntimeError: for scores without a graph, or with one that does not reach a layer or was freed.
        """
        output = self._with_graph(scores)
        with torch.inference_mode(False), torch.enable_grad():
            if targets is None:
                total = class_scores(cast(Tensor, output), cast(Classes, class_idx)).sum()
            else:
                total = target_scores(output, targets).sum()
        if not total.requires_grad:
            raise RuntimeError(
                "`scores` carry no graph to the target layers: pass the model's own output, and run the model with "
                "gradients or under torch.no_grad(), not under torch.inference_mode()"
            )
        for index, gradient in enumerate(self._layer_gradients(total, retain_graph)):
            if gradient is None:
                raise RuntimeError(
                    f"the score does not depend on the output of {self.target_names[index]!r} in the last forward pass"
                )
            self._record.gradients[index] = self._reshaped(gradient, index)

    def _layer_gradients(self, total: Tensor, retain_graph: bool) -> tuple[Tensor | None, ...]:
        outputs = [output for output in self._record.outputs if output is not None]
        try:
            return torch.autograd.grad(total, outputs, retain_graph=retain_graph, allow_unused=True)
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise RuntimeError(
                "the graph of `scores` was freed by an earlier call: pass retain_graph=True there, or rerun the model"
            ) from error

    def _maps(self, class_idx: Classes | None, scores: ModelOutput | None, **kwargs: Any) -> list[Tensor]:
        """Compute the maps in one pass over activations and gradients, unless a subclass defines its own weights."""
        if self.exact_peer or type(self)._get_weights is not _GradCAM._get_weights:
            return super()._maps(class_idx, scores, **kwargs)
        options = self._differentiate(class_idx, scores, **kwargs)
        fused = cast(Callable[..., Tensor], get_method(self._rule).fused)
        return [fused(a, g, **options) for a, g in zip(self.hook_a, self.hook_g, strict=True)]

    def _get_weights(self, class_idx: Classes | None, scores: ModelOutput | None = None, **kwargs: Any) -> list[Tensor]:
        """Return per layer the weights of the channels (N, C), or of the elements."""
        options = self._differentiate(class_idx, scores, **kwargs)
        return [self._weights(a, g, **options) for a, g in zip(self.hook_a, self.hook_g, strict=True)]

    def _differentiate(self, class_idx: Classes | None, scores: ModelOutput | None, **kwargs: Any) -> dict[str, float]:
        """Compute the gradients; return the options of the rule."""
        self._backprop(scores, class_idx, **kwargs)
        return {}

    def _weights(self, activations: Tensor, gradients: Tensor, **options: float) -> Tensor:
        flat = get_method(self._rule).value(activations.flatten(2), gradients.flatten(2), **options)
        return flat.reshape(gradients.shape) if flat.dim() == 3 else flat


class GradCAM(_GradCAM):
    """Grad-CAM (arXiv:1610.02391); see :class:`_CAM` for the arguments."""

    _rule = "grad_cam"

    def _weights(self, activations: Tensor, gradients: Tensor, **options: float) -> Tensor:
        return ops.channel_mean(gradients)


class GradCAMpp(_GradCAM):
    """Grad-CAM++ (arXiv:1710.11063, eq. 19); see :class:`_CAM` for the arguments.

    With ``exact_peer=True`` the weight of a channel is the sum of ReLU(G)^3: torch-cam discards the result of the
    division by the denominator of alpha.
    """

    _rule = "grad_cam_pp"

    def _differentiate(self, class_idx: Classes | None, scores: ModelOutput | None, **kwargs: Any) -> dict[str, float]:
        kwargs.pop("eps", None)  # only for the unused denominator
        return super()._differentiate(class_idx, scores, **kwargs)

    def _weights(self, activations: Tensor, gradients: Tensor, **options: float) -> Tensor:
        if self.exact_peer:
            return F.relu(gradients).pow(3).flatten(2).sum(-1)
        return super()._weights(activations, gradients)


class XGradCAM(_GradCAM):
    """XGrad-CAM (arXiv:2008.02312, eq. 8); see :class:`_CAM` for the arguments. The call takes ``eps``."""

    _rule = "xgrad_cam"

    def _differentiate(self, class_idx: Classes | None, scores: ModelOutput | None, **kwargs: Any) -> dict[str, float]:
        eps = kwargs.pop("eps", 1e-8)
        super()._differentiate(class_idx, scores, **kwargs)
        return {"eps": eps}


class LayerCAM(_GradCAM):
    """LayerCAM (doi:10.1109/TIP.2021.3089943); see :class:`_CAM` for the arguments."""

    _rule = "layer_cam"

    @staticmethod
    def _scale_cams(cams: list[Tensor], gamma: float = 2.0) -> list[Tensor]:
        """Return tanh(gamma map), eq. 9, before layers are fused."""
        return [torch.tanh(gamma * cam) for cam in cams]
