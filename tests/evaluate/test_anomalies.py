"""AUROC and per-region overlap against other statements of them; folders in the layout of MVTec AD."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import label
from sklearn.metrics import roc_auc_score

from fastcam import evaluate


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(3, 20, 24, dtype=torch.bool)
    masks[0, 2:5, 3:9] = masks[0, 10, 10] = masks[0, 11, 11] = masks[2, 15:19, 1:20] = True  # two touch by a corner
    maps = torch.randn(masks.shape, generator=generator) + 1.2 * masks
    return (maps * 4).round() / 4, masks  # with many equal values


def test_auroc_is_that_of_scikit_learn():
    maps, masks = drawn()
    assert evaluate.auroc(maps, masks) == pytest.approx(roc_auc_score(masks.flatten(), maps.flatten()), abs=1e-12)
    assert evaluate.auroc(torch.tensor([0.0, 1, 2, 3]), torch.tensor([0, 0, 1, 1]).bool()) == 1
    assert evaluate.auroc(torch.zeros(4), torch.tensor([0, 0, 1, 1]).bool()) == 0.5


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_per_region_overlap_threshold_by_threshold(limit):
    maps, masks = drawn()
    rates, overlaps = [0.0], [0.0]
    for threshold in maps.unique().flip(0):
        above = maps >= threshold
        shares = []
        for one, mask in zip(above, masks, strict=True):
            labels, count = label(mask.numpy(), np.ones((3, 3)))
            shares += [float(one[torch.from_numpy(labels == number)].float().mean()) for number in range(1, count + 1)]
        assert len(shares) == 3
        rates.append(float(above[~masks].float().mean()))
        overlaps.append(float(np.mean(shares)))
    fine = np.linspace(0, limit, 200_001)
    exact = np.trapezoid(np.interp(fine, rates, overlaps), fine) / limit
    assert evaluate.per_region_overlap(maps, masks, limit) == pytest.approx(exact, abs=1e-4)


def test_a_perfect_and_a_useless_map():
    _, masks = drawn()
    assert evaluate.per_region_overlap(masks.float(), masks) == pytest.approx(1, abs=1e-9)
    assert evaluate.per_region_overlap(torch.zeros(masks.shape), masks, 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scores", "truth", "words"),
    [
        (torch.zeros(3), torch.ones(4).bool(), "must agree"),
        (torch.tensor([0.0, torch.nan]), torch.tensor([True, False]), "must be finite"),
        (torch.zeros(2), torch.tensor([True, True]), "both anomalies and what is none, got 2 of 2"),
    ],
)
def test_mistakes(scores, truth, words):
    with pytest.raises(ValueError, match=words):
        evaluate.auroc(scores, truth)


def test_a_limit_of_nothing():
    with pytest.raises(ValueError, match="`limit` must lie in"):
        evaluate.per_region_overlap(*drawn(), limit=0)


@pytest.fixture
def category(tmp_path):
    def picture(place: str, values: np.ndarray) -> None:
        path = tmp_path / "tile" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)

    photo = np.zeros((8, 10, 3), np.uint8)
    for number in range(3):
        picture(f"train/good/{number:03d}.png", photo)
    picture("test/good/000.png", photo)
    picture("test/crack/000.png", photo)
    mask = np.zeros((8, 10), np.uint8)
    mask[2:4, 5:9] = 255
    picture("ground_truth/crack/000_mask.png", mask)
    (tmp_path / "tile" / "license.txt").write_text("")
    return tmp_path / "tile"


def test_a_folder(category):
    found = evaluate.AnomalyFolder.read(category)
    assert [path.name for path in found.train] == ["000.png", "001.png", "002.png"]
    crack, good = found.test
    assert (crack.kind, crack.is_anomaly, good.kind, good.is_anomaly) == ("crack", True, "good", False)
    expected = torch.zeros(8, 10, dtype=torch.bool)
    expected[2:4, 5:9] = True
    assert torch.equal(crack.read_mask(), expected)
    assert torch.equal(good.read_mask(), torch.zeros(8, 10, dtype=torch.bool))


def test_folders_of_another_kind(category):
    with pytest.raises(ValueError, match=r"there is no folder .*train/good"):
        evaluate.AnomalyFolder.read(category.parent)
    (category / "ground_truth" / "crack" / "000_mask.png").unlink()
    with pytest.raises(ValueError, match=r"has no mask: there is no file .*000_mask\.png"):
        evaluate.AnomalyFolder.read(category)


def test_a_mask_of_another_size(category):
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(category / "ground_truth" / "crack" / "000_mask.png")
    broken = evaluate.AnomalyFolder.read(category).test[0]
    with pytest.raises(ValueError, match="4"):
        broken.read_mask()


def test_folders_without_images(category):
    for path in (category / "train" / "good").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="must hold images"):
        evaluate.AnomalyFolder.read(category)
