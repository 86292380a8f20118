"""Measures over datasets: the numbers of single images, resumed, on stored maps, at the place of the photograph."""

import csv
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import fastcam
from fastcam import evaluate
from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import Preprocessing, read_photograph
from fastcam.evaluate import datasets
from fastcam.evaluate.annotations import Annotation, Region, open_annotations
from fastcam.evaluate.datasets.placing import place
from tests.dataset.small import PREPROCESSING, SETTINGS, contents, folder, network

pytestmark = pytest.mark.usefixtures("one_thread")

MEASURES = ["deletion", "pointing_game", "box_iou", "max_sensitivity", "pixel_average_precision", "complexity"]
OPTIONS = {
    "deletion": {"steps": 3},
    "pointing_game": {"tolerance": 2},
    "max_sensitivity": {"samples": 2},
    "pixel_average_precision": {"thresholds": 20},
}


def boxes_of(source, file, skip=()):
    """A table with a box in every photograph (60 x 50), but for some."""
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, ["image_id", "left", "top", "right", "bottom"])
        writer.writeheader()
        for index, path in enumerate(sorted(source.rglob("*.jpg"))):
            if index not in skip:
                name = path.relative_to(source).as_posix()
                writer.writerow({"image_id": name, "left": 5 + index, "top": 8, "right": 40 + index, "bottom": 45})
    return open_annotations(file)


def run(source, out, annotations, measures=MEASURES, **settings):
    options = {name: OPTIONS[name] for name in measures if name in OPTIONS}
    settings = {**SETTINGS, "method": ["grad_cam", "layer_cam"], "measure_options": options, **settings}
    return datasets.run(source, network(), out, measures, annotations=annotations, **settings)


def test_every_value_is_that_of_the_single_image(tmp_path):
    source = folder(tmp_path / "in", 6)
    (source / "dogs" / "999.jpg").write_bytes(b"nothing")
    annotations = boxes_of(source, tmp_path / "boxes.csv", skip=[2])
    done = run(source, tmp_path / "out", annotations, target=["top1", "3"])
    assert (done.total, done.failed) == (7, 1)
    values = datasets.open(tmp_path / "out")
    rows = values.dataset().to_table().to_pylist()
    assert "not a picture" in rows[-1]["status"]
    assert rows[-1]["measure"] is None
    model = network()
    for index, path in enumerate(sorted(source.rglob("0*.jpg"))):
        name = path.relative_to(source).as_posix()
        image = PREPROCESSING(read_photograph(path))[None]
        classes = [row["target"] for row in rows if row["image_id"] == name and row["measure"] == "complexity"][:2]
        classes = list(dict.fromkeys(classes))
        explainer = fastcam.Explainer(model, ["grad_cam", "layer_cam"], "features")
        scale = 18 / 50  # 60 x 50 becomes 21 x 18, then 16 x 16 from the middle
        left, top = round((21 - 16) / 2), 1
        boxes = [
            torch.tensor(
                [[(5 + index) * 21 / 60 - left, 8 * scale - top, (40 + index) * 21 / 60 - left, 45 * scale - top]]
            )
        ]
        for target in classes:
            given = {} if index == 2 else {"boxes": boxes}
            names = [each for each in MEASURES if index != 2 or each in ("deletion", "complexity")]
            single = evaluate.run(
                explainer(image, target),
                names,
                explainer=explainer,
                options={k: OPTIONS[k] for k in names if k in OPTIONS},
                **given,
            )
            for method in ("grad_cam", "layer_cam"):
                for measure in MEASURES:
                    (row,) = [
                        row for row in rows
                        if [row[key] for key in ("image_id", "method", "target", "measure")]
                        == [name, method, target, measure]
                    ]  # fmt: skip
                    if measure in names:
                        expected = single[method, measure].values.item()
                        found = np.nan if row["value"] is None else row["value"]
                        assert found == pytest.approx(expected, abs=1e-4, nan_ok=True), (name, measure)
                        # A map of zeros has no relative change.
                        assert row["reason"] == (row["status"] if np.isnan(expected) else None)
                    elif measure != "max_sensitivity":
                        assert row["value"] is None
                        assert row["reason"] == "there is no annotation"
    curves = values.details("deletion", "grad_cam", "features")["curve"]
    assert curves.shape[1] == 4
    assert sum(row["map"] is not None for row in rows) == sum(row["measure"] == "deletion" for row in rows)


def test_means_and_intervals(tmp_path):
    source = folder(tmp_path / "in", 8)
    annotations = boxes_of(source, tmp_path / "boxes.csv", skip=[1])
    run(source, tmp_path / "out", annotations, ["deletion", "pointing_game", "pixel_average_precision"])
    values = datasets.open(tmp_path / "out")
    rows = values.dataset().to_table().to_pylist()
    means = {(each.measure, each.method): each for each in values.means()}
    assert len(means) == 6
    for (measure, method), mean in means.items():
        chosen = [row for row in rows if (row["measure"], row["method"]) == (measure, method)]
        defined = [row["value"] for row in chosen if row["value"] is not None]
        assert (mean.values, mean.undefined) == (len(defined), 8 - len(defined))
        assert mean.undefined == (0 if measure == "deletion" else 1)
        if measure == "pixel_average_precision":
            details = values.details(measure, method, "features")
            assert mean.mean == pytest.approx(evaluate.get_measure(measure).pool(details).item())
        else:
            assert mean.mean == pytest.approx(np.mean(defined))
        assert mean.low <= mean.mean <= mean.high
    text = datasets.table(values)
    assert f"{means['deletion', 'grad_cam'].mean:.4f}" in text


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path):
    source = folder(tmp_path / "in", 10)
    annotations = boxes_of(source, tmp_path / "boxes.csv")
    run(source, tmp_path / "whole", annotations)
    calls = []

    def stop(progress):
        calls.append(progress)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "parts", annotations, report=stop)
    assert 0 < len(contents(tmp_path / "parts")) < len(contents(tmp_path / "whole"))
    run(source, tmp_path / "parts", annotations)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert run(source, tmp_path / "parts", annotations).new == 0
    with pytest.raises(ValueError, match=r"of another run: measure_options .*, measures"):
        run(source, tmp_path / "parts", annotations, ["deletion"])
    with pytest.raises(ValueError, match="of another run: annotations"):
        run(source, tmp_path / "parts", boxes_of(source, tmp_path / "boxes.csv", skip=[0]))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_stored_maps_are_measured_without_the_model(tmp_path, dtype):
    source = folder(tmp_path / "in", 6)
    (source / "dogs" / "999.jpg").write_bytes(b"nothing")
    measures = ["pointing_game", "energy_pointing_game", "mask_iou", "complexity"]
    masks = tmp_path / "masks"
    for index, path in enumerate(sorted(source.rglob("0*.jpg"))):
        file = masks / path.relative_to(source).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros((50, 60), np.uint8)
        values[10 : 20 + 4 * index, 15:45] = 255
        Image.fromarray(values).save(file)
    annotations = open_annotations(masks)
    run(source, tmp_path / "direct", annotations, measures)
    fastcam.dataset.run(
        source, network(), tmp_path / "maps", **{**SETTINGS, "method": ["grad_cam", "layer_cam"], "dtype": dtype}
    )
    shutil.rmtree(source)  # photographs are not needed any more
    done = datasets.run_on_maps(
        tmp_path / "maps",
        tmp_path / "out",
        measures,
        annotations=annotations,
        measure_options={"pointing_game": {"tolerance": 2}},
    )
    assert (done.total, done.new, done.failed) == (7, 7, 1)
    direct, stored = (datasets.open(tmp_path / name) for name in ("direct", "out"))
    columns = ["image_id", "method", "measure", "value", "reason", "status", "target", "label"]
    for one, other in zip(
        direct.dataset().to_table(columns).to_pylist(), stored.dataset().to_table(columns).to_pylist(), strict=True
    ):
        value, found = one.pop("value"), other.pop("value")
        assert one == other
        # uint8 holds scaled maps alone, in steps of 1 / 255
        if value is not None and (dtype == "float32" or one["measure"] in ("pointing_game", "energy_pointing_game")):
            assert found == pytest.approx(value, abs=2e-3 if dtype == "float32" else 2e-2)
    again = datasets.run_on_maps(
        tmp_path / "maps",
        tmp_path / "out",
        measures,
        annotations=annotations,
        measure_options={"pointing_game": {"tolerance": 2}},
    )
    assert again.new == 0


def test_boxes_and_masks_at_the_place_of_the_crop():
    """Of a photograph of 40 x 80 the middle is seen: resized to 10 x 20, rows 5 to 15."""
    preprocessing = Preprocessing(shorter_side=10, size=(10, 10))
    mask = np.zeros((80, 40), bool)
    mask[20:40, 8:40] = True
    regions = (
        Region("a", (8, 20, 40, 40), lambda size: mask),
        Region("b", (0, 0, 40, 24)),
        Region("c", (0, 48, 8, 64), None, True),
    )
    found = place(Annotation("x", regions, (80, 40)), (80, 40), preprocessing, (10, 10))
    assert found.reason == ""
    assert found.boxes.tolist() == [[2, 0, 10, 5], [0, -5, 10, 1]]
    expected = torch.zeros(10, 10, dtype=torch.bool)
    expected[:5, 2:], expected[:1] = True, True
    assert torch.equal(found.mask, expected)
    ignored = torch.zeros(10, 10, dtype=torch.bool)
    ignored[7:, :2] = True
    ignored[7:, :2] = torch.tensor([True, True])
    assert torch.equal(found.ignored, ignored)
    above = place(Annotation("x", (Region("", (0, 0, 40, 15)),), (80, 40)), (80, 40), preprocessing, (10, 10))
    assert above.reason == "no object in what the model sees"
    assert not above.mask.any()
    other = place(Annotation("x", regions, (80, 41)), (80, 40), preprocessing, (10, 10))
    assert other.reason == "the annotation is of an image of 41 x 80 pixels, this one has 40 x 80"
    broken = place(Annotation("x", reason="the annotation cannot be read: why"), (80, 40), preprocessing, (10, 10))
    assert broken.reason == "the annotation cannot be read: why"
    assert place(Annotation("x"), (80, 40), preprocessing, (10, 10)).reason == "no object"
    as_it_is = place(Annotation("x", (Region("", (1, 2, 4, 5)),)), None, preprocessing, (10, 10))
    assert as_it_is.boxes.tolist() == [[1, 2, 4, 5]]
    assert as_it_is.mask.sum() == 9


def test_void_pixels_and_difficult_objects_do_not_count():
    void = np.zeros((10, 10), bool)
    void[0] = True
    annotation = Annotation(
        "x", (Region("", (2, 2, 5, 5)), Region("", (4, 4, 8, 8), None, True)), void=lambda size: void
    )
    found = place(annotation, None, Preprocessing(shorter_side=10, size=(10, 10)), (10, 10))
    assert found.mask.sum() == 9
    assert found.ignored.sum() == 10 + 15
    assert not (found.mask & found.ignored).any()


def test_localisation_errors(tmp_path):
    """Photographs whose labels are classes: a guess is right with the class and the box."""
    names = ["cats", "dogs", "birds", "fish", "cars"]
    source = folder(tmp_path / "in", 10)
    annotations = boxes_of(source, tmp_path / "boxes.csv")
    classifier = Classifier(network(), PREPROCESSING, tuple(names))
    settings = {
        **SETTINGS,
        "target": ["top3", "label"],
        "measure_options": {"localisation_accuracy": {"iou": 0.3}},
    }
    datasets.run(source, classifier, tmp_path / "out", ["localisation_accuracy"], annotations=annotations, **settings)
    values = datasets.open(tmp_path / "out")
    rows = values.dataset().to_table().to_pylist()
    errors = {each.measure: each for each in values.localisation_errors()}
    by_image = {}
    for row in rows:
        by_image.setdefault(row["image_id"], []).append(row)
    top1, best, known = [], [], []
    for name, each in by_image.items():
        label = names.index(name.split("/")[0])
        top1.append(
            1 - max(row["value"] for row in each if row["target"] == row["predicted"]) * (each[0]["predicted"] == label)
        )
        known.append(1 - max(row["value"] for row in each if row["target"] == label))
        best.append(1 - max(row["value"] * (row["target"] == label) for row in each))
    guesses = max(map(len, by_image.values()))
    assert errors["top-1 localisation error"].mean == pytest.approx(np.mean(top1))
    assert errors["known-class localisation error"].mean == pytest.approx(np.mean(known))
    assert errors[f"top-{guesses} localisation error"].mean == pytest.approx(np.mean(best))
    assert 0 < np.mean(known) < 1
    assert "top-1 localisation error" in datasets.table(values)


def test_objects_of_the_explained_class(tmp_path):
    """Where annotations tell classes apart, only the objects of the map's class count; the pointing game of VOC."""
    names = ["cats", "dogs", "Red birds", "fish", "cars"]
    source = folder(tmp_path / "in", 8)
    objects = {}  # by image: (label, box) in pixels of the photograph, 60 x 50
    with (tmp_path / "boxes.csv").open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["image_id", "left", "top", "right", "bottom", "label"])
        for index, path in enumerate(sorted(source.rglob("*.jpg"))):
            name = path.relative_to(source).as_posix()
            objects[name] = [("cats", (8, 3, 30, 25))]
            if index % 2:
                objects[name].append((("fish", "red_birds")[index % 4 // 2], (25, 22, 52, 47)))
            if index == 7:
                objects[name].append(("no class of the model", (8, 3, 52, 47)))
            for label, box in objects[name]:
                writer.writerow([name, *box, label])
    settings = {**SETTINGS, "target": ["objects", "4"], "measure_options": {"pointing_game": {"tolerance": 0}}}
    classifier = Classifier(network(), PREPROCESSING, tuple(names))
    annotations = open_annotations(tmp_path / "boxes.csv")
    datasets.run(source, classifier, tmp_path / "out", ["pointing_game"], annotations=annotations, **settings)
    values = datasets.open(tmp_path / "out")
    rows = values.dataset().to_table().to_pylist()
    hits = {}
    for row in rows:
        found = objects[row["image_id"]]
        label = names[row["target"]].casefold().replace(" ", "_")
        is_known = all(each != "no class of the model" for each, _ in found)
        boxes = [box for each, box in found if each == label or not is_known]
        details = dict(row["details"] or ())
        if not boxes:
            assert (row["target"], row["value"], row["reason"]) == (4, None, "no object of the class")
            continue
        assert details["other_classes"] == [len(found) - 1 if is_known else 0]
        explained = fastcam.explain(
            network(), PREPROCESSING(read_photograph(source / row["image_id"]))[None], target=row["target"],
            target_layer="features",
        )  # fmt: skip
        objects_mask = place(
            Annotation("", tuple(Region("", box) for box in boxes)), (50, 60), PREPROCESSING, (16, 16)
        ).mask
        expected = evaluate.pointing_game(explained, masks=objects_mask[None], tolerance=0).item()
        assert row["value"] == expected
        assert details["object_share"] == [pytest.approx(objects_mask.double().mean().item())]
        hits.setdefault(row["target"], []).append((row["value"], details["object_share"][0], details["other_classes"]))
    assert set(hits) == {0, 2, 3, 4}
    assert sum(row["target"] in (2, 3) for row in rows) == 4
    games = {each.measure: each for each in values.pointing_games()}
    mean = np.mean([np.mean([hit for hit, *_ in each]) for each in hits.values()])
    assert games["pointing game, mean over classes"].mean == pytest.approx(mean)
    difficult = [[hit for hit, share, others in each if share < 0.25 and others != [0]] for each in hits.values()]
    assert games["pointing game, difficult"].mean == pytest.approx(
        np.mean([np.mean(each) for each in difficult if each])
    )
    assert games["pointing game, difficult"].values == sum(map(len, difficult)) > 2
    assert "pointing game, difficult" in datasets.table(values)


def test_rows_travel_without_the_model(tmp_path, monkeypatch):
    """They are sent to the nodes of a cluster, beside a model that may have been moved off its GPU."""
    sent = []
    monkeypatch.setattr(datasets.api, "run_job", lambda job, report, ray, devices: sent.append(job.work.rows))
    model = torch.nn.Sequential(network(), torch.nn.Linear(5, 5000))
    classifier = Classifier(model, PREPROCESSING, ("cats", "dogs"))
    datasets.run(folder(tmp_path / "in", 1), classifier, tmp_path / "out", ["complexity"], shard_size=4)
    assert len(pickle.dumps(sent[0])) < 5000
    assert sent[0].class_names(2) == ("cats", "dogs")


def test_objects_are_chosen_of_annotations(tmp_path):
    source = folder(tmp_path / "in", 2)
    with pytest.raises(ValueError, match="target 'objects' is the classes of annotated objects, and no object is of a"):
        run(source, tmp_path / "out", boxes_of(source, tmp_path / "boxes.csv"), target="objects")


def test_report(tmp_path):
    source = folder(tmp_path / "in", 10)
    annotations = boxes_of(source, tmp_path / "boxes<b>.csv", skip=[3])
    run(source, tmp_path / "out", annotations)
    values = datasets.open(tmp_path / "out")
    (tmp_path / "report.html").write_text("old")
    datasets.write_report(values, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for mean in values.means():
        assert f"{mean.mean:.4f}" in page
    assert page.count("data:image/jpeg") == 2 * 4 * 5  # best and worst of five measures; complexity has no better
    assert page.count("data:image/png") == len(MEASURES) + 1  # bars, and a curve
    assert "http" not in page  # nothing is loaded from elsewhere
    shutil.rmtree(source)
    datasets.write_report(values, tmp_path / "report.html")  # maps on grey
    assert page != (tmp_path / "report.html").read_text()
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_stability_of_a_dataset(tmp_path):
    """The colours of the preprocessing are known; the report draws a panel for every perturbation."""
    source = folder(tmp_path / "in", 5)
    names, levels = ["map_stability", "prediction_stability"], {"noise": [0.1, 0.3], "jpeg": [20]}
    given = {name: {"levels": levels} for name in names}
    datasets.run(source, network(), tmp_path / "out", names, measure_options=given, **SETTINGS)
    values = datasets.open(tmp_path / "out")
    photographs = [PREPROCESSING(read_photograph(path)) for path in sorted(source.rglob("*.jpg"))]
    given = {"mean": PREPROCESSING.mean, "std": PREPROCESSING.std, "target_layer": SETTINGS["target_layer"]}
    expected = evaluate.stability(network(), torch.stack(photographs), levels=levels, **given)
    flipped, similarity = expected.flipped, expected.similarity.masked_fill(expected.flipped, torch.nan)
    means = {mean.measure: mean.mean for mean in values.means()}
    assert means["prediction_stability"] == pytest.approx(1 - flipped.double().mean().item())
    assert means["map_stability"] == pytest.approx(similarity.nanmean(0).nanmean().item(), abs=1e-4)
    datasets.write_report(values, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 4


def test_what_cannot_be_measured(tmp_path):
    source = folder(tmp_path / "in", 2)
    with pytest.raises(ValueError, match="pointing_game compares maps with objects, and needs annotations"):
        run(source, tmp_path / "out", None)
    with pytest.raises(ValueError, match="`measures` must name at least one"):
        run(source, tmp_path / "out", None, [])
    with pytest.raises(TypeError, match="the measures of a dataset are names, by which"):
        run(source, tmp_path / "out", None, [fastcam.evaluate.get_measure("complexity")])
    with pytest.raises(ValueError, match="names the measure 'deletion', which is not measured"):
        datasets.run(source, network(), tmp_path / "out", ["complexity"], measure_options={"deletion": {}}, **SETTINGS)
    assert not (tmp_path / "out").exists()
    fastcam.dataset.run(source, network(), tmp_path / "maps", **SETTINGS)
    with pytest.raises(ValueError, match="deletion needs the model and the images"):
        datasets.run_on_maps(tmp_path / "maps", tmp_path / "out", ["deletion"])
    with pytest.raises(ValueError, match="holds maps, but no measured values"):
        datasets.open(tmp_path / "maps")
