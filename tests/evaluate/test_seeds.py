"""Segmentation seeds: pixel by pixel, as files, and their mean IoU over images."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastcam.evaluate.seeds import SeedScore, seeds, write_seeds


def maps_for(seed=0, classes=3):
    return torch.rand(classes, 6, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("foreground", "background"), [(0.5, None), (0.9, 0.6), (1.0, 0.0)])
def test_every_pixel(foreground, background):
    maps, labels = maps_for(), [7, 2, 20]
    maps[1, 0, 0], maps[:, 1, 1] = torch.nan, torch.nan
    found = seeds(maps, labels, foreground, background)
    low = foreground if background is None else background
    for y in range(6):
        for x in range(5):
            values = [0.0 if np.isnan(each) else each for each in maps[:, y, x].tolist()]
            best = max(values)
            expected = 0 if best <= low else labels[values.index(best)] if best > foreground else 255
            assert found[y, x] == expected, (y, x)
    assert found[1, 1] == 0
    assert found.dtype == torch.uint8


def test_files_have_the_colours_of_voc(tmp_path):
    values = seeds(maps_for(), [1, 15, 20], 0.8, 0.4)
    write_seeds(values, tmp_path / "a.png")
    picture = Image.open(tmp_path / "a.png")
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), values)
    colours = np.array(picture.getpalette()).reshape(-1, 3)
    # aeroplane, person, television, void: as the development kit lists them
    for index, colour in {
        0: (0, 0, 0),
        1: (128, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }.items():
        assert tuple(colours[index]) == colour


def test_mean_iou_over_images():
    score = SeedScore([1, 2, 3], [0.2, 0.5, 0.8])
    generator = torch.Generator().manual_seed(9)
    images = []
    for seed, labels in ((0, [1, 2]), (1, [2]), (2, [2, 1])):
        truth = torch.tensor([0, 1, 2, 255])[torch.randint(4, (6, 5), generator=generator)]
        images.append((maps_for(seed, len(labels)), labels, truth))
        score.add(*images[-1])
    for row, threshold in enumerate((0.2, 0.5, 0.8)):
        ious = []
        for label in (0, 1, 2):  # no pixel of 3 occurs
            common = both = 0
            for maps, labels, truth in images:
                found = seeds(maps, labels, threshold).numpy().astype(int)
                counted = truth.numpy() != 255
                common += ((found == label) & (truth.numpy() == label) & counted).sum()
                both += (((found == label) | (truth.numpy() == label)) & counted).sum()
            ious.append(common / both)
        assert score.mean_ious[row].item() == pytest.approx(np.mean(ious))
    assert score.best == (score.thresholds[int(score.mean_ious.argmax())], score.mean_ious.max().item())


def test_perfect_maps():
    truth = torch.zeros(6, 5, dtype=torch.uint8)
    truth[:2], truth[4:] = 4, 9
    score = SeedScore([4, 9])
    score.add(torch.stack([truth == 9, truth == 4]).float(), [9, 4], truth)
    assert score.best[1] == 1.0


def test_what_does_not_fit():
    maps = maps_for()
    with pytest.raises(ValueError, match=r"labels must be whole numbers in \[1, 254\], got \[0, 1, 2\]"):
        seeds(maps, [0, 1, 2])
    with pytest.raises(ValueError, match=r"maps \(K, H, W\) with K labels, got \(3, 6, 5\) and \(2,\)"):
        seeds(maps, [1, 2])
    with pytest.raises(ValueError, match=r"0 <= background <= foreground <= 1, got 0\.6 and 0\.5"):
        seeds(maps, [1, 2, 3], 0.5, 0.6)
    with pytest.raises(ValueError, match=r"the size of the maps, \(6, 5\)"):
        SeedScore([1]).add(maps[:1], [1], torch.zeros(5, 6))
