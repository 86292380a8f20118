"""``fastcam map``, ``verify`` and ``stats``: what they write, print and refuse."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import fastcam.dataset
from tests.cli.command_line import SMALL, run, sentence, square

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def photos(work):
    """Six photographs in folders by colour; the left upper quarter has it."""
    for index, (name, colour) in enumerate(COLOURS.items()):
        for number in range(2):
            square(work / "photos" / name / f"{index}{number}.png", colour)
    return work


def test_map_writes_and_goes_on(photos):
    arguments = ("map", "photos", *SMALL, "--out", "maps", "--shard-size", 2, "--target", "top2", "--method", "cam")
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("6 images in maps: 0 without a map; ")
    assert done.stderr == ""
    maps = fastcam.dataset.open("maps")
    assert [row["target"] for row in maps.rows("green/10.png")][:1] == [1]
    found = maps.maps("blue/21.png")[0]
    assert found.shape == (32, 32)
    assert found[:12, :12].min() > 0.9
    assert found[20:, 20:].max() < 0.1
    again = run(*arguments)
    assert again.exit_code == 0
    assert "6 by earlier runs" in again.stdout


def test_bad_images_are_told_and_the_code_is_one(photos):
    (photos / "photos" / "red" / "bad.png").write_bytes(b"bad")
    done = run("map", "photos", *SMALL, "--out", "maps")
    assert done.exit_code == 1
    assert "7 images in maps: 1 without a map" in done.stdout


def test_every_shard_is_a_json_line(photos):
    done = run("map", "photos", *SMALL, "--out", "maps", "--shard-size", 4, "--json-log")
    assert done.exit_code == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["event"], line["start"], line["stop"], line["of"]) for line in lines] == [
        ("commit", 0, 4, 6),
        ("commit", 4, 6, 6),
    ]
    assert lines[-1]["sha256"] == fastcam.dataset.open("maps").commits[-1].sha256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "--out", "maps"), "there is nothing at 'nowhere'"),
        (("photos", "--out", "maps", "--method", "grad_cma"), "--method must be one of cam, gmp_cam"),
        (("photos", "--out", "maps", "--layer", "9"), "9"),
        (("photos", "--out", "maps", "--target", "violet"), "no class named 'violet'"),
        (("photos", "--out", "maps", "--option", "steps"), "--option must be name=value, got 'steps'"),
        (("photos", "--out", "photos/red/00.png"), "photos/red/00.png"),
    ],
)
def test_mistakes_in_one_sentence(photos, arguments, words):
    assert words in sentence(run("map", *arguments, *SMALL), 2)


def test_another_run_is_refused(photos):
    assert run("map", "photos", *SMALL, "--out", "maps").exit_code == 0
    told = sentence(run("map", "photos", *SMALL, "--out", "maps", "--method", "layer_cam"), 2)
    assert told == (
        "fastcam: 'maps' holds the results of another run: method ['grad_cam'] (now ['layer_cam']); "
        "choose another folder"
    )


def test_verify(photos):
    assert run("map", "photos", *SMALL, "--out", "maps", "--shard-size", 2).exit_code == 0
    done = run("verify", "maps")
    assert (done.exit_code, done.stdout) == (0, "3 of 3 shards are as they were committed\n")
    shard = sorted((photos / "maps" / "shards").iterdir())[1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    done = run("verify", "maps", "--repair")
    assert (done.exit_code, done.stdout) == (1, "2 of 3 shards are as they were committed\n")
    assert "is damaged: its SHA-256 is not the one that was committed" in done.stderr
    assert "4 by earlier runs" in run("map", "photos", *SMALL, "--out", "maps", "--shard-size", 2).stdout
    assert run("verify", "maps").exit_code == 0
    assert "holds no maps" in sentence(run("verify", "photos"), 2)


def test_stats(photos):
    (photos / "photos" / "red" / "bad.png").write_bytes(b"bad")
    run("map", "photos", *SMALL, "--out", "maps", "--method", "cam")
    done = run("stats", "maps", "--mean-maps", "means")
    assert done.exit_code == 0, done.output
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    found = dict(cells)
    assert (found["images"], found["without a map"], found["rows"]) == ("7 of 7", "1", "7")
    assert found["status: ok"] == "6"
    assert [found[f"predicted class {each}"] for each in range(3)] == ["2", "2", "2"]
    assert sorted(each.name for each in (photos / "means").iterdir()) == [f"cam.{each}.png" for each in range(3)]
    mean = np.asarray(Image.open(photos / "means" / "cam.1.png")).astype(int)
    assert mean[4, 4, 0] > 100 > mean[4, 4, 2]  # red where the square is
    assert mean[28, 28, 2] > 100 > mean[28, 28, 0]
    assert "holds no maps" in sentence(run("stats", "photos"), 2)


def test_sigterm_ends_it_cleanly_and_the_same_command_goes_on(photos):
    for number in range(300):
        square(photos / "photos" / "red" / f"more{number}.png", COLOURS["red"])
    command = [sys.executable, "-W", "ignore", "-c", "from fastcam.cli import main; main()"]
    command += ["map", "photos", *SMALL, "--out", "maps", "--shard-size", "2", "--json-log"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert json.loads(process.stdout.readline())["event"] == "commit"
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "the run was interrupted: committed shards are kept, and the same call resumes it" in told
    assert "Traceback" not in told
    assert not list((photos / "maps").rglob("*.tmp"))
    committed = len(fastcam.dataset.open("maps"))
    assert 0 < committed < 306
    done = run("map", "photos", *SMALL, "--out", "maps", "--shard-size", 2)
    assert f"{committed} by earlier runs" in done.stdout
    assert list(fastcam.dataset.open("maps")) == sorted(fastcam.dataset.open("maps"))


def test_without_the_extra(photos):
    code = "import sys; sys.modules['pyarrow'] = None; from fastcam.cli import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", code, "map", "photos", *SMALL, "--out", "maps"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == 'fastcam: fastcam.dataset needs pyarrow: pip install "fastcam[dataset]"'


@pytest.mark.parametrize(
    ("to", "files"), [("overlays", "**/*.cam.png"), ("zarr", "zarr.json"), ("webdataset", "*.tar")]
)
def test_export(photos, to, files):
    run("map", "photos", *SMALL, "--out", "maps", "--method", "cam")
    done = run("export", "maps", "--to", to, "--out", "exported", "--source", "photos")
    assert (done.exit_code, done.stdout) == (0, "6 maps in exported\n"), done.stderr
    assert len(list((photos / "exported").glob(files))) == (6 if to == "overlays" else 1)
    if to == "overlays":
        assert "--source" in sentence(run("export", "maps", "--to", to, "--out", "exported"), 2)
        assert "not the one" in sentence(run("export", "maps", "--to", to, "--out", "x", "--source", "photos/red"), 2)


def test_names_accuracy_and_bad_images_in_stats(photos):
    (photos / "names.txt").write_text("Red\nGreen\nBlue\n")
    (photos / "photos" / "red" / "bad.png").write_bytes(b"bad")
    square(photos / "photos" / "red" / "black.png", (0, 0, 0))
    square(photos / "photos" / "red" / "turned.png", COLOURS["green"])
    done = run("map", "photos", *SMALL, "--out", "maps", "--classes", "names.txt", "--method", "cam")
    assert done.exit_code == 1
    reason = "this is not a picture in one of JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM"
    assert done.stdout.splitlines()[1] == f"without a map: red/bad.png ({reason}). `fastcam stats maps` lists all"
    assert done.stdout.splitlines()[2:] == ["maps that show nothing: 1 (no gradient)"]
    assert fastcam.dataset.open("maps").class_names == ["Red", "Green", "Blue"]
    told = run("stats", "maps").stdout
    cells = dict([cell.strip() for cell in line.split("│")[1:-1]] for line in told.splitlines() if "│" in line)
    assert [cells[f"predicted class {each}"] for each in ("0: Red", "1: Green", "2: Blue")] == ["3", "3", "2"]
    accuracies = [cells[f"predicted as labelled: {each}"] for each in COLOURS]
    assert accuracies == ["3 of 4, 75.0%", "2 of 2, 100.0%", "2 of 2, 100.0%"]
    listed = told[told.index("images without a map") :].splitlines()[1:]
    assert listed == [
        f"  red/bad.png: {reason}",
        "  red/black.png, cam, 0, class 0: Red: constant map (no gradient)",
    ]
    (photos / "others.txt").write_text("a\nb\nc\n")
    told = run("stats", "maps", "--classes", "others.txt").stdout
    assert "predicted class 1: b" in told
    assert "as labelled" not in told
    (photos / "few.txt").write_text("a\nb\n")
    assert "it has 2 names, and class 2 is predicted" in sentence(run("stats", "maps", "--classes", "few.txt"), 2)


def test_the_first_bad_images_are_told_and_the_others_counted(photos):
    for number in range(5):
        (photos / "photos" / "red" / f"bad{number}.png").write_bytes(b"")
    line = run("map", "photos", *SMALL, "--out", "maps").stdout.splitlines()[1]
    assert line.startswith("without a map: red/bad0.png (")
    assert "red/bad2.png" in line
    assert "red/bad3.png" not in line
    assert line.endswith("; and 2 more. `fastcam stats maps` lists all")


def test_lines_of_progress_where_there_is_no_terminal(photos, monkeypatch):
    monkeypatch.setattr("fastcam.cli.dataset.SECONDS_BETWEEN_LINES", 0.0)
    done = run("map", "photos", *SMALL, "--out", "maps", "--batch-size", 4)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("fastcam: 4 of 6 images, ")
    assert lines[-1].startswith("fastcam: 6 of 6 images, ")
    assert lines[-1].endswith(" a second, 0 without a map")


def test_a_plan_says_what_limits(photos):
    done = run("map", "photos", *SMALL, "--plan", "--batch-size", 2)
    assert done.exit_code == 0, done.output
    *rates, threads, limit = done.stdout.splitlines()
    assert [line.split()[0] for line in rates] == ["read", "decode", "preprocess", "explain", "write"]
    assert all(line.endswith(" images a second") for line in rates)
    assert threads.startswith("read, decode and preprocess on ")
    assert limit.startswith("limited by ")
    assert "; what helps: " in limit
    assert not list(photos.rglob("*.parquet"))
    few = run("map", "photos", *SMALL, "--plan")
    assert few.stdout == "there were too few images to measure: a plan needs more than one batch\n"


def test_a_plan_and_a_folder_exclude_each_other(photos):
    missing = sentence(run("map", "photos", *SMALL), 2)
    assert missing == "fastcam: --out is missing: a folder for the maps"
    both = sentence(run("map", "photos", *SMALL, "--out", "maps", "--plan"), 2)
    assert both == "fastcam: --plan writes no maps: leave out --out"


def test_the_last_line_says_what_limited(photos):
    done = run("map", "photos", *SMALL, "--out", "maps", "--batch-size", 2)
    assert any(f", limited by {stage}\n" in done.stdout for stage in ("loading", "explaining", "writing"))


def test_maps_of_a_part(photos):
    (photos / "ids.txt").write_text("green/10.png\nred/01.png\n")
    for options, expected in [
        (("--where", "label == 'blue'"), ["blue/20.png", "blue/21.png"]),
        (("--ids", "ids.txt"), ["green/10.png", "red/01.png"]),
        (("--limit", 3), ["blue/20.png", "blue/21.png", "green/10.png"]),
    ]:
        out = f"maps {options[0]}"
        done = run("map", "photos", *SMALL, "--out", out, *options)
        assert done.exit_code == 0, done.output
        assert list(fastcam.dataset.open(out)) == expected
    sampled = run("map", "photos", *SMALL, "--out", "sample", "--sample", 2, "--seed", 3)
    assert sampled.stdout.startswith("2 images in sample: 0 without a map")
    wrong = sentence(run("map", "photos", *SMALL, "--out", "x", "--where", "colour == 'blue'"), 2)
    assert wrong.startswith("fastcam: `where` must compare id, path, label with texts, as in ")
    unreadable = sentence(run("map", "photos", *SMALL, "--out", "x", "--ids", "photos/red/00.png"), 2)
    assert unreadable == "fastcam: the file of ids 'photos/red/00.png' cannot be read as text"
    none = sentence(run("map", "photos", *SMALL, "--out", "x", "--where", "label == 'pink'"), 2)
    assert none == "fastcam: none of the 6 images is selected"
    assert not (photos / "x").exists()
