"""Maps of tokens: where in the image the positions of a layer's output lie, verified on the model itself.

A transformer's layer returns (N, T, C) or (N, h, w, C), with class or register tokens among the positions, in row order
or in another one. The order is not assumed: cells of the image are exchanged for noise, and the positions that follow
them are theirs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MAX_PREFIX = 10  # class, distillation and register tokens; models have at most 9
MAX_OTHERS = 128  # tokens beside those of the image: YOLOS has 100 for its detections, behind the others
MIN_CORRELATION = 0.8  # of the cells that the positions follow with their own, along every axis
MIN_CELLS = 12  # of a grid that positions do not follow by chance: fewer are seen twice, with different noise
MAX_GRIDS = 4  # tried for one number of positions of an image; for a signal every number of prefix tokens is

Verify = Callable[["TokenMap"], "tuple[TokenMap | None, float]"]  # see :func:`verify`


@dataclass(frozen=True, eq=False)
class TokenMap:
    """The map (N, C, *s) in a layer's output.

    Attributes:
        channel_axis: of the output.
        grid: *s, the number of positions along every axis of the image.
        start: the first position of the grid, of the flattened positions.
        order: (s1 * s2 ...,) int64, the flattened position of every cell in row order; None if they are in row order.
        is_verified: whether the positions were seen to follow their cells of the image.
    """

    channel_axis: int
    grid: tuple[int, ...]
    start: int = 0
    order: Tensor | None = None
    is_verified: bool = False

    def __call__(self, output: Tensor) -> Tensor:
        """Return the map (N, C, *s) of the layer's output, or of its gradient."""
        return self.cells(output.movedim(self.channel_axis, 1).flatten(2)).unflatten(2, self.grid)

    def is_like(self, other: "TokenMap | None") -> bool:
        """Whether another map holds the same positions in the same order."""
        if other is None or (self.grid, self.start) != (other.grid, other.start):
            return False
        if self.order is None or other.order is None:
            return self.order is other.order
        return torch.equal(self.order, other.order)

    def cells(self, positions: Tensor) -> Tensor:
        """Return (..., s1 * s2 ...), the cells in row order, of flattened positions (..., T)."""
        if self.order is not None:
            return positions[..., self.order.to(positions.device)]
        return positions[..., self.start : self.start + math.prod(self.grid)]

    def __str__(self) -> str:
        order = "" if self.order is None else ", reordered"
        prefix = f" after {self.start} other{'s' if self.start > 1 else ''}" if self.start else ""
        return f"{' x '.join(map(str, self.grid))} positions{prefix}{order}"


def candidates(shape: Sequence[int], size: Sequence[int]) -> list[TokenMap]:
    """Return the maps that a layer's output may hold, the likeliest first.

    Args:
        shape: of the output, (N, ...).
        size: *S, of the image.
    """
    axes, last = len(size), len(shape) - 1
    if len(shape) == axes + 2 == 3:  # signals: either axis may be the channels', and tokens may come first
        whole = [TokenMap(1, (shape[2],))] if _is_plausible((shape[2],), size) else []
        return whole + _grids_of(shape[1], size, channel_axis=2)
    if len(shape) == axes + 2:
        dense = [(1, tuple(shape[2:])), (last, tuple(shape[1:-1]))]
        found = [TokenMap(channel_axis, grid) for channel_axis, grid in dense if _is_plausible(grid, size)]
        return found or _blocks(shape, size)
    if len(shape) == 3:
        return _grids_of(shape[1], size, channel_axis=2) or _grids_of(shape[2], size, channel_axis=1)
    return _blocks(shape, size) if len(shape) > 3 else []


def is_map(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Whether an output (N, C, *s) is surely a map as it is: its shape allows that, or no other form."""
    found = candidates(shape, size)
    return not found or (found[0].channel_axis == 1 and (len(size) > 1 or len(found) == 1))


def _blocks(shape: Sequence[int], size: Sequence[int]) -> list[TokenMap]:
    """Return the maps in blocks of tokens, (N, blocks, tokens, C), in the order of blocks and of tokens in each."""
    if len(shape) != 4 or len(size) != 2:
        return []
    found = []
    for whole in _grids_of(shape[1] * shape[2], size, channel_axis=3, most_others=0):
        for across in (tuple(outer) for outer in _factorise(shape[1], 2)):
            inner = [cells // blocks for cells, blocks in zip(whole.grid, across, strict=True)]
            if [i * o for i, o in zip(inner, across, strict=True)] == list(whole.grid):
                numbers = torch.arange(shape[1] * shape[2]).reshape(*across, *inner)
                found.append(TokenMap(3, whole.grid, 0, numbers.transpose(1, 2).flatten()))
    return found


def _grids_of(count: int, size: Sequence[int], channel_axis: int, most_others: int = MAX_OTHERS) -> list[TokenMap]:
    """Return the maps in a number of tokens, of which some may be others: class and register tokens, or queries.

    Up to ``MAX_PREFIX`` others come first as a rule; more, as the queries of a detector, are only looked for where the
    grid fits the image exactly.
    """
    found = [
        (_difference_of_strides(grid, size), others, grid)
        for others in range(min(most_others, count // 2) + 1)
        for grid in _factorise(count - others, len(size))
        if _is_plausible(grid, size) and (others <= MAX_PREFIX or _is_exact(grid, size))
    ]
    likeliest = sorted(found)[: MAX_GRIDS if len(size) > 1 else MAX_PREFIX + 1]
    return [TokenMap(channel_axis, grid, others) for _, others, grid in likeliest]


def _is_exact(grid: Sequence[int], size: Sequence[int]) -> bool:
    return all(pixels % cells == 0 for pixels, cells in zip(size, grid, strict=True))


def _factorise(count: int, axes: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to write a number as a product of that many."""
    if count < 1:
        return
    if axes == 1:
        yield (count,)
        return
    for first in range(1, count + 1):
        if count % first == 0:
            for rest in _factorise(count // first, axes - 1):
                yield (first, *rest)


def _is_plausible(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a grid has several cells, and one stride along the last two axes gives it, rounded up or down."""
    if math.prod(grid) < 2 or any(cells > pixels for cells, pixels in zip(grid, size, strict=True)):
        return False
    pairs = list(zip(size, grid, strict=True))[-2:]
    rounded_down = [(pixels / (cells + 1), pixels / cells) for pixels, cells in pairs]
    rounded_up = [(pixels / cells, pixels / (cells - 1) if cells > 1 else math.inf) for pixels, cells in pairs]
    return any(max(low for low, _ in ranges) < min(high for _, high in ranges) for ranges in (rounded_down, rounded_up))


def _difference_of_strides(grid: Sequence[int], size: Sequence[int]) -> float:
    """Return how much the strides along the last two axes differ; 0 for signals."""
    strides = [pixels / cells for pixels, cells in zip(size, grid, strict=True)][-2:]
    return max(strides) - min(strides)


def find(found: Sequence[TokenMap], verified: Verify) -> TokenMap | None:
    """Return the first of the candidates that is verified on the model; of a signal's, the one that fits best.

    A signal has a candidate for every number of prefix tokens, and all but the right one are off by a few positions.
    """
    best, least = None, math.inf
    for candidate in found:
        confirmed, error = verified(candidate)
        if confirmed is not None and error < least:
            best, least = confirmed, error
            if len(candidate.grid) > 1 or candidate.channel_axis == 1:
                break
    return best


def exchange_cells(image: Tensor, grid: Sequence[int], seed: int = 0) -> Tensor:
    """Return copies of an image (1, C, *S) in which the cells of a grid are exchanged for noise.

    The cells are numbered along every axis. The first copy is the image, the second noise, and two come for each bit of
    the numbers: one has noise in the cells with the bit set, the other in the rest.

    Returns:
        (2 + 2 bits, C, *S).
    """
    noise = noise_like(image, seed)
    codes = [_cell_numbers(pixels, cells) for pixels, cells in zip(image.shape[2:], grid, strict=True)]
    copies = [image, noise]
    for axis, bit in _bits(grid):
        mask = ((codes[axis] >> bit) & 1).bool().reshape([-1 if axis == other else 1 for other in range(len(codes))])
        mask = mask.to(image.device)
        copies += [torch.where(mask, noise, image), torch.where(mask, image, noise)]
    return torch.cat(copies)


def verify(candidate: TokenMap, output: Tensor) -> tuple[TokenMap | None, float]:
    """Return the candidate if its positions follow their cells of the image; otherwise one in the order found, or None.

    A position belongs to the cells whose exchange it follows. The number is the mean distance between the numbers of
    the cells that the positions follow and of their own.

    Args:
        candidate: see :func:`candidates`.
        output: of the layer, for the copies of :func:`exchange_cells`.
    """
    bits = _bits(candidate.grid)
    if len(output) != 2 + 2 * len(bits):
        return None, math.inf  # its rows are not the images
    output = output.movedim(candidate.channel_axis, 1).flatten(2).double()  # (2 + 2 bits, C, T)
    clean, noisy, *pairs = output
    cells = torch.zeros(output.shape[-1], dtype=torch.int64, device=output.device)
    for (axis, bit), first, second in zip(bits, pairs[::2], pairs[1::2], strict=True):
        follows = _distance(first, noisy) + _distance(second, clean) < _distance(first, clean) + _distance(
            second, noisy
        )
        cells += (follows.long() << bit) * math.prod(candidate.grid[axis + 1 :])
    return _matching(candidate, cells)


def _bits(grid: Sequence[int]) -> list[tuple[int, int]]:
    """Return (axis, bit) for every bit of the cells' numbers."""
    return [(axis, bit) for axis, cells in enumerate(grid) for bit in range((cells - 1).bit_length())]


def _cell_numbers(pixels: int, cells: int) -> Tensor:
    """Return the cell (pixels,) in which each pixel along an axis lies."""
    return torch.arange(pixels) * cells // pixels


def noise_like(image: Tensor, seed: int = 0) -> Tensor:
    """Return noise with the image's mean and deviation, the same in every call."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(image.shape, generator=generator).to(image)
    deviation = image.std() if image.numel() > 1 and image.std() > 0 else torch.ones_like(noise[0, 0, 0])
    return noise * deviation + image.mean()


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Return the distance (T,) between the positions of two outputs (C, T)."""
    return (first - second).norm(dim=0)


def _matching(candidate: TokenMap, cells: Tensor) -> tuple[TokenMap | None, float]:
    """Return the candidate if the cells (T,) of the positions confirm it, or one in the order that they show."""
    count = math.prod(candidate.grid)
    own = torch.arange(count, device=cells.device)
    if candidate.order is not None:
        found = candidate.cells(cells)
    else:
        starts = range(len(cells) - count + 1)
        start = max(starts, key=lambda first: int((cells[first : first + count] == own).sum()))
        candidate = replace(candidate, start=start)
        found = candidate.cells(cells)
    if _agree(found, own, candidate.grid):
        return replace(candidate, is_verified=True), (found - own).abs().double().mean().item()
    for start in range(len(cells) - count + 1):
        found = cells[start : start + count]
        if bool((found.sort().values == own).all()):
            return TokenMap(candidate.channel_axis, candidate.grid, start, found.argsort() + start, True), 0.0
    return None, math.inf


def _agree(found: Tensor, own: Tensor, grid: Sequence[int]) -> bool:
    """Whether the cells (P,) that positions follow are their own or near, along every axis.

    Deep layers mix neighbours: the cell that a position follows most may be the next one.
    """
    pairs = zip(torch.unravel_index(found, tuple(grid)), torch.unravel_index(own, tuple(grid)), strict=True)
    correlations = [
        torch.corrcoef(torch.stack(pair).double())[0, 1].item()
        for pair, cells in zip(pairs, grid, strict=True)
        if cells > 1
    ]
    return all(correlation >= MIN_CORRELATION for correlation in correlations)


def assumed(shape: Sequence[int], size: Sequence[int]) -> TokenMap | None:
    """Return the map that an output with channels last has if its positions are in row order; None if none fits."""
    found = candidates(shape, size)
    is_usual = bool(found) and found[0].channel_axis == len(shape) - 1 and found[0].start <= MAX_PREFIX
    return found[0] if is_usual else None
