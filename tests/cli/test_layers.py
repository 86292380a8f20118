"""``fastcam layers``: every layer, its output, and whether it can be explained."""

import pytest
import torch
from torch import nn

from tests.cli.command_line import SMALL, run, sentence, square


def rows(done):
    """The cells of the table by layer."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "│"]
    return {row[0]: row[1:] for row in cells}


def test_every_layer_with_its_output_and_the_default(work):
    done = run("layers", SMALL[1])
    assert done.exit_code == 0, done.output
    assert rows(done) == {
        "0": ["Conv2d", "1 x 3 x 32 x 32", "map 32 x 32, the default"],
        "1": ["AdaptiveAvgPool2d", "1 x 3 x 1 x 1", ""],
        "2": ["Flatten", "1 x 3", ""],
        "3": ["Linear", "1 x 3", ""],
    }
    assert rows(run("layers", SMALL[1], "--size", 40, "--num-classes", 5))["0"][1] == "1 x 3 x 40 x 40"


def test_maps_and_tokens_of_known_models(work):
    pytest.importorskip("timm")
    found = rows(run("layers", "torchvision:resnet18"))
    assert found["layer4"] == ["Sequential", "1 x 512 x 7 x 7", "map 7 x 7, the default"]
    assert found["layer3.0.bn1"] == ["BatchNorm2d", "1 x 256 x 14 x 14", "map 14 x 14"]
    assert sum("the default" in row[2] for row in found.values()) == 1
    found = rows(run("layers", "timm:vit_tiny_patch16_224"))
    assert found["blocks.11.norm1"] == ["LayerNorm", "1 x 197 x 192", "tokens 14 x 14, the default"]
    assert found["patch_embed.proj"] == ["Conv2d", "1 x 192 x 14 x 14", "map 14 x 14"]
    assert found["blocks.11.attn.attn_drop"] == ["Dropout", "not run, or no tensor", ""]
    assert found["fc_norm"] == ["Identity", "1 x 192", ""]


def test_the_values_of_a_script(work):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten(2)).eval()
    torch.jit.script(model).save("script.pt")
    done = run("layers", "script.pt", "--trust-model", "--size", 33)
    assert rows(done)["0"][:2] == ["Conv2d", "1 x 4 x 16 x 16"]
    assert rows(done)["0"][2].startswith("map 16 x 16")
    assert "pass --trust-model" in sentence(run("layers", "script.pt"), 2)


def test_a_model_without_a_map_says_so(work):
    (work / "flat_model_of_a_test.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 2))\n"
    )
    done = run("layers", "flat_model_of_a_test:build")
    assert "fastcam: there is no default: no layer of Sequential with a map of the image" in sentence(done, 0)
    assert [row[2] for row in rows(done).values()] == ["", ""]


def test_an_unknown_layer_points_here(work):
    square(work / "photo.png", "red")
    told = sentence(run("explain", "photo.png", *SMALL, "--layer", "layer9"), 2)
    assert told == "fastcam: the model has no layer named 'layer9'; `fastcam layers MODEL` lists them"
    assert "'nothing:here' cannot be imported" in sentence(run("layers", "nothing:here"), 2)
