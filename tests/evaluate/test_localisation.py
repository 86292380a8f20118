"""Measures of localisation and concentration against their formulas, and what they say of extreme maps and objects."""

import math

import numpy as np
import pytest
import torch

import fastcam
from fastcam import evaluate
from tests.evaluate.support import random_maps

pytestmark = pytest.mark.usefixtures("one_thread")

MAP_MEASURES = {
    "pointing_game": {"tolerance": 0},
    "energy_pointing_game": {},
    "rank_accuracy": {},
    "mask_iou": {},
    "box_iou": {},
    "localisation_accuracy": {},
    "max_box_accuracy": {},
    "pixel_average_precision": {},
}


def explanation_of(maps):
    count = maps.shape[: maps.dim() - 2]
    return fastcam.Explanation(
        "mine",
        "",
        torch.zeros(len(maps), 3, *maps.shape[-2:]),
        None,
        torch.zeros(count),
        torch.zeros(count).long(),
        maps,
    )


def values(name, maps, **arguments):
    given = {key: arguments.pop(key) for key in ("masks", "boxes", "ignored") if key in arguments}
    return next(iter(evaluate.run(explanation_of(maps), name, options={name: arguments}, **given).values()))


def mask_of(rows, columns, size=(12, 10)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def box_mask():
    return mask_of(slice(3, 8), slice(2, 6))


@pytest.mark.parametrize("name", MAP_MEASURES)
def test_a_perfect_map_scores_one(name):
    mask = box_mask()
    found = values(name, mask.double()[None], masks=mask[None], **MAP_MEASURES[name])
    assert found.values.tolist() == [1.0]
    assert found.mean == 1.0


@pytest.mark.parametrize("name", MAP_MEASURES)
def test_a_map_of_everything_else_scores_nothing(name):
    mask = box_mask()
    found = values(name, (~mask).double()[None], masks=mask[None], **MAP_MEASURES[name])
    if name in ("box_iou", "max_box_accuracy"):  # the box of the rest is the whole picture
        assert found.mean == pytest.approx(20 / 120 if name == "box_iou" else 0)
    elif name == "pixel_average_precision":
        assert found.mean == pytest.approx(20 / 120)  # of all pixels, at the threshold 0
    else:
        assert found.values.tolist() == [0.0]


@pytest.mark.parametrize("name", MAP_MEASURES)
def test_no_object_has_no_value(name):
    maps = random_maps(3)
    masks = torch.stack([box_mask(), torch.zeros(12, 10, dtype=torch.bool), box_mask()])
    found = values(name, maps, masks=masks, **MAP_MEASURES[name])
    assert found.values.isnan().tolist() == [False, True, False]
    assert found.undefined == 1
    alone = values(name, maps[[0, 2]], masks=masks[[0, 2]], **MAP_MEASURES[name])
    assert found.mean == alone.mean
    assert not math.isnan(found.interval()[0])


@pytest.mark.parametrize("constant", [0.0, 0.7, -3.0])
@pytest.mark.parametrize("name", MAP_MEASURES)
def test_a_constant_map_is_never_a_hit(name, constant):
    """Even where the object is the whole image but for a corner."""
    mask = torch.ones(12, 10, dtype=torch.bool)
    mask[0, 0] = False
    found = values(name, torch.full((1, 12, 10), constant, dtype=torch.float64), masks=mask[None], **MAP_MEASURES[name])
    share = 119 / 120 if name == "pixel_average_precision" else 0.0  # of all pixels: what any map has at threshold 0
    assert found.mean == pytest.approx(share)


@pytest.mark.parametrize("name", MAP_MEASURES)
def test_maps_that_are_not_finite_have_no_value(name):
    maps = random_maps(3)
    maps[1, 4, 4], maps[2, 0, 0] = torch.nan, torch.inf
    found = values(name, maps, masks=box_mask().expand(3, -1, -1), **MAP_MEASURES[name])
    assert found.values.isnan().tolist() == [False, True, True]


def test_pointing_game():
    mask = mask_of(slice(4, 6), slice(4, 6))
    for (y, x), distance in {
        (4, 5): 0,
        (4, 8): 3,
        (9, 5): 4,
        (1, 1): math.hypot(3, 3),
        (11, 9): math.hypot(6, 4),
    }.items():
        maps = torch.zeros(1, 12, 10)
        maps[0, y, x] = 1
        for tolerance in (0, 1, 2.5, 3, 3.5, 4, 4.2, 4.3, 5, 7, 7.3, 15):
            hit = values("pointing_game", maps, masks=mask[None], tolerance=tolerance).values.item()
            assert hit == float(distance < tolerance or distance == 0), (y, x, tolerance)


def test_ties_must_all_hit():
    maps = torch.zeros(2, 12, 10)
    maps[0, 4, 4] = maps[0, 5, 5] = 1
    maps[1, 4, 4] = maps[1, 0, 0] = 1
    found = values("pointing_game", maps, masks=mask_of(slice(4, 6), slice(4, 6)).expand(2, -1, -1), tolerance=0)
    assert found.values.tolist() == [1.0, 0.0]


def test_energy_rank_and_overlap():
    maps, mask = random_maps(4) - 0.3, box_mask()
    scaled = (maps - maps.amin((1, 2), True)) / (maps.amax((1, 2), True) - maps.amin((1, 2), True))
    for index in range(4):
        values_of = maps[index].numpy()
        highest = set(np.argsort(-values_of.ravel())[:20].tolist())
        marked = values_of > 0.2 * values_of.max()
        inside = mask.numpy()
        of_range = scaled[index].numpy() > 0.4
        expected = {
            "energy_pointing_game": (scaled[index].numpy() * inside).sum() / scaled[index].numpy().sum(),
            "rank_accuracy": len(highest & set(np.flatnonzero(inside).tolist())) / 20,
            "mask_iou": (marked & inside).sum() / (marked | inside).sum(),
        }
        for name, value in expected.items():
            found = values(name, maps[index : index + 1], masks=mask[None]).values.item()
            assert found == pytest.approx(value, rel=1e-12)
        found = values(
            "mask_iou", maps[index : index + 1], masks=mask[None], threshold=0.4, scale="range"
        ).values.item()
        assert found == pytest.approx((of_range & inside).sum() / (of_range | inside).sum())


def test_ignored_positions_do_not_count():
    maps, mask = random_maps(1), box_mask()
    ignored = mask_of(slice(0, 5), slice(0, 10))
    kept = maps[:, 5:], mask[None, 5:]  # the same image without the ignored rows
    for name in ("energy_pointing_game", "rank_accuracy", "mask_iou"):
        low, high = maps[0, 5:].min(), maps[0, 5:].max()
        within = maps.clone()
        within[0, 0, 0], within[0, 0, 1] = low, high  # so that both are scaled alike
        found = values(name, within.clamp(low, high), masks=mask[None], ignored=ignored[None])
        assert found.values.item() == pytest.approx(values(name, kept[0], masks=kept[1]).values.item(), rel=1e-12)
    maps[0, 0, 0] = 9.0
    assert values("pointing_game", maps, masks=mask_of(0, 0)[None], ignored=ignored[None]).values.isnan().all()


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def test_boxes():
    """The largest part by pixels, not by the area of its box; corners touch; more boxes of objects: the best counts."""
    maps = torch.zeros(1, 12, 10, dtype=torch.float64)
    maps[0, 1:4, 1:4] = 1.0  # nine pixels
    maps[0, range(5, 12), range(2, 9)] = 0.8  # a diagonal of seven, in a box of 49
    maps[0, 0, 9] = 0.15
    large, diagonal = [1.0, 1.0, 4.0, 4.0], [2.0, 5.0, 9.0, 12.0]
    explanation = explanation_of(maps)
    assert explanation.boxes()[0].tolist() == [large]
    assert explanation.boxes(largest_only=False)[0].tolist() == [large, diagonal]
    assert explanation.boxes(0.1, largest_only=False)[0].tolist() == [large, diagonal, [9.0, 0.0, 10.0, 1.0]]
    assert explanation.masks(0.1).sum() == 17
    objects = [[2.0, 4.5, 8.0, 12.0], [0.0, 0.0, 2.0, 3.0]]
    boxes = [torch.tensor(objects)]
    assert values("box_iou", maps, boxes=boxes).values.item() == pytest.approx(
        max(iou(large, each) for each in objects)
    )
    best = max(iou(box, each) for box in (large, diagonal) for each in objects)
    assert values("box_iou", maps, boxes=boxes, largest_only=False).values.item() == pytest.approx(best)
    assert best > 0.5
    assert values("localisation_accuracy", maps, boxes=boxes).values.item() == 0
    assert values("localisation_accuracy", maps, boxes=boxes, largest_only=False).values.item() == 1


def test_the_scale_of_a_threshold():
    """Of a map from 1 to 2 everything is above a fifth of the maximum, and half of it above half of the range."""
    maps = torch.linspace(1, 2, 120, dtype=torch.float64).reshape(1, 12, 10)
    explanation = explanation_of(maps)
    assert explanation.masks(0.2).all()
    assert explanation.masks(0.5, "range").sum() == 60
    assert not explanation_of(-maps).masks(0.2).any()  # nothing is marked by negative values
    for arguments in ((1.0,), (-0.1,), (0.2, "max")):
        with pytest.raises(ValueError, match=r"`threshold` must lie in \[0, 1\) and `scale` be one of maximum, range"):
            explanation.masks(*arguments)


def test_boxes_of_several_targets_and_other_axes():
    maps = torch.stack([box_mask().double(), mask_of(0, slice(0, 3)).double()])[None]
    nested = explanation_of(maps).boxes()
    assert [[each.tolist() for each in row] for row in nested] == [[[[2, 3, 6, 8]], [[0, 0, 3, 1]]]]
    assert explanation_of(torch.zeros(1, 12, 10)).boxes()[0].shape == (0, 4)
    volume = fastcam.Explanation(
        "m", "", torch.zeros(1, 1, 4, 4, 4), None, torch.zeros(1), None, torch.rand(1, 4, 4, 4)
    )
    with pytest.raises(ValueError, match=r"boxes are drawn around maps of two axes, got \(4, 4, 4\)"):
        volume.boxes()


def test_max_box_accuracy_takes_one_threshold_for_all():
    """Each image alone has a threshold that fits; together only one of them does at a time."""
    maps = torch.zeros(2, 12, 10, dtype=torch.float64)
    maps[0, 2:10, 2:8] = 0.4
    maps[0, 4:6, 4:6] = 1.0
    maps[1] = maps[0]
    boxes = [torch.tensor([[2.0, 2.0, 8.0, 10.0]]), torch.tensor([[4.0, 4.0, 6.0, 6.0]])]
    found = values("max_box_accuracy", maps, boxes=boxes, ious=[0.5])
    assert found.values.tolist() == [1.0, 1.0]
    assert found.mean == 0.5
    hits = np.zeros((2, 100, 3))
    maps = random_maps(2)
    boxes = [torch.tensor([[1.0, 1.0, 7.0, 9.0]]), torch.tensor([[0.0, 0.0, 10.0, 8.0], [3.0, 3.0, 5.0, 7.0]])]
    for index in range(2):
        scaled = (maps[index] - maps[index].min()) / (maps[index].max() - maps[index].min())
        for step in range(100):
            marked = scaled > step / 100
            explained = explanation_of(marked.double()[None])
            best = max(
                (iou(a, b) for a in explained.boxes(largest_only=False)[0].tolist() for b in boxes[index].tolist()),
                default=0,
            )
            hits[index, step] = [best >= limit for limit in (0.3, 0.5, 0.7)]
    found = values("max_box_accuracy", maps, boxes=boxes)
    for index, limit in enumerate((0.3, 0.5, 0.7)):
        np.testing.assert_array_equal(found.details[f"hits at {limit}"], hits[..., index])
    assert found.mean == pytest.approx(hits.mean(0).max(0).mean())


def test_pixel_average_precision():
    maps, masks = random_maps(3), torch.stack([box_mask(), mask_of(slice(0, 12), 3), mask_of(0, 0)])
    found = values("pixel_average_precision", maps, masks=masks, thresholds=50)

    def average_precision(scaled, truth):
        levels = np.floor(scaled * 50).clip(0, 50)
        recall = [(truth & (levels >= t)).sum() / truth.sum() for t in range(51)] + [0]
        precision = [(truth & (levels >= t)).sum() / max((levels >= t).sum(), 1) for t in range(51)]
        return sum(p * (r - s) for p, r, s in zip(precision, recall[:-1], recall[1:], strict=True))

    low, high = maps.amin((1, 2), True), maps.amax((1, 2), True)
    scaled = ((maps - low) / (high - low)).numpy()
    expected = [average_precision(one, truth) for one, truth in zip(scaled, masks.numpy(), strict=True)]
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)
    assert found.mean == pytest.approx(average_precision(scaled, masks.numpy()))


def test_a_random_map_scores_what_chance_does():
    maps, mask = random_maps(300, size=(24, 20)), mask_of(slice(5, 15), slice(2, 14), (24, 20))
    share = mask.float().mean().item()
    for name in ("energy_pointing_game", "rank_accuracy", "pixel_average_precision"):
        found = values(name, maps, masks=mask.expand(300, -1, -1))
        assert found.mean == pytest.approx(share, abs=0.01)
    pointing = values("pointing_game", maps, masks=mask.expand(300, -1, -1), tolerance=0)
    low, high = pointing.interval()
    assert low < share < high


def test_concentration():
    maps = random_maps(3) - 0.4
    for index in range(3):
        flat = np.sort(np.abs(maps[index].numpy().ravel()))
        count = len(flat)
        differences = np.abs(flat[:, None] - flat).sum() / (2 * count**2 * flat.mean())  # Gini's mean difference
        shares = flat / flat.sum()
        one = maps[index : index + 1]
        assert values("sparseness", one).values.item() == pytest.approx(differences, rel=1e-12)
        assert values("complexity", one).values.item() == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-12)
        scaled = (one - one.min()) / (one.max() - one.min())
        assert values("mean_intensity", one).values.item() == pytest.approx(scaled.mean().item(), rel=1e-12)
    single = torch.zeros(1, 12, 10)
    single[0, 2, 2] = 5
    assert values("sparseness", single).mean == pytest.approx(119 / 120)
    assert values("complexity", single).mean == 0
    assert values("complexity", torch.ones(1, 12, 10)).mean == pytest.approx(math.log(120))
    assert math.isnan(values("sparseness", torch.zeros(1, 12, 10)).mean)


def test_masks_and_boxes_that_do_not_fit():
    maps = random_maps(2)
    with pytest.raises(ValueError, match="this measure compares maps with objects: pass `masks`"):
        values("pointing_game", maps)
    with pytest.raises(TypeError, match=r"masks must be a bool tensor \(N, \*S\), got torch.float32"):
        values("pointing_game", maps, masks=torch.zeros(2, 12, 10))
    with pytest.raises(ValueError, match=r"masks must have shape \(2, 12, 10\), one for each image, got \(2, 10, 12\)"):
        values("pointing_game", maps, masks=torch.zeros(2, 10, 12, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"a tensor \(M, 4\) for each of 2 images, got 1"):
        values("box_iou", maps, boxes=[torch.ones(1, 4)])
    with pytest.raises(ValueError, match="left < right and top < bottom"):
        values("box_iou", maps, boxes=[torch.tensor([[4.0, 1, 4, 2]])] * 2)
    with pytest.raises(ValueError, match="`tolerance` must be a number of pixels from 0 on, got -1"):
        values("pointing_game", maps, masks=box_mask().expand(2, -1, -1), tolerance=-1)


def test_objects_of_each_target():
    maps = torch.stack([box_mask().double(), mask_of(0, slice(0, 3)).double()])[None]
    masks = torch.stack([box_mask(), box_mask()])[None]
    found = values("energy_pointing_game", maps, masks=masks)
    assert found.values.tolist() == [[1.0, 0.0]]
    assert values("energy_pointing_game", maps, masks=masks[:, 0]).values.tolist() == [[1.0, 0.0]]
