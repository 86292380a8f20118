"""LeGrad: gradients of class scores by attention probabilities."""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.compat.torchcam.methods._selection import Classes, ModelOutput, Targets, class_scores, plain_classes
from fastcam.compat.torchcam.methods.core import _CAM

Attention = nn.MultiheadAttention


class LeGrad(_CAM):
    """LeGrad (arXiv:2404.03214): positive gradients of every block's own class score by its attention probabilities.

    They are averaged over heads, query tokens and layers, without the prefix tokens. The hooks record the inputs of the
    blocks; the call reruns each block, so that forward passes need no graph and are not changed.

    Args:
        model: a vision transformer of torchvision, or with ``score_projection`` any model of such blocks.
        target_layer: blocks that return tokens (N, T, E) and hold a ``self_attention``, batch first; modules or names.
        score_projection: from a block's tokens to (N, K); None applies the model's ``encoder.ln`` and ``heads`` to the
            mean token.
        prefix_tokens: number of tokens before those of the patches.
        grid_shape: (height, width) in patches; None for a square.
        enable_hooks: whether recording starts at once.
        exact_peer: as for :class:`_CAM`.

    Raises:
        TypeError, ValueError: for arguments that do not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str],
        *,
        score_projection: Callable[[Tensor], Tensor] | None = None,
        prefix_tokens: int = 1,
        grid_shape: tuple[int, int] | None = None,
        enable_hooks: bool = True,
        exact_peer: bool = False,
    ) -> None:
        if target_layer is None or target_layer == []:
            raise ValueError(f"`target_layer` must name at least one block, got {target_layer}")
        _check_numbers(prefix_tokens, grid_shape)
        self._score_projection = _projection(model, score_projection)
        self.prefix_tokens, self.grid_shape = prefix_tokens, grid_shape
        super().__init__(model, target_layer, enable_hooks=enable_hooks, exact_peer=exact_peer)
        try:
            self._attentions = [_attention(self.submodule_dict[name], name) for name in self.target_names]
        except Exception:
            self.remove_hooks()
            raise
        self.remove_hooks()
        self.hook_handles += [
            self.submodule_dict[name].register_forward_hook(
                self._weak_hook("_record_call", idx=index), with_kwargs=True
            )
            for index, name in enumerate(self.target_names)
        ]

    def _record_call(
        self, block: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object], output: object, idx: int
    ) -> None:
        if not self._is_recording:
            return
        if not isinstance(output, Tensor) or output.dim() != 3:
            kind = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"block {self.target_names[idx]!r} must return tokens (N, T, E), got {kind}")
        inputs = [value.detach().clone() if isinstance(value, Tensor) else value for value in arguments]
        self._record.activations[idx] = output.detach()
        self._record.calls[idx] = (inputs, dict(keywords))

    def _get_weights(self, class_idx: Classes | None, scores: ModelOutput | None = None, **kwargs: Any) -> list[Tensor]:
        """Return per block the relevance of the patches (N, T - prefix)."""
        gradients = [self._gradient(index, cast(Classes, class_idx)) for index in range(len(self.target_names))]
        return [F.relu(gradient).mean((1, 2))[:, self.prefix_tokens :] for gradient in gradients]

    def _gradient(self, idx: int, class_idx: Classes) -> Tensor:
        """Return (N, heads, T, T), the gradient of the block's class score by its attention probabilities."""
        if idx not in self._record.calls:
            raise AssertionError("no forward pass was recorded in this thread: run the model with the hooks enabled")
        inputs, keywords = self._record.calls[idx]
        block, name = self.submodule_dict[self.target_names[idx]], self.target_names[idx]
        with self._hooks_off(), torch.inference_mode(False), torch.no_grad():
            inputs = [value.clone() if isinstance(value, Tensor) else value for value in inputs]
            with _recorded_probabilities(self._attentions[idx], name) as probabilities:
                tokens = block(*inputs, **keywords)
        if not probabilities:
            raise RuntimeError(f"block {name!r} did not run its `self_attention`")
        with torch.inference_mode(False), torch.enable_grad():
            logits = self._score_projection(tokens)
            if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(tokens):
                raise ValueError("`score_projection` must return scores (N, K)")
            total = class_scores(logits, class_idx).sum()
        if not total.requires_grad:
            raise RuntimeError(f"the scores of block {name!r} do not depend on its attention")
        if tokens.shape[1] != probabilities[0].shape[-1]:
            raise ValueError(
                f"block {name!r} must return a token for each of those that it attends to, "
                f"{probabilities[0].shape[-1]}, got {tokens.shape[1]}: the map's positions would be unknown"
            )
        return torch.autograd.grad(total, probabilities[0])[0]

    def compute_cams(
        self,
        class_idx: Classes | None = None,
        scores: ModelOutput | None = None,
        normalized: bool = True,
        retain_graph: bool = False,
        *,
        targets: Targets | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Return one map of the last forward pass, the mean over all blocks.

        Args:
            class_idx: a class, or one per image.
            scores: not used.
            normalized: scale the map to [0, 1].
            retain_graph: not used: every call makes its own graph.
            targets: not supported.
            kwargs: not used.

        Returns:
            (N, height, width), in a list.

        Raises:
            ValueError: if the patches do not form the grid, or for ``targets``.
        """
        if targets is not None:
            raise ValueError("LeGrad takes no callables as `targets`, only `class_idx`")
        relevance = torch.stack(self._get_weights(plain_classes(class_idx), scores, **kwargs)).mean(0)
        maps = relevance.reshape(len(relevance), *self._grid(relevance.shape[1]))
        return [self._scaled(maps) if normalized else maps]

    def _grid(self, patches: int) -> tuple[int, int]:
        """Return (height, width) in patches."""
        if patches <= 0:
            raise ValueError(f"`prefix_tokens` must leave at least one token, got {self.prefix_tokens}")
        side = math.isqrt(patches)
        grid = self.grid_shape or (side, side)
        if grid[0] * grid[1] != patches:
            raise ValueError(f"`grid_shape` must have {patches} patches, got {self.grid_shape}")
        return grid


@contextlib.contextmanager
def _recorded_probabilities(attention: Attention, name: str) -> Iterator[list[Tensor]]:
    """Record the attention probabilities within the context, for the calling thread, and compute the output from them.

    They are (N, heads, T, T), a leaf at which the graph begins.
    """
    recorded: list[Tensor] = []
    thread = threading.get_ident()

    def hook(
        module: Attention, arguments: tuple[Any, ...], keywords: dict[str, Any], output: tuple[object, ...]
    ) -> tuple[Tensor, object] | None:
        if threading.get_ident() != thread:
            return None
        query, options = _query_and_options(module, arguments, keywords, name)
        options |= {"need_weights": True, "average_attn_weights": False}
        with torch.no_grad():
            probabilities = module.forward(query, query, query, **options)[1]
        if not isinstance(probabilities, Tensor):
            raise ValueError(
                f"the attention of block {name!r} must return its probabilities (N, heads, T, T) as second value, "
                f"got a {type(probabilities).__name__}"
            )
        torch.set_grad_enabled(True)  # until the enclosing context ends
        recorded.append(probabilities.detach().requires_grad_())
        return _attention_output(module, query, recorded[-1]), output[1]

    handle = attention.register_forward_hook(hook, with_kwargs=True)
    try:
        yield recorded
    finally:
        handle.remove()


_OPTIONS = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")


def _query_and_options(
    module: Attention, arguments: tuple[Any, ...], keywords: dict[str, Any], name: str
) -> tuple[Tensor, dict[str, Any]]:
    """Return the tokens, and the other arguments by name."""
    options = {**dict(zip(("query", "key", "value", *_OPTIONS), arguments, strict=False)), **keywords}
    query, key, value = (options.pop(part, None) for part in ("query", "key", "value"))
    if module.training and module.dropout > 0:
        raise ValueError(f"block {name!r} must not drop attention: put the model in evaluation mode")
    if not isinstance(query, Tensor) or query is not key or query is not value or query.dim() != 3:
        raise ValueError(f"block {name!r} must attend to its own tokens (N, T, E)")
    return query, options


def _attention_output(module: Attention, tokens: Tensor, probabilities: Tensor) -> Tensor:
    """Return (N, T, E), the module's output for the probabilities (N, heads, T, T)."""
    start, bias = 2 * module.embed_dim, module.in_proj_bias
    values = F.linear(tokens, module.in_proj_weight[start:], None if bias is None else bias[start:])
    by_head = values.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
    return module.out_proj((probabilities @ by_head).transpose(1, 2).flatten(2))


def _projection(model: nn.Module, projection: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor]:
    """Return the function from a block's tokens to scores."""
    if projection is not None:
        if not callable(projection):
            raise TypeError(f"`score_projection` must be callable, got {type(projection).__name__}")
        return projection
    norm, heads = getattr(getattr(model, "encoder", None), "ln", None), getattr(model, "heads", None)
    if not isinstance(norm, nn.Module) or not isinstance(heads, nn.Module):
        raise ValueError("`score_projection` must be given for models without `encoder.ln` and `heads`")
    return _MeanToken(norm, heads)


class _MeanToken:
    """The classifier's scores of the mean token."""

    def __init__(self, norm: nn.Module, heads: nn.Module) -> None:
        self.norm, self.heads = norm, heads

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.heads(self.norm(tokens.mean(1)))


def _attention(block: nn.Module, name: str) -> Attention:
    attention = getattr(block, "self_attention", None)
    if not isinstance(attention, Attention):
        raise TypeError(f"block {name!r} must hold a `self_attention`, a torch.nn.MultiheadAttention")
    if not attention.batch_first or not attention._qkv_same_embed_dim:
        raise ValueError(f"the attention of block {name!r} must be batch first, with one size of tokens")
    if attention.bias_k is not None or attention.bias_v is not None or attention.add_zero_attn:
        raise ValueError(f"the attention of block {name!r} must not add tokens")
    return attention


def _check_numbers(prefix_tokens: object, grid_shape: object) -> None:
    if not isinstance(prefix_tokens, int):
        raise TypeError(f"`prefix_tokens` must be a whole number, got {type(prefix_tokens).__name__}")
    if prefix_tokens < 0:
        raise ValueError(f"`prefix_tokens` must not be negative, got {prefix_tokens}")
    if grid_shape is None:
        return
    if (
        not isinstance(grid_shape, tuple)
        or not all(isinstance(length, int) for length in grid_shape)
        or len(grid_shape) != 2
    ):
        raise TypeError(f"`grid_shape` must be a pair of whole numbers, got {grid_shape!r}")
    if min(grid_shape) <= 0:
        raise ValueError(f"`grid_shape` must be positive, got {grid_shape}")
