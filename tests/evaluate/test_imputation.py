"""The imputation of ROAD: the same values as a sparse solver's, whatever the hole."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve

from fastcam.evaluate import imputation
from fastcam.evaluate.imputation import impute

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = {(y, x): 1 / 6 if 0 in (y, x) else 1 / 12 for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)}


def solved(image, missing):
    """(C, H, W), equation by equation: a missing pixel times the weights of its neighbours is their weighted sum."""
    places = {place: number for number, place in enumerate(zip(*np.nonzero(missing), strict=True))}
    rows, columns, entries, right = [], [], [], np.zeros((len(places), len(image)))
    for (y, x), row in places.items():
        for (down, across), weight in WEIGHTS.items():
            neighbour = (y + down, x + across)
            if not (0 <= neighbour[0] < missing.shape[0] and 0 <= neighbour[1] < missing.shape[1]):
                continue
            rows, columns, entries = [*rows, row], [*columns, row], [*entries, weight]
            if neighbour in places:
                rows, columns, entries = [*rows, row], [*columns, places[neighbour]], [*entries, -weight]
            else:
                right[row] += weight * image[:, neighbour[0], neighbour[1]]
    matrix = coo_matrix((entries, (rows, columns)), shape=(len(places),) * 2).tocsc()
    filled = image.copy()
    filled[:, missing] = np.asarray(spsolve(matrix, right)).reshape(len(places), -1).T
    return filled


def holes(height, width):
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    yield "noise", torch.rand(height, width, generator=generator) < 0.5
    yield "nearly all", torch.rand(height, width, generator=generator) < 0.98
    yield "disc", (y - height / 2) ** 2 + (x - width / 3) ** 2 < (height / 3) ** 2
    yield "border", (y < 3) | (x >= width - 2)
    yield "one", (y == 4) & (x == 5)
    yield "all but one", (y != 4) | (x != 5)
    yield "stripes", y % 3 > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(24, 20), (17, 31), (7, 6)])
def test_the_equations_are_solved(size, dtype):
    images = torch.randn(2, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(1))
    options = {"tolerance": 1e-11} if dtype == torch.float64 else {}
    for name, hole in holes(*size):
        other = torch.zeros_like(hole)
        other[1, 1:3] = True
        found = impute(images, torch.stack([hole, other]), **options)
        for image, missing, filled in zip(images, (hole, other), found, strict=True):
            expected = solved(image.double().numpy(), missing.numpy())
            tolerance = {torch.float32: 1e-2, torch.float64: 1e-8}[dtype]
            np.testing.assert_allclose(filled, expected, atol=tolerance, err_msg=name)
            assert torch.equal(filled[:, ~missing], image[:, ~missing])


def test_steps_do_not_grow_with_the_hole(monkeypatch):
    """Plain conjugate gradients need as many more as the hole is wider."""
    taken, correct = {}, imputation._Grid.correct
    for size in (64, 256):
        steps = []

        def counted(self, residual, size=size, steps=steps):
            steps += [1] * (residual.shape[-1] == size)
            return correct(self, residual)

        monkeypatch.setattr(imputation._Grid, "correct", counted)
        missing = torch.zeros(1, size, size, dtype=torch.bool)
        missing[:, size // 8 : -size // 8, size // 8 : -size // 8] = True
        impute(torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0)), missing)
        taken[size] = len(steps)
    assert taken[256] <= taken[64] + 2 < 10  # four times as wide


def test_nothing_known_and_nothing_missing():
    images = torch.randn(2, 3, 9, 8)
    missing = torch.stack([torch.ones(9, 8, dtype=torch.bool), torch.zeros(9, 8, dtype=torch.bool)])
    found = impute(images, missing)
    assert not found[0].any()
    assert torch.equal(found[1], images[1])
    with pytest.raises(ValueError, match=r"for images \(N, C, H, W\), got \(2, 3, 9\)"):
        impute(images[..., 0], missing[..., 0])
