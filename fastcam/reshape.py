"""Reshape transforms of vision transformers: from token sequences to maps."""

import math

from torch import Tensor


def vit_reshape(tokens: Tensor, *, prefix: int | None = None, grid: tuple[int, int] | None = None) -> Tensor:
    """Reshape tokens (N, T, C) of a vision transformer to (N, C, h, w).

    Args:
        tokens: activations or gradients of a block, class (and register) tokens first.
        prefix: number of tokens before the patches; None takes the smallest that leaves a square grid.
        grid: (h, w) for a grid that is not square.

    Raises:
        ValueError: if the tokens do not fill the grid.
    """
    if tokens.dim() != 3:
        raise ValueError(f"vit_reshape needs tokens of shape (N, T, C), got {tuple(tokens.shape)}")
    count = tokens.shape[1]
    if prefix is None:
        patches = math.prod(grid) if grid else math.isqrt(count) ** 2
        prefix = count - patches
    height, width = grid or (math.isqrt(max(count - prefix, 0)),) * 2
    if height * width != count - prefix or height * width < 1:
        raise ValueError(
            f"{count} tokens less {prefix} do not fill a grid of {height} x {width}; pass prefix= and grid="
        )
    return tokens[:, prefix:].unflatten(1, (height, width)).movedim(-1, 1)


def swin_reshape(features: Tensor) -> Tensor:
    """Reshape features (N, h, w, C) of a Swin transformer, or (N, h * w, C) with a square grid, to (N, C, h, w).

    Raises:
        ValueError: for any other shape.
    """
    if features.dim() == 3:
        return vit_reshape(features, prefix=0)
    if features.dim() != 4:
        raise ValueError(f"swin_reshape needs shape (N, h, w, C) or (N, h * w, C), got {tuple(features.shape)}")
    return features.movedim(-1, 1)
