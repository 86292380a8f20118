"""Every line of the pages is true: their tables are those of the registry and the results, their Python runs."""

import re
from pathlib import Path

import pytest
import torchvision

import fastcam
import fastcam.evaluate
from benchmarks import readme
from benchmarks.tables.common import load
from fastcam.cli import demo
from fastcam.evaluate import registry
from tests.support.networks import slim_resnet50

TEXT = readme.README.read_text()


@pytest.mark.parametrize("page", readme.TABLES)
def test_tables_are_those_of_registry_and_results(page):
    assert readme.renewed(page) == page.read_text(), "run `make readme`"


def of_readme(found):
    assert found["explanation"].maps.shape == (4, 224, 224)
    assert found["by_method"]["layer_cam"].maps.shape == (4, 2, 224, 224)
    assert len(list(Path().glob("maps-*.png"))) == 4


def of_explain(found):
    of_readme(found)
    assert found["explanation"].native.shape == (4, 7, 7)


def of_datasets(found):
    assert [each.shape for each in found["maps"].maps("cats/1.jpg")] == [(224, 224)] * 6


def of_measures(found):
    deletion = found["evaluation"]["grad_cam", "deletion"]
    assert deletion.values.shape == (4,)
    assert deletion.details["curve"].shape == (4, 11)


def of_looking_inside(found):
    assert found["survey"].images == 4
    assert len(found["survey"]["layer4"].top) == found["seen"]["layer4"].shape[1]
    assert found["history"]["layer4"].steps.tolist() == [0, 1]


def of_features(found):
    assert found["near"].indices[:, 0].tolist() == [0, 1]
    assert found["cells"].shape == (3, 4)
    assert found["found"].top["layer4"].values.shape[1] == 3


def of_detectors(found):
    assert found["found"].maps.shape == (4, 3, 224, 224)
    assert found["levels"][f"{found['heads'][0]}.1"].native.shape == (4, 20, 20)


def of_anomalies(found):
    assert found["found"].scores.shape == (4,)
    assert found["found"].maps.max() <= 1


ROOT = readme.README.parent
PAGES = [readme.README, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "fastcam").rglob("README.md"))]
CHECKS = {
    "README.md": of_readme,
    "docs/explain.md": of_explain,
    "docs/datasets.md": of_datasets,
    "docs/detectors.md": of_detectors,
    "docs/anomalies.md": of_anomalies,
    "fastcam/evaluate/README.md": of_measures,
    "fastcam/inspect/README.md": of_looking_inside,
    "fastcam/features/README.md": of_features,
}
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
WITH_PYTHON = [name for name, text in TEXTS.items() if "```python" in text and name != "fastcam/compat/README.md"]


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_runs(name, tmp_path, monkeypatch):
    """As it stands, page by page, on a network that is as a ResNet is, and a tenth of its size."""
    monkeypatch.chdir(tmp_path)
    for network in ("resnet18", "resnet50"):
        monkeypatch.setattr(torchvision.models, network, slim_resnet50)
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    demo.photographs()["cat"].save(tmp_path / "photos" / "cats" / "1.jpg")
    found: dict = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", TEXTS[name], flags=re.DOTALL):
            exec(compile(block, name, "exec"), found)
    finally:
        registry._measures.pop("evidence", None)
    CHECKS.get(name, lambda found: None)(found)


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 150


def rows_of(name, **wanted):
    rows = load(name)["rows"]
    return next(row for row in rows if all(row.get(key) == value for key, value in wanted.items()))


def test_numbers_of_the_readme_are_those_of_the_results():
    """Each is rounded as it is written."""
    of = {
        row["contestant"]: row for row in load("end_to_end")["rows"] if (row["model"], row["batch"]) == ("resnet50", 8)
    }
    assert f"takes {of['fastcam grad_cam']['times_forward']:.2f} forward passes" in TEXT
    detecting = rows_of("detectors", what="fastcam, ten detections")["times_floor"]
    assert f"take {detecting:.1f} of a forward and a backward pass" in TEXT
    seconds = {row["what"]: row.get("seconds") for row in load("view")["rows"]}
    first, filtered = (
        seconds[f"from {what}"] for what in ("the address to the first screen", "a filter to its rows, median")
    )
    assert f"screen in {first:.1f} seconds, a filter in {filtered:.1f}." in TEXT.replace("\n  ", " ")
    methods, measures = len(fastcam.list_methods()), len(fastcam.evaluate.list_measures())
    assert f"with {methods} methods" in TEXT
    assert f"**{measures} measures" in TEXT
    tables = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("speed", "occlusion")}
    for number, pattern in (
        ("{}; \n", r"Grad-CAM of all 1000 classes (\d+\.\d+)"),
        ("{} times Captum's", r"vgg16, 32/16 \| [\d.]+ \| [^|]+ \| ([\d.]+) "),
        ("{} times the speed of the loop", r"`ablation_cam`, linear head \| resnet18, batch 1 \| [^|]+\|[^|]+\| (\d+)"),
        ("{} of the bare model", r"\| fastcam map \| [\d.]+ \| ([\d.]+) "),
        ("{} times the speed in bfloat16", r"resnet50, batch 8 \|.*/ ([\d.]+) \|"),
    ):
        (value,) = re.search(pattern, tables["speed"]).groups()
        shorter = {value, f"{float(value):.1f}"}
        assert any(number.split("\n")[0].strip("; ").format(each) in TEXT for each in shorter), (number, value)


LINKS = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)h#][^)#]*)\)", page.read_text())]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda each: str(each))
def test_links_lead_somewhere(page, link):
    assert (Path(page).parent / link).exists()


def test_make_targets_named_in_the_documents_exist():
    makefile = (ROOT / "Makefile").read_text()
    for text in (*TEXTS.values(), (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", text, flags=re.MULTILINE):
            assert re.search(rf"^{''.join(target)}:", makefile, flags=re.MULTILINE)
