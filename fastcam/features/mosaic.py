"""Pictures of a whole dataset: its images at their places, or a grid of cells with the nearest image in each."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fastcam import render
from fastcam.features.exact_search import Metric, Vectors, prepared
from fastcam.features.layouts import Places
from fastcam.render import Bytes

Colors = npt.NDArray[np.uint8]  # (N, 3)
_PAIRS = 10_000  # of vectors at random, whose distances say what is far
_FAR = 0.5  # quantile of these: two images that have nothing to do with each other
_BLOCK = 4_096  # cells that are compared with all places at a time
_MOST_CLASSES = 40  # in a legend
_BACKGROUND = 255


@dataclass(frozen=True)
class Legend:
    """The colours of N images, and what they mean.

    Attributes:
        colors: (N, 3).
        names: the colour of each name, the most frequent first.
    """

    colors: Colors
    names: Mapping[str, tuple[int, int, int]]


def colors_of_names(names: Sequence[str]) -> Legend:
    """Return a colour for every name; grey for "", and in the legend the 40 most frequent."""
    kinds, counts = np.unique(np.array([name for name in names if name]), return_counts=True)
    by_name: dict[str, tuple[int, int, int]] = {}
    for number, place in enumerate(np.argsort(-counts, kind="stable")):
        hue, darkness = (number * 0.61803399) % 1, (0.95, 0.7)[number // 12 % 2]  # the golden ratio keeps hues apart
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, darkness)
        by_name[str(kinds[place])] = (round(255 * red), round(255 * green), round(255 * blue))
    colors = np.array([by_name.get(name, (150, 150, 150)) for name in names], np.uint8).reshape(-1, 3)
    return Legend(colors, dict(list(by_name.items())[:_MOST_CLASSES]))


def colors_of_scores(scores: Sequence[float], colormap: str = "jet") -> Legend:
    """Return a colour for every score, from the lowest to the highest finite one; grey for others."""
    values = np.array(scores, np.float64)
    is_finite = np.isfinite(values)
    lowest, highest = (values[is_finite].min(), values[is_finite].max()) if is_finite.any() else (0.0, 0.0)
    table = render.colors(colormap)
    share = np.where(is_finite, (values - lowest) / ((highest - lowest) or 1), 0).clip(0, 1)
    colors = np.where(is_finite[:, None], table[(share * 255).round().astype(int)], 150).astype(np.uint8)
    ends = {f"{lowest:.3g}": table[0], f"{highest:.3g}": table[255]} if is_finite.any() else {}
    return Legend(colors, {name: (int(color[0]), int(color[1]), int(color[2])) for name, color in ends.items()})


def cells_of(places: Places, columns: int, rows: int) -> npt.NDArray[np.int64]:
    """Return the image (rows, columns) whose place is nearest to the middle of each cell; an image may fill several."""
    x, y = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
    middles = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    length = np.array([columns, rows], np.float64)  # a cell is square in the picture
    nearest = [
        _nearest(places * length, middles[start : start + _BLOCK] * length) for start in range(0, len(middles), _BLOCK)
    ]
    return np.concatenate(nearest).reshape(rows, columns)


def _nearest(places: Places, middles: Places) -> npt.NDArray[np.int64]:
    from sklearn.neighbors import KDTree

    found: npt.NDArray[np.int64] = KDTree(places).query(middles, return_distance=False)[:, 0]
    return found


def far(vectors: Vectors, metric: Metric, seed: int = 0) -> float:
    """Return the median distance of two images of a dataset, which is what counts as far."""
    random = np.random.default_rng(seed)
    first, second = random.integers(0, len(vectors), (2, _PAIRS))
    return float(np.quantile(distances(vectors, first[first != second], second[first != second], metric), _FAR)) or 1.0


def distances(
    vectors: Vectors, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], metric: Metric
) -> npt.NDArray[np.float64]:
    """Return the true distances of pairs of vectors: Euclidean, or one minus the cosine."""
    if not len(first):
        return np.zeros(1)
    a, b = (prepared(vectors[places], metric).astype(np.float64) for places in (first, second))
    if metric == "cosine":
        return np.asarray(1 - (a * b).sum(-1)).clip(0)
    return np.asarray(np.linalg.norm(a - b, axis=-1))


def filled_grid(
    cells: npt.NDArray[np.int64],
    pictures: Mapping[int, Bytes],
    vectors: Vectors,
    metric: Metric = "cosine",
    legend: Legend | None = None,
    seam: int = 2,
) -> Image.Image:
    """Draw a grid of pictures; the seams between them tell the true distance of the two images.

    The plane cannot keep all neighbours, and images far from each other may lie side by side. A seam is black where the
    two cells show the same or nearly the same, and red where they are as far apart as two images taken at random, or
    farther.

    Args:
        cells: (rows, columns), from :func:`cells_of`.
        pictures: squares of one size, by image.
        vectors: (N, D).
        metric: of the distances.
        legend: colours of the images, as a bar in each cell; None for none.
        seam: width in pixels; 0 for none.
    """
    rows, columns = cells.shape
    side = len(next(iter(pictures.values())))
    step = side + seam
    canvas = np.zeros((rows * step + seam, columns * step + seam, 3), np.uint8)
    for row in range(rows):
        for column in range(columns):
            picture, image = pictures[int(cells[row, column])], int(cells[row, column])
            top, left = seam + row * step, seam + column * step
            canvas[top : top + side, left : left + side] = picture
            if legend is not None:
                canvas[top + side - max(2, side // 12) : top + side, left : left + side] = legend.colors[image]
    if seam:
        scale = far(vectors, metric)
        beside = _shares(vectors, cells[:, :-1], cells[:, 1:], metric, scale)
        below = _shares(vectors, cells[:-1], cells[1:], metric, scale)
        for row in range(rows):
            for column in range(columns):
                top, left = seam + row * step, seam + column * step
                if column + 1 < columns:
                    canvas[top : top + side, left + side : left + step] = _red(beside[row, column])
                if row + 1 < rows:
                    canvas[top + side : top + step, left : left + side] = _red(below[row, column])
    return _with_legend(Image.fromarray(canvas), legend)


def _shares(
    vectors: Vectors, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], metric: Metric, scale: float
) -> npt.NDArray[np.float64]:
    """Return the distances of neighbouring cells as shares of what is far, at most 1."""
    if not first.size:
        return np.zeros(first.shape)
    found = distances(vectors, first.ravel(), second.ravel(), metric) / scale
    return np.minimum(found, 1).reshape(first.shape)


def _red(share: float) -> npt.NDArray[np.uint8]:
    return np.array([round(255 * share), 0, 0], np.uint8)


def scatter(
    places: Places, pictures: Mapping[int, Bytes], width: int, height: int, legend: Legend | None = None
) -> Image.Image:
    """Draw the pictures at their places, framed in the colours of a legend; later ones cover earlier ones."""
    side = len(next(iter(pictures.values())))
    canvas = np.full((height, width, 3), _BACKGROUND, np.uint8)
    room = np.array([width, height]) - side
    frame = max(2, side // 16)
    for image, picture in pictures.items():
        left, top = (places[image] * room).round().astype(int)
        framed = picture
        if legend is not None:
            framed = np.broadcast_to(legend.colors[image], picture.shape).copy()
            framed[frame:-frame, frame:-frame] = picture[frame:-frame, frame:-frame]
        canvas[top : top + side, left : left + side] = framed
    return _with_legend(Image.fromarray(canvas), legend)


def _with_legend(picture: Image.Image, legend: Legend | None) -> Image.Image:
    """Return a picture with the names of its colours below."""
    if legend is None or not legend.names:
        return picture
    size, gap = 14, 6
    font = ImageFont.load_default(size=size)
    places: list[tuple[int, int, str]] = []
    left, top = gap, picture.height + gap
    for name in legend.names:
        wide = size + gap + int(font.getlength(name)) + 3 * gap
        if left + wide > picture.width and left > gap:
            left, top = gap, top + size + gap
        places.append((left, top, name))
        left += wide
    whole = Image.new("RGB", (picture.width, top + size + 2 * gap), "white")
    whole.paste(picture, (0, 0))
    draw = ImageDraw.Draw(whole)
    for left, top, name in places:
        draw.rectangle((left, top, left + size, top + size), fill=legend.names[name])
        draw.text((left + size + gap, top + size / 2), name, "black", font, anchor="lm")
    return whole
