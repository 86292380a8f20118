"""``fastcam features``, ``neighbours`` and ``mosaic``, and the neurons of datasets."""

import csv
import json

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

import fastcam.features
from tests.cli.command_line import SMALL, pixels, run, sentence, square

pytestmark = pytest.mark.usefixtures("one_thread")

COLORS = ("red", "lime", "blue")


def photos(work, each=4):
    """Squares of three colours, of several sizes: the network sees the share of each colour."""
    for color in COLORS:
        for number in range(each):
            square(work / "photos" / color / f"{number}.png", color, box=(0, 0, 14 + number, 16 + number))


def features(*more):
    return run("features", "photos", *SMALL, "--out", "features", *more)


def test_features(work):
    photos(work)
    (work / "photos" / "bad.png").write_bytes(b"nothing")
    done = features("--shard-size", 4)
    assert done.exit_code == 1, done.output
    assert done.stdout.splitlines()[0].startswith("13 images in features: 1 without a vector; ")
    assert done.stdout.splitlines()[1].startswith("without a vector: bad.png (")
    assert done.stdout.splitlines()[2] == "3 numbers of float16 an image: input of 3"
    found = fastcam.features.open("features")
    assert found.vectors.argmax(1).tolist() == [2] * 4 + [1] * 4 + [0] * 4  # blue, lime, red
    again = features("--shard-size", 4)
    assert "13 by earlier runs" in again.stdout
    told = sentence(features("--shard-size", 4, "--layer", "0"), 2)
    assert told.startswith("fastcam: 'features' holds the results of another run: features")
    lines = [
        json.loads(line) for line in run("features", "photos", *SMALL, "--out", "f2", "--json-log").stdout.splitlines()
    ]
    assert [(line["rows"], line["failed"]) for line in lines] == [(13, 1)]
    assert run("verify", "features").exit_code == 0
    told = run("stats", "features").stdout
    assert "13 of 13" in told
    assert ["without a vector", "1"] in rows_of(told)
    assert "images without a vector:\n  bad.png: " in told
    assert "'features' holds none" in sentence(run("stats", "features", "--mean-maps", "means"), 2)


def rows_of(table):
    return [
        [cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line.startswith("│")
    ]


def test_neighbours(work):
    photos(work)
    features()
    done = run(
        "neighbours", "features", "--query", "red/1.png", "--query", "photos/blue/3.png", "-k", 3, "--out", "n.png"
    )
    assert done.exit_code == 0, done.output
    rows = rows_of(done.stdout)
    assert [row[3].split("/")[0] for row in rows] == ["red"] * 3 + ["blue"] * 3
    assert "red/1.png" not in [row[3] for row in rows]
    assert [row[4] for row in rows] == ["red"] * 3 + ["blue"] * 3
    assert done.stdout.splitlines()[-1] == "n.png: 2 queries and the 3 nearest to each, by cosine distance"
    picture = pixels(work / "n.png")
    assert (picture == [255, 0, 0]).all(-1).any()
    assert (picture == [0, 0, 255]).all(-1).any()
    assert not (picture == [0, 255, 0]).all(-1).any()


def test_a_new_picture_needs_the_model_of_the_features(work):
    photos(work)
    features()
    square(work / "new.png", "lime", box=(3, 3, 21, 20))
    told = sentence(run("neighbours", "features", "--query", "new.png"), 2)
    assert told == "fastcam: 'new.png' is no image of the dataset: to make its vector, give the model as --model"
    done = run(
        "neighbours", "features", "--query", "new.png", *SMALL, "-k", 4, "--metric", "euclidean", "--out", "n.jpg"
    )
    assert done.exit_code == 0, done.output
    assert [row[4] for row in rows_of(done.stdout)] == ["lime"] * 4
    assert Image.open("n.jpg").format == "JPEG"
    other = run("neighbours", "features", "--query", "new.png", "--model", "small_model_of_a_test:poisoned")
    assert "made with another model or other weights" in sentence(other, 2)
    (work / "broken.png").write_bytes(b"nothing")
    assert "'broken.png' cannot be read" in sentence(run("neighbours", "features", "--query", "broken.png", *SMALL), 2)
    unknown = sentence(run("neighbours", "features", "--query", "nowhere"), 2)
    assert unknown == "fastcam: --query must be a picture or the id of an image of the dataset, got 'nowhere'"


def test_an_index_of_neighbours(work):
    photos(work)
    features()
    done = run("neighbours", "features", "--query", "red/1.png", "-k", 2, "--approximate")
    assert done.exit_code == 0, done.output
    assert [row[4] for row in rows_of(done.stdout)] == ["red"] * 2
    assert len(list((work / "features").glob("*.faiss"))) == 1


@pytest.mark.parametrize("color", ["label", "predicted", "score"])
def test_mosaic(work, color):
    photos(work)
    features()
    done = run("mosaic", "features", "--out", "m.png", "--columns", 6, "--rows", 4, "--side", 8, "--color", color)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("m.png: ")
    picture = pixels(work / "m.png")
    assert picture.shape[1] == 6 * 10 + 2
    assert picture.shape[0] > 4 * 10 + 2
    (places,) = (work / "features").glob("places-*.npy")
    assert np.load(places).shape == (12, 2)
    again = run("mosaic", "features", "--out", "s.png", "--scatter", "--columns", 8, "--side", 16)
    assert again.stdout == "s.png: 12 of 12 images, 128 x 128 pixels\n"
    for value in ([255, 0, 0], [0, 255, 0], [0, 0, 255]):
        assert (pixels(work / "s.png") == value).all(-1).any()
    assert len(list((work / "features").glob("places-*.npy"))) == 1


def test_pictures_of_a_source_without_files(work):
    """Features of a Parquet file of pictures: the mosaic asks for it."""
    photos(work, 2)
    files = sorted((work / "photos").rglob("*.png"))
    table = pyarrow.table(
        {"image": [file.read_bytes() for file in files], "label": [file.parent.name for file in files]}
    )
    pyarrow.parquet.write_table(table, "p.parquet")
    assert run("features", "p.parquet", *SMALL, "--out", "features").exit_code == 0
    assert "cannot be read at its path" in sentence(run("mosaic", "features", "--out", "m.png"), 2)
    done = run("mosaic", "features", "--out", "m.png", "--source", "p.parquet", "--columns", 4, "--side", 8)
    assert done.exit_code == 0, done.output
    assert pixels(work / "m.png").shape == (42, 42, 3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["features", "nowhere", *SMALL, "--out", "f"], "'nowhere'"),
        (["features", "photos", *SMALL, "--out", "f", "--layer", "9"], "no layer named '9'"),
        (["features", "photos", "--model", "resnet18", "--out", "f"], "write torchvision:resnet18"),
        (["neighbours", "photos", "--query", "a"], "'photos' holds no features"),
        (["mosaic", "photos"], "'photos' holds no features"),
        (["mosaic", "features", "--out", "m.txt"], "--out must be a picture (.png, .jpg, .jpeg, .webp), got 'm.txt'"),
        (["mosaic", "features", "--out", "none/m.png/x.png", "--color", "nothing"], "--color"),
        (["neighbours", "features", "--query", "red/0.png", "--out", "photos"], "--out must be a picture"),
        (["mosaic", "features", "--columns", "3000", "--side", "48"], "a JPEG file may have 65500 pixels a side and"),
        (["mosaic", "features", "--columns", "1000", "--out", "m.png"], "500000000 pixels, not 48000 x 48000"),
    ],
)
def test_mistakes(work, arguments, told):
    photos(work, 1)
    if arguments[0] != "features":
        features()
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert "Traceback" not in done.output
    assert not (work / "f").exists()


def test_neurons_of_a_dataset_are_resumed(work):
    photos(work)
    arguments = ("neurons", "photos", *SMALL, "--layer", "0", "-k", 2, "--channels", "1", "--shard-size", 5)
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    for file in sorted((work / "neurons" / "commits").iterdir())[:1]:
        file.unlink()
    before = (work / "neurons" / "neurons.csv").read_text()
    assert run(*arguments).exit_code == 0
    assert (work / "neurons" / "neurons.csv").read_text() == before
    table = pyarrow.parquet.read_table(work / "neurons" / "neurons.parquet").to_pylist()
    read = list(csv.DictReader(before.splitlines()))
    assert [(row["channel"], row["image"]) for row in table] == [(int(row["channel"]), row["image"]) for row in read]
    told = sentence(run(*arguments[:8], "-k", 3, "--shard-size", 5), 2)
    assert "holds the results of another run: neurons" in told


def test_neurons_that_a_class_uses(work):
    photos(work)
    (work / "names.txt").write_text("rot\ngrün\nblau\n")
    arguments = ("neurons", "photos", *SMALL, "--layer", "0", "-k", 2, "--projection", "none", "--classes", "names.txt")
    done = run(*arguments, "--target", "grün")
    assert done.exit_code == 0, done.output
    assert done.stdout == "neurons/0.png: 3 of 3 channels\n"
    picture = pixels(work / "neurons" / "0.png")
    first = picture[24 : 24 + 96]  # green, the channel that adds most
    assert (first == [0, 255, 0]).all(-1).any()
    assert not (first == [255, 0, 0]).all(-1).any()
    assert "no class named 'gelb'" in sentence(run(*arguments, "--target", "gelb", "--out", "n2"), 2)
    for color in COLORS[1:]:
        for file in (work / "photos" / color).iterdir():
            file.unlink()
    done = run(*arguments, "--target", "grün", "--out", "n3")
    assert "the model sees 'grün' in none of the images" in done.stderr
    assert done.exit_code == 2


def test_few_images_or_none(work):
    """One image has no neighbours; where none can be read, the reasons are told."""
    square(work / "photos" / "red" / "0.png", "red")
    features()
    told = sentence(run("neighbours", "features", "--query", "red/0.png"), 2)
    assert told == "fastcam: 'features' holds no other image than the query"
    assert run("mosaic", "features", "--out", "m.png", "--columns", 3, "--side", 8).exit_code == 0
    (work / "bad").mkdir()
    (work / "bad" / "a.png").write_bytes(b"nothing")
    done = run("features", "bad", *SMALL, "--out", "none")
    assert done.exit_code == 1
    assert "without a vector: a.png (" in done.stdout
    assert "holds no vector of any image" in sentence(run("mosaic", "none"), 2)


def test_what_differs_is_told_by_its_name(work):
    photos(work, 1)
    features()
    told = sentence(features("--pool", "max"), 2)
    assert told == (
        "fastcam: 'features' holds the results of another run: features pool mean (now max); choose another folder"
    )


def test_channels_that_a_layer_does_not_have(work):
    photos(work, 1)
    done = run("neurons", "photos", *SMALL, "--layer", "0", "--channels", "7-9")
    assert done.exit_code == 0
    assert done.stderr.strip() == "fastcam: layer '0' has channels 0 to 2, not 7, 8, 9"


@pytest.mark.parametrize("command", ["features", "map"])
def test_results_below_the_source_are_no_part_of_it(work, command):
    """The same command resumes, whatever was written into the folder that it reads."""
    photos(work, 2)
    for _ in range(2):
        done = run(command, "photos", *SMALL, "--out", "photos/results")
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("6 images in photos/results: 0 without")
        (work / "photos" / "results" / "picture.png").write_bytes((work / "photos" / "red" / "0.png").read_bytes())


def test_an_image_without_a_vector_and_the_wrong_model(work):
    photos(work, 1)
    (work / "photos" / "bad.png").write_bytes(b"nothing")
    features()
    told = sentence(run("neighbours", "features", "--query", "bad.png"), 2)
    assert told.startswith(
        "fastcam: --query 'bad.png' is an image of the dataset without a vector: this is not a picture"
    )
    poisoned = ("--model", "small_model_of_a_test:poisoned")
    done = run("neighbours", "features", "--query", "photos/red/0.png", *poisoned)
    assert "made with another model or other weights" in sentence(done, 2)
    assert run("mosaic", "features", "--out", "new/folder/m.png", "--columns", 3, "--side", 8).exit_code == 0
    assert "'nowhere'" in sentence(run("mosaic", "features", "--source", "nowhere"), 2)
