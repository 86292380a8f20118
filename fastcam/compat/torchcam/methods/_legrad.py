"""LeGrad: attention probabilities weighted by nothing but their own gradients."""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.compat.torchcam.methods._selection import Classes, class_scores, plain
from fastcam.compat.torchcam.methods.core import _CAM

Attention = nn.MultiheadAttention


class LeGrad(_CAM):
    """LeGrad (arXiv:2404.03214): positive gradients of every block's own class score by its attention probabilities.

    They are averaged over heads and query tokens, the prefix is dropped, and layers are averaged. The hooks keep what
    goes into the blocks; the call runs each block once more, so that forward passes need no graph and stay as they are.

    Args:
        model: a vision transformer of torchvision, or with ``score_projection`` any model of such blocks.
        target_layer: blocks that return tokens (N, T, E) and hold a ``self_attention``, batch first; modules or names.
        score_projection: from a block's tokens to (N, K); None takes the model's ``encoder.ln`` and ``heads`` of the
            mean token.
        prefix_tokens: tokens before those of the patches.
        grid_shape: (height, width) in patches; None where they form a square.
        enable_hooks: whether forward passes are kept from the start.
        exact_peer: as for :class:`_CAM`.

    Raises:
        TypeError, ValueError: with a sentence that says what was expected and what came.
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
        for handle in self.hook_handles:
            handle.remove()
        self.hook_handles = [
            self.submodule_dict[name].register_forward_hook(_Keeping(self, index), with_kwargs=True)
            for index, name in enumerate(self.target_names)
        ]

    def _keep(self, idx: int, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        if not self._listens:
            return
        if not isinstance(output, Tensor) or output.dim() != 3:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"block {self.target_names[idx]!r} must return tokens (N, T, E), got {found}")
        inputs = [each.detach().clone() if isinstance(each, Tensor) else each for each in arguments]
        self._kept.activations[idx] = output.detach()
        self._kept.calls[idx] = (inputs, dict(keywords))

    def _get_weights(self, class_idx: Any, scores: Any = None, **kwargs: Any) -> list[Tensor]:
        """Per block, what the patches are worth (N, T - prefix)."""
        found = [self._gradient(index, class_idx) for index in range(len(self.target_names))]
        return [F.relu(each).mean((1, 2))[:, self.prefix_tokens :] for each in found]

    def _gradient(self, idx: int, class_idx: Any) -> Tensor:
        """(N, heads, T, T): the gradient of the block's class score by its attention probabilities."""
        if idx not in self._kept.calls:
            raise AssertionError("no forward pass was kept in this thread: run the model, with the hooks enabled")
        inputs, keywords = self._kept.calls[idx]
        block, name = self.submodule_dict[self.target_names[idx]], self.target_names[idx]
        with self._hooks_off(), torch.inference_mode(False), torch.no_grad():
            inputs = [each.clone() if isinstance(each, Tensor) else each for each in inputs]
            with _probabilities(self._attentions[idx], name) as kept:
                tokens = block(*inputs, **keywords)
        if not kept:
            raise RuntimeError(f"block {name!r} did not run its `self_attention`")
        with torch.inference_mode(False), torch.enable_grad():
            logits = self._score_projection(tokens)
            if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(tokens):
                raise ValueError("`score_projection` must return scores (N, K)")
            total = class_scores(logits, class_idx).sum()
        if not total.requires_grad:
            raise RuntimeError(f"the scores of block {name!r} do not depend on its attention")
        return torch.autograd.grad(total, kept[0])[0]

    def compute_cams(
        self,
        class_idx: Classes | None = None,
        scores: Any = None,
        normalized: bool = True,
        retain_graph: bool = False,
        *,
        targets: Any = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """One map of the last forward pass, the mean of all blocks'.

        Args:
            class_idx: a class, or one per image.
            scores: not needed.
            normalized: scale the map to [0, 1].
            retain_graph: not needed: every call makes its own graph.
            targets: refused.
            kwargs: none.

        Returns:
            (N, height, width), in a list.

        Raises:
            ValueError: where the patches do not form the grid.
        """
        if targets is not None:
            raise ValueError("LeGrad takes no callables as `targets`, only `class_idx`")
        worth = torch.stack(self._get_weights(plain(class_idx), scores, **kwargs)).mean(0)
        maps = worth.reshape(len(worth), *self._grid(worth.shape[1]))
        return [self._scaled(maps) if normalized else maps]

    def _grid(self, patches: int) -> tuple[int, int]:
        """(height, width) of the patches."""
        if patches <= 0:
            raise ValueError(f"`prefix_tokens` must leave at least one token, got {self.prefix_tokens}")
        side = math.isqrt(patches)
        grid = self.grid_shape or (side, side)
        if grid[0] * grid[1] != patches:
            raise ValueError(f"`grid_shape` must say how {patches} patches are arranged, got {self.grid_shape}")
        return grid


class _Keeping:
    """A block's hook; an object, so that a model may be copied or saved while it is watched."""

    def __init__(self, extractor: LeGrad, idx: int) -> None:
        self.extractor, self.idx = extractor, idx

    def __call__(self, block: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        self.extractor._keep(self.idx, arguments, keywords, output)


@contextlib.contextmanager
def _probabilities(attention: Attention, name: str) -> Iterator[list[Tensor]]:
    """Within the context, and for the calling thread, the module's output is made from probabilities that are kept.

    They are a leaf of the graph, (N, heads, T, T), and recording begins at them.
    """
    kept: list[Tensor] = []
    thread = threading.get_ident()

    def hook(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        query, options = _checked(module, arguments, keywords, name)
        asked = {**options, "need_weights": True, "average_attn_weights": False}
        with torch.no_grad():
            probabilities = module.forward(query, query, query, **asked)[1]
        torch.set_grad_enabled(True)  # until the context around ends
        kept.append(probabilities.detach().requires_grad_())
        return _attended(module, query, kept[-1]), output[1]

    handle = attention.register_forward_hook(hook, with_kwargs=True)
    try:
        yield kept
    finally:
        handle.remove()


_OPTIONS = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")


def _checked(
    module: Attention, arguments: tuple[Any, ...], keywords: dict[str, Any], name: str
) -> tuple[Tensor, dict[str, Any]]:
    """The tokens, and the other arguments by name."""
    given = {**dict(zip(("query", "key", "value", *_OPTIONS), arguments, strict=False)), **keywords}
    query, key, value = (given.pop(each, None) for each in ("query", "key", "value"))
    if module.training and module.dropout > 0:
        raise ValueError(f"block {name!r} must not drop attention: put the model in evaluation mode")
    if not isinstance(query, Tensor) or query is not key or query is not value or query.dim() != 3:
        raise ValueError(f"block {name!r} must attend to its own tokens (N, T, E)")
    return query, given


def _attended(module: Attention, tokens: Tensor, probabilities: Tensor) -> Tensor:
    """(N, T, E): what the module makes of the probabilities (N, heads, T, T)."""
    start, bias = 2 * module.embed_dim, module.in_proj_bias
    values = F.linear(tokens, module.in_proj_weight[start:], None if bias is None else bias[start:])
    by_head = values.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
    return module.out_proj((probabilities @ by_head).transpose(1, 2).flatten(2))


def _projection(model: nn.Module, given: Any) -> Callable[[Tensor], Tensor]:
    """From a block's tokens to scores."""
    if given is not None:
        if not callable(given):
            raise TypeError(f"`score_projection` must be callable, got {type(given).__name__}")
        return given
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
    found = getattr(block, "self_attention", None)
    if not isinstance(found, Attention):
        raise TypeError(f"block {name!r} must hold a `self_attention`, a torch.nn.MultiheadAttention")
    if not found.batch_first or not found._qkv_same_embed_dim:
        raise ValueError(f"the attention of block {name!r} must be batch first, with one size of tokens")
    if found.bias_k is not None or found.bias_v is not None or found.add_zero_attn:
        raise ValueError(f"the attention of block {name!r} must not add tokens")
    return found


def _check_numbers(prefix_tokens: Any, grid_shape: Any) -> None:
    if not isinstance(prefix_tokens, int):
        raise TypeError(f"`prefix_tokens` must be a whole number, got {type(prefix_tokens).__name__}")
    if prefix_tokens < 0:
        raise ValueError(f"`prefix_tokens` must not be negative, got {prefix_tokens}")
    if grid_shape is None:
        return
    whole = isinstance(grid_shape, tuple) and all(isinstance(each, int) for each in grid_shape)
    if not whole or len(grid_shape) != 2:
        raise TypeError(f"`grid_shape` must be a pair of whole numbers, got {grid_shape!r}")
    if min(grid_shape) <= 0:
        raise ValueError(f"`grid_shape` must be positive, got {grid_shape}")
