"""Explanations as a page in one file: the values on it are the maps', and a browser draws what the overlays show."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

import fastcam
from fastcam.pictures.page import Page
from tests.cli.command_line import run, square
from tests.support.conv_net import conv_net, images_for

pytestmark = pytest.mark.usefixtures("one_thread")
needs_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium and chromium-driver"
)


def part(text: str, name: str) -> str:
    return re.search(rf'id="{name}">(.*?)</script>', text, re.DOTALL)[1]


def read(text: str) -> tuple[list[dict], np.ndarray]:
    return json.loads(part(text, "entries")), np.frombuffer(base64.b64decode(part(text, "values")), "<u2")


def values_of(map_: dict, values: np.ndarray) -> np.ndarray:
    size = int(np.prod(map_["shape"]))
    steps = values[map_["start"] : map_["start"] + size].reshape(map_["shape"])
    return map_["low"] + steps / 65535 * (map_["high"] - map_["low"])


def test_the_maps_of_several_classes(tmp_path):
    explanation = fastcam.explain(conv_net(), images_for(), target=[[0, 1]] * 2).with_class_names(["cat", "<dog>"])
    assert explanation.save(tmp_path / "a" / "maps.html") == [tmp_path / "a" / "maps.html"]
    entries, values = read((tmp_path / "a" / "maps.html").read_text())
    assert [entry["title"] for entry in entries] == ["image 0", "image 1"]
    for row, entry in enumerate(entries):
        assert (entry["width"], entry["height"]) == tuple(reversed(explanation.size))
        picture = Image.open(io.BytesIO(base64.b64decode(entry["photograph"].partition(",")[2])))
        assert picture.size == (entry["width"], entry["height"])
        assert "cat" in entry["maps"][0]["name"]
        assert "<dog>" in entry["maps"][1]["name"]
        for column, map_ in enumerate(entry["maps"]):
            native = explanation.native[row, column].detach().numpy()
            np.testing.assert_allclose(values_of(map_, values), native, atol=2e-5 * (np.ptp(native) + 1e-9))


def test_titles_cannot_leave_their_place():
    page = Page("</title><script>alert(1)</script>")
    page.add("</script><script>alert(2)</script>", np.zeros((4, 4, 3), np.uint8), [("</script>", np.eye(3))])
    text = page.html()
    assert "<script>alert" not in text
    assert read(text)[0][0]["title"] == "</script><script>alert(2)</script>"


def test_other_maps(tmp_path):
    """Fused layers as at the image, one scale where there is one, and NaN as the lowest value."""
    model, images = conv_net(), images_for()
    fused = fastcam.explain(model, images, "layer_cam", 1, ["features", "relu"])
    fused.save(tmp_path / "fused.html")
    entries, values = read((tmp_path / "fused.html").read_text())
    raw = fused.raw[0].detach().numpy()
    np.testing.assert_allclose(values_of(entries[0]["maps"][0], values), raw, atol=2e-5 * np.ptp(raw))
    scale = fastcam.Scale(0.0, 2.0)
    fastcam.explain(model, images, target=1).with_scale(scale).save(tmp_path / "scaled.html")
    assert json.loads(part((tmp_path / "scaled.html").read_text(), "limits")) == {"low": 0.0, "high": 4.0}
    page = Page("t")
    page.add("a", np.zeros((4, 4, 1), np.uint8)[..., [0, 0, 0]], [("n", np.array([[np.nan, 1.0], [2.0, np.inf]]))])
    entries, values = read(page.html())
    assert values_of(entries[0]["maps"][0], values).tolist() == [[1, 1], [2, 1]]


def test_what_is_no_page(tmp_path):
    explanation = fastcam.explain(conv_net(), images_for(), target=1)
    with pytest.raises(ValueError, match="one for each image"):
        explanation.save(tmp_path / "maps.html", torch.rand(3, 3, 8, 8))
    assert not (tmp_path / "maps.html").exists()
    Page("nothing").write(tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


MODEL = """
import torch
from torch import nn
def build():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(4, 3)).eval()
"""


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small_of_a_page.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("one", "two"):
        square(tmp_path / "photos" / f"{name}.png", "red", size=(60, 40), box=(10, 5, 30, 25))
    arguments = ["--model", "small_of_a_page:build", "--method", "grad_cam", "--method", "saliency", "--size", "32"]
    done = run("explain", "photos", *arguments, "--html", "page.html")
    assert done.exit_code == 0, done.output
    entries, _ = read((tmp_path / "page.html").read_text())
    assert [entry["title"] for entry in entries] == ["one", "two"]
    assert [map_["name"].split(",")[0] for map_ in entries[0]["maps"]] == ["grad_cam", "saliency"]
    done = run("explain", "photos", *arguments, "--html", "page.txt")
    assert done.exit_code == 2
    assert "--html is a page" in done.stderr


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for each in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(each)
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@needs_browser
def test_a_browser_draws_the_overlay(tmp_path, browser):
    model, images = conv_net(), images_for()
    explanation = fastcam.explain(model, images, "layer_cam", 1, relu=False)
    height, width = explanation.size
    photographs = np.broadcast_to(np.linspace(0, 200, width)[:, None], (2, height, width, 3)).astype(np.uint8)
    explanation.save(tmp_path / "maps.html", photographs)
    expected = explanation.overlay(photographs)
    browser.get((tmp_path / "maps.html").as_uri())
    WebDriverWait(browser, 20).until(lambda d: d.execute_script("return document.body.dataset.ready") == "yes")
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('canvas')].map((each) => each.toDataURL('image/png').split(',')[1])"
    )
    assert browser.get_log("browser") == []
    assert len(drawn) == 4  # each photograph, and its map over it
    for row in range(2):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn[2 * row + 1]))).convert("RGB")).astype(int)
        assert picture.shape == expected[row].shape
        assert np.abs(picture - expected[row].astype(int)).mean() < 4  # the photograph is a JPEG there


CELL = """
import fastcam
from tests.support.conv_net import conv_net, images_for
fastcam.explain(conv_net(), images_for(), target=[[0, 1]] * 2).show(height=300)
"""


@needs_browser
def test_a_notebook_shows_it(tmp_path, browser):
    """Run by a kernel as notebooks are; the page in its frame draws."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": Path(__file__).parents[1]}}).execute()
    (output,) = [each for each in notebook.cells[0].outputs if each.output_type == "display_data"]
    (tmp_path / "cell.html").write_text(output.data["text/html"])
    browser.get(f"file://{tmp_path}/cell.html")
    frame = browser.find_element(By.TAG_NAME, "iframe")
    assert frame.size["height"] == 300
    browser.switch_to.frame(frame)
    WebDriverWait(browser, 20).until(lambda d: d.execute_script("return document.body.dataset.ready") == "yes")
    assert len(browser.find_elements(By.TAG_NAME, "canvas")) == 6  # two photographs, each with two maps


def test_elsewhere_it_says_what_to_do():
    with pytest.raises(ValueError, match=r'save\("maps.html"\)'):
        fastcam.explain(conv_net(), images_for()).show()
