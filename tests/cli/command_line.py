"""What the tests of the command line share: a small model, photographs with a square, and a runner."""

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from fastcam.cli import app

SMALL = ("--model", "small_model_of_a_test:build")

# Class 0 is "red", 1 "green", 2 "blue"; the map of a class is high where the photograph has its colour.
SMALL_MODEL = """
import torch
from torch import nn
from fastcam.classifiers import Preprocessing
def build(num_classes=3):
    conv = nn.Conv2d(3, 3, 1, bias=False)
    conv.weight.data = torch.eye(3)[:, :, None, None]
    linear = nn.Linear(3, num_classes)
    linear.weight.data = 4 * torch.eye(num_classes, 3) - 1
    linear.bias.data.zero_()
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    model.preprocessing = Preprocessing(32, (32, 32), (0.0,) * 3, (1.0,) * 3, "nearest")
    return model
def poisoned():
    model = build()
    model[0].weight.data.fill_(float("nan"))
    return model
"""


def run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def square(file, color, size=(32, 32), box=(0, 0, 16, 16)):
    """A black photograph with a coloured square."""
    picture = Image.new("RGB", size, "black")
    picture.paste(color, box)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
    return file


def pixels(file):
    return np.asarray(Image.open(file)).astype(int)


def sentence(done, code):
    """The one line on stderr of a run that ended with the code."""
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]
