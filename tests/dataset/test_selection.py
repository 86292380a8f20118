"""Parts of a dataset: the same images whatever the source, and a run of them alone."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import fastcam.dataset
from fastcam.dataset import Limits, select
from fastcam.dataset.sources import selection, source_of
from tests.dataset.small import SETTINGS, contents, folder, jpeg, network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six cats and six dogs."""
    return folder(tmp_path_factory.mktemp("selection") / "in", 12)


def ids(source):
    return [item.id for item in source.items(0, len(source))]


JPEGS = [jpeg(index) for index in range(4)]
CATS = [f"cats/{i:03d}.jpg" for i in range(6)]
DOGS = [f"dogs/{i:03d}.jpg" for i in range(6, 12)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"where": "label == 'dogs'"}, DOGS),
        ({"where": "label != 'dogs' and '3' in id"}, [CATS[3]]),
        ({"where": "not ('cats' in path) or id < 'cats/002'"}, [*CATS[:2], *DOGS]),
        ({"where": " label in ('cats', 'birds') "}, CATS),
        ({"ids": [DOGS[1], CATS[2]]}, [CATS[2], DOGS[1]]),
        ({"ids": CATS, "where": "'1' in id"}, [CATS[1]]),
        ({"limit": 2}, CATS[:2]),
        ({"where": "label == 'dogs'", "limit": 3}, DOGS[:3]),
        ({"limit": 100}, CATS + DOGS),
        ({"sample": 100}, CATS + DOGS),
    ],
    ids=str,
)
def test_conditions(photos, options, expected):
    assert ids(select(photos, **options)) == expected


def test_samples_are_the_same_for_a_seed(photos):
    first, again, other = (ids(select(photos, sample=5, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 5
    assert first == sorted(first)
    assert ids(select(photos, sample=5, seed=1, limit=2)) == first[:2]


def test_a_random_order(tmp_path, photos):
    """Of what is chosen, the same for a seed; what is made of an image does not depend on it."""
    first, again, other = (ids(select(photos, shuffle_seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == CATS + DOGS != first
    assert ids(select(photos, shuffle_seed=1, limit=3)) == first[:3]
    dogs = ids(select(photos, where="label == 'dogs'", sample=4, shuffle_seed=3))
    assert set(dogs) <= set(DOGS)
    assert len(set(dogs)) == 4
    for name, source in (("whole", photos), ("shuffled", select(photos, shuffle_seed=1))):
        fastcam.dataset.run(source, network(), tmp_path / name, **SETTINGS)
    found, expected = (fastcam.dataset.open(tmp_path / name) for name in ("shuffled", "whole"))
    assert list(found) == first
    for name in found:
        mine, plain = found.rows(name)[0], expected.rows(name)[0]
        assert mine["sha256"] == plain["sha256"]
        np.testing.assert_allclose(found.maps(name), expected.maps(name), atol=2e-3)
    table = pa.Table.from_pylist([{"image": {"bytes": JPEGS[0], "path": "a"}, "label": 0}])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="rows of Parquet files cannot be shuffled"):
        select(tmp_path / "a.parquet", shuffle_seed=1)


def parquet(path):
    rows = [{"image": {"bytes": JPEGS[i % 4], "path": f"{i}.jpg"}, "label": i % 3} for i in range(200)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=37)
    return str(path)


@pytest.mark.parametrize("gap", [0, 5, 64])
def test_any_part_of_any_choice(tmp_path, monkeypatch, gap):
    monkeypatch.setattr(selection, "MAX_GAP", gap)
    whole = source_of(parquet(tmp_path / "a.parquet"))
    chance = random.Random(gap)
    for _ in range(10):
        chosen = sorted(chance.sample(range(200), 23))
        part = selection.Selection(whole, np.array(chosen))
        start, stop = sorted(chance.sample(range(24), 2))
        assert ids(part) == [f"a.parquet:{i}" for i in chosen]
        found = list(part.items(start, stop))
        assert [item.id for item in found] == [f"a.parquet:{i}" for i in chosen[start:stop]]
        assert all(item.read(Limits()) == JPEGS[i % 4] for item, i in zip(found, chosen[start:stop], strict=True))


def test_what_lies_between_distant_images_is_not_looked_up(photos, monkeypatch):
    monkeypatch.setattr(selection, "MAX_GAP", 2)
    whole, asked = source_of(photos), []
    items = type(whole).items
    monkeypatch.setattr(type(whole), "items", lambda *arguments: asked.append(arguments[1:]) or items(*arguments))
    assert len(ids(selection.Selection(whole, np.array([0, 2, 3, 6, 11])))) == 5
    assert asked == [(0, 4), (6, 7), (11, 12)]


def test_labels_of_parquet_files_are_known_without_their_images(tmp_path):
    source = source_of(parquet(tmp_path / "a.parquet"))
    described = list(source.descriptions())
    assert described == [(item.id, item.path, item.label or "") for item in source.items(0, len(source))]
    assert described[4] == ("a.parquet:4", "4.jpg", "1")
    assert ids(select(source, where="label == '2' and path < '3'", limit=2)) == ["a.parquet:2", "a.parquet:11"]
    pq.write_table(pa.table({"jpg": JPEGS[:2]}), tmp_path / "b.parquet")  # nothing but images
    assert list(source_of(str(tmp_path / "b.parquet")).descriptions()) == [
        (f"b.parquet:{i}", f"b.parquet:{i}", "") for i in (0, 1)
    ]


def test_a_run_of_a_part(photos, tmp_path):
    part = select(photos, where="label == 'dogs'")
    done = fastcam.dataset.run(part, network(), tmp_path / "part", **SETTINGS)
    assert (done.total, done.new) == (6, 6)
    fastcam.dataset.run(photos, network(), tmp_path / "whole", **SETTINGS)
    maps, whole = fastcam.dataset.open(tmp_path / "part"), fastcam.dataset.open(tmp_path / "whole")
    assert list(maps) == DOGS
    for name in DOGS:
        np.testing.assert_allclose(
            maps.maps(name)[0], whole.maps(name)[0], atol=2e-3
        )  # in other batches, and in float16
    before = contents(tmp_path / "part")
    assert fastcam.dataset.run(select(photos, ids=DOGS), network(), tmp_path / "part", **SETTINGS).new == 0
    assert contents(tmp_path / "part") == before
    with pytest.raises(ValueError, match=r"holds the results of another run: images 6 .now 5., source"):
        fastcam.dataset.run(select(photos, ids=DOGS[1:]), network(), tmp_path / "part", **SETTINGS)
    assert fastcam.dataset.to_overlays(maps, tmp_path / "overlays", photos) == 6
    assert len(list((tmp_path / "overlays" / "dogs").iterdir())) == 6
    with pytest.raises(ValueError, match="`source` is not the one"):
        fastcam.dataset.to_overlays(maps, tmp_path / "none", photos / "cats")


def test_a_part_of_a_pytorch_dataset(tmp_path):
    samples = [(torch.full((3, 16, 16), float(i)), i) for i in range(9)]
    fastcam.dataset.run(select(samples_of(samples), limit=4), network(), tmp_path / "out", **SETTINGS)
    maps = fastcam.dataset.open(tmp_path / "out")
    assert [maps.rows(name)[0]["label"] for name in maps] == ["0", "1", "2", "3"]


def samples_of(samples):
    class Samples:
        def __len__(self):
            return len(samples)

        def __getitem__(self, index):
            return samples[index]

    return Samples()


@pytest.mark.parametrize(
    "where",
    [
        "label = 'cats'",
        "label == 3",
        "name == 'x'",
        "id.startswith('c')",
        "__import__('os')",
        "",
        "label + 'x' == 'y'",
        "[1]",
        "(lambda: id)()",
        "label < ('a', 'b')",
        "label == 'a\0'",
        "(" * 5000,
    ],
)
def test_expressions_that_are_none(photos, where):
    with pytest.raises(ValueError, match="`where` must compare id, path, label with texts, as in"):
        select(photos, where=where)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "label == 'birds'"}, "none of the 12 images is selected"),
        ({"ids": []}, "none of the 12 images is selected"),
        ({"ids": ["x.jpg", "a.jpg", CATS[0]]}, "the source has no image 'a.jpg' and 1 others"),
        ({"ids": ["x.jpg"]}, "the source has no image 'x.jpg'$"),
        ({"limit": 0}, "`limit` must be a positive whole number, got 0"),
        ({"sample": 2.5}, "`sample` must be a positive whole number, got 2.5"),
    ],
)
def test_mistakes(photos, options, message):
    with pytest.raises(ValueError, match=message):
        select(photos, **options)
