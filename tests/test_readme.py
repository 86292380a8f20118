"""Every line of the README is true: its tables are those of the registry and the results, its Python runs."""

import re
from pathlib import Path

import pytest
import torchvision

from benchmarks import readme
from fastcam.cli import demo
from fastcam.evaluate import registry
from tests.support.networks import slim_resnet50

TEXT = readme.README.read_text()


@pytest.mark.parametrize("page", readme.TABLES)
def test_tables_are_those_of_registry_and_results(page):
    assert readme.renewed(page) == page.read_text(), "run `make readme`"


def test_python_runs(tmp_path, monkeypatch):
    """As it stands, on a network that is as ResNet-50 is, and a tenth of its size."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.models, "resnet50", slim_resnet50)
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    demo.photographs()["cat"].save(tmp_path / "photos" / "cats" / "1.jpg")
    namespace: dict = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["explanation"].maps.shape == (4, 224, 224)
    assert namespace["explanation"].native.shape == (4, 7, 7)
    assert namespace["by_method"]["layer_cam"].maps.shape == (4, 2, 224, 224)
    assert len(list(tmp_path.glob("maps-*.png"))) == 4
    assert [each.shape for each in namespace["maps"].maps("cats/1.jpg")] == [(224, 224)] * 6


def test_python_of_the_measures_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.models, "resnet18", slim_resnet50)
    page = (readme.README.parent / "fastcam" / "evaluate" / "README.md").read_text()
    namespace: dict = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
            exec(compile(block, "README.md", "exec"), namespace)
    finally:
        registry._measures.pop("evidence", None)
    deletion = namespace["evaluation"]["grad_cam", "deletion"]
    assert deletion.values.shape == (4,)
    assert deletion.details["curve"].shape == (4, 11)


def test_python_of_looking_inside_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.models, "resnet18", slim_resnet50)
    page = (readme.README.parent / "fastcam" / "inspect" / "README.md").read_text()
    namespace: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["survey"].images == 4
    assert len(namespace["survey"]["layer4"].top) == namespace["seen"]["layer4"].shape[1]
    assert namespace["history"]["layer4"].steps.tolist() == [0, 1]


def test_python_of_the_features_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.models, "resnet18", slim_resnet50)
    page = (readme.README.parent / "fastcam" / "features" / "README.md").read_text()
    namespace: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["near"].indices[:, 0].tolist() == [0, 1]
    assert namespace["cells"].shape == (3, 4)
    assert namespace["found"].top["layer4"].values.shape[1] == 3


PAGES = [readme.README, *sorted((readme.README.parent / "fastcam").rglob("README.md"))]
LINKS = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)h#][^)#]*)\)", page.read_text())]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda each: str(each))
def test_links_lead_somewhere(page, link):
    assert (Path(page).parent / link).exists()


def test_make_targets_named_in_the_documents_exist():
    root = readme.README.parent
    makefile = (root / "Makefile").read_text()
    for text in (TEXT, (root / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", text, flags=re.MULTILINE):
            assert re.search(rf"^{''.join(target)}:", makefile, flags=re.MULTILINE)
