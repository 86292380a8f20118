"""Extractors whose maps come from the gradients at the target layers."""

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fastcam import ops
from fastcam.compat.torchcam.methods._selection import Targets, class_scores, target_scores
from fastcam.compat.torchcam.methods.core import _CAM, TargetLayer
from fastcam.methods.registry import get_method


class _GradCAM(_CAM):
    """What the maps of gradients share.

    A forward pass under ``torch.no_grad()``, or of a model whose parameters are frozen, is recorded from the first
    target layer on. Under ``torch.no_grad()`` the caller gets the output without its graph; handed in as ``scores``,
    the very tensor stands for the one with the graph.
    """

    _relu = True
    _score_used = True
    _targets_supported = True
    _rule: ClassVar[str] = ""  # the method, as the engine knows it

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.hook_handles.append(model.register_forward_pre_hook(self._begin))
        self.hook_handles.append(model.register_forward_hook(self._end, always_call=True))

    def _begin(self, model: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._kept.modes.append(torch.is_grad_enabled())

    def _end(self, model: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        """Goes back to the caller's grad mode, whatever happened in between."""
        recording = self._kept.modes.pop() if self._kept.modes else True
        began, self._kept.began = self._kept.began, False
        if self._listens:
            self._kept.result = None
        if recording or not began:
            return None
        torch.set_grad_enabled(False)
        without_graph = tree_map_only(Tensor, Tensor.detach, output)
        self._kept.result = (without_graph, output)
        return without_graph

    def _hook_a(self, module: nn.Module, arguments: tuple[Any, ...], output: Any, idx: int = 0) -> Any:
        """Keeps what the layer returned in the graph; the model goes on with a copy."""
        if not self._listens:
            return None
        if not isinstance(output, Tensor) or not output.is_floating_point():
            found = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise TypeError(f"target layer {self.target_names[idx]!r} must return a floating point tensor, got {found}")
        kept, passed_on = self._recorded(output)
        self._kept.outputs[idx] = kept
        self._kept.activations[idx] = self._shaped(kept, idx)
        return passed_on

    def _recorded(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """The tensor to differentiate by, and what the model goes on with, if that is another one."""
        recording = torch.is_grad_enabled()
        if torch.is_inference_mode_enabled() or not (recording or self._kept.modes):
            return output.clone(), None
        if recording and output.requires_grad:
            if self.exact_peer:
                return output, None
            kept = output.clone()
        else:
            if not recording:
                torch.set_grad_enabled(True)  # until the model has run
                self._kept.began = True
            kept = output.detach().clone().requires_grad_()
        return kept, kept.clone()

    def _with_graph(self, scores: Any) -> Any:
        """The output with its graph, for the one that the caller got without."""
        result = self._kept.result
        return result[1] if result is not None and scores is result[0] else scores

    def _backprop(
        self, scores: Any, class_idx: Any = None, retain_graph: bool = False, targets: Targets | None = None
    ) -> None:
        """Sets ``hook_g``: per layer the gradients (N, C, *s) of every image's score.

        Raises:
            RuntimeError: where the scores have no graph, or one that does not reach a layer or was freed.
        """
        scores = self._with_graph(scores)
        with torch.inference_mode(False), torch.enable_grad():
            chosen = class_scores(scores, class_idx) if targets is None else target_scores(scores, targets)
            total = chosen.sum()
        if not total.requires_grad:
            raise RuntimeError(
                "`scores` carry no graph to the target layers: pass the model's own output, and run the model with "
                "gradients or under torch.no_grad(), not under torch.inference_mode()"
            )
        found = self._differentiated(total, retain_graph)
        for index, gradient in enumerate(found):
            if gradient is None:
                raise RuntimeError(
                    f"the score does not depend on {self.target_names[index]!r} as it was in the last forward pass: "
                    "it gets no gradient"
                )
            self._kept.gradients[index] = self._shaped(gradient, index)

    def _differentiated(self, total: Tensor, retain_graph: bool) -> tuple[Tensor | None, ...]:
        outputs = [each for each in self._kept.outputs if each is not None]
        try:
            return torch.autograd.grad(total, outputs, retain_graph=retain_graph, allow_unused=True)
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise RuntimeError(
                "the graph of `scores` was freed by an earlier call: give that one retain_graph=True, or run the model "
                "again"
            ) from error

    def _maps(self, class_idx: Any, scores: Any, **kwargs: Any) -> list[Tensor]:
        """In one pass over activations and gradients, where the weights are not a subclass's own."""
        if self.exact_peer or type(self)._get_weights is not _GradCAM._get_weights:
            return super()._maps(class_idx, scores, **kwargs)
        options = self._differentiate(class_idx, scores, **kwargs)
        fused = cast(Callable[..., Tensor], get_method(self._rule).fused)
        return [fused(a, g, **options) for a, g in zip(self.hook_a, self.hook_g, strict=True)]

    def _get_weights(self, class_idx: Any, scores: Any = None, **kwargs: Any) -> list[Tensor]:
        """Per layer, the weights of the channels (N, C), or of the elements."""
        options = self._differentiate(class_idx, scores, **kwargs)
        return [self._weights(a, g, **options) for a, g in zip(self.hook_a, self.hook_g, strict=True)]

    def _differentiate(self, class_idx: Any, scores: Any, **kwargs: Any) -> dict[str, Any]:
        """Runs backward; the rest of the keywords are the rule's."""
        self._backprop(scores, class_idx, **kwargs)
        return {}

    def _weights(self, activations: Tensor, gradients: Tensor, **options: Any) -> Tensor:
        flat = get_method(self._rule).value(activations.flatten(2), gradients.flatten(2), **options)
        return flat.reshape(gradients.shape) if flat.dim() == 3 else flat


class GradCAM(_GradCAM):
    """Grad-CAM (arXiv:1610.02391); see :class:`_CAM` for the arguments."""

    _rule = "grad_cam"

    def _weights(self, activations: Tensor, gradients: Tensor, **options: Any) -> Tensor:
        return ops.channel_mean(gradients)


class GradCAMpp(_GradCAM):
    """Grad-CAM++ (arXiv:1710.11063, eq. 19); see :class:`_CAM` for the arguments.

    With ``exact_peer=True`` the weight of a channel is the sum of ReLU(G)^3: the tool's division by the denominator
    of alpha does not reach what it goes on with.
    """

    _rule = "grad_cam_pp"

    def _differentiate(self, class_idx: Any, scores: Any, **kwargs: Any) -> dict[str, Any]:
        kwargs.pop("eps", None)  # belongs to the denominator that is not used
        return super()._differentiate(class_idx, scores, **kwargs)

    def _weights(self, activations: Tensor, gradients: Tensor, **options: Any) -> Tensor:
        if self.exact_peer:
            return F.relu(gradients).pow(3).flatten(2).sum(-1)
        return super()._weights(activations, gradients)


class XGradCAM(_GradCAM):
    """XGrad-CAM (arXiv:2008.02312, eq. 8); see :class:`_CAM` for the arguments. The call takes ``eps``."""

    _rule = "xgrad_cam"

    def _differentiate(self, class_idx: Any, scores: Any, **kwargs: Any) -> dict[str, Any]:
        eps = kwargs.pop("eps", 1e-8)
        super()._differentiate(class_idx, scores, **kwargs)
        return {"eps": eps}


class LayerCAM(_GradCAM):
    """LayerCAM (doi:10.1109/TIP.2021.3089943); see :class:`_CAM` for the arguments."""

    _rule = "layer_cam"

    @staticmethod
    def _scale_cams(cams: list[Tensor], gamma: float = 2.0) -> list[Tensor]:
        """tanh(gamma map), eq. 9, before layers are fused."""
        return [torch.tanh(gamma * each) for each in cams]
