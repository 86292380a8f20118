"""Small networks of tokens in float64, and Grad-CAM of their layers by plain autograd."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.networks import CONVOLUTIONS

CHANNELS = 12


class TokenNetwork(nn.Module):
    """Patches to tokens, a layer on each token ("tokens"), and attention pooling to five classes.

    Args:
        patch: sides of a patch.
        prefix: class and register tokens in front.
        order: (P,) the cell, in row order, of every token after the prefix; None for row order.
        shape: of the tokens of one image in the layer, channels last; None for (T, C).
        mixing: how much of the mean token every token gets from the layer.
    """

    def __init__(
        self,
        patch: Sequence[int] = (4, 4),
        prefix: int = 0,
        order: Tensor | None = None,
        shape: Sequence[int] | None = None,
        mixing: float = 0.0,
    ) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embed = CONVOLUTIONS[len(patch)](3, CHANNELS, tuple(patch), stride=tuple(patch))
        self.prefix = nn.Parameter(torch.randn(prefix, CHANNELS))
        self.tokens = nn.Sequential(nn.Linear(CHANNELS, CHANNELS), nn.Tanh())
        self.query, self.head = nn.Linear(CHANNELS, 1), nn.Linear(CHANNELS, 5)
        self.order, self.shape, self.mixing = order, shape, mixing
        self.double().eval()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        if self.order is not None:
            tokens = tokens[:, self.order]
        tokens = torch.cat([self.prefix.expand(len(images), -1, -1), tokens], 1)
        tokens = tokens + self.mixing * tokens.mean(1, keepdim=True)
        if self.shape is not None:
            tokens = tokens.reshape(len(images), *self.shape, CHANNELS)
        tokens = self.tokens(tokens).reshape(len(images), -1, CHANNELS)
        return self.head((self.query(tokens).softmax(1) * tokens).sum(1).tanh())


class Attention(nn.Module):
    """Self attention with one head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.projection = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.projection(F.scaled_dot_product_attention(*self.qkv(tokens).chunk(3, -1)))


class Block(nn.Module):
    """A transformer's block with the norms in front."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(CHANNELS), Attention()
        self.norm2 = nn.LayerNorm(CHANNELS)
        self.mlp = nn.Sequential(nn.Linear(CHANNELS, 16), nn.GELU(), nn.Linear(16, CHANNELS))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Transformer(nn.Module):
    """Two blocks and a head on the class token, or on the mean of all."""

    def __init__(self, prefix: int = 1, patch: Sequence[int] = (4, 4)) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embed = CONVOLUTIONS[len(patch)](3, CHANNELS, tuple(patch), stride=tuple(patch))
        self.prefix = nn.Parameter(torch.randn(prefix, CHANNELS))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 5)
        self.double().eval()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat([self.prefix.expand(len(images), -1, -1), tokens], 1))
        tokens = self.norm(tokens)
        return self.head(tokens[:, 0] if len(self.prefix) else tokens.tanh().mean(1))


def block_order(grid: Sequence[int], block: Sequence[int]) -> Tensor:
    """The cell of every token where tokens go block by block, row by row in each, as in NesT."""
    across = [cells // side for cells, side in zip(grid, block, strict=True)]
    return torch.tensor(
        [
            (bi * block[0] + i) * grid[1] + bj * block[1] + j
            for bi, bj, i, j in itertools.product(range(across[0]), range(across[1]), range(block[0]), range(block[1]))
        ]
    )


def pictures(*size: int, count: int = 2, seed: int = 6) -> Tensor:
    """(count, 3, *size), float64 and seeded."""
    return torch.randn(count, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def grad_cam_by_hand(
    model: nn.Module, images: Tensor, layer: str, target: int, positions: Tensor, grid: Sequence[int]
) -> Tensor:
    """Grad-CAM (N, *grid) without ReLU of a layer (N, ..., C): sum_c (mean over the grid of G_c) A_c.

    Args:
        positions: the layer's flattened position of every cell in row order.
    """
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, arguments, output: kept.append(output))
    with torch.enable_grad():
        score = model(images)[:, target].sum()
        handle.remove()
        (gradient,) = torch.autograd.grad(score, kept[-1])
    assert len(positions) == math.prod(grid)
    A, G = (each.detach().flatten(1, -2)[:, positions] for each in (kept[-1], gradient))
    return (A * G.mean(1, keepdim=True)).sum(-1).unflatten(1, tuple(grid))
