"""The pictures of the pages on looking inside and on features: ``python -m benchmarks.inside``.

Parts of photographs that scikit-image ships (those of the demo, textures, and the Hubble deep field) go through the
commands, with EfficientNet-Lite0 and its ImageNet weights. The strip is of a small network that learns to tell them
apart.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import fastcam
from benchmarks.results_io import RESULTS
from fastcam.classifiers.preprocessing import read_photograph
from fastcam.cli import demo

MODEL = ("--model", "fastcam.cli.demo:efficientnet_lite0")
TEXTURES = ("brick.png", "grass.png", "gravel.png", "hubble_deep_field.jpg")
PARTS = 48  # of each photograph
SIDE = 256
QUALITY = 85
STAGES = ("_conv_stem", "_blocks.2", "_blocks.4", "_blocks.10", "_conv_head")
SHOWN = 24 + 8 * 102  # of the sheet of neurons, in pixels: the first four channels


def parts(folder: Path) -> None:
    """Write squares of the photographs, FOLDER/NAME/000.jpg."""
    import skimage.data

    source, generator = Path(skimage.data.__file__).parent, np.random.default_rng(0)
    pictures = dict(demo.photographs())
    pictures |= {name.split(".")[0]: read_photograph(source / name) for name in TEXTURES if (source / name).exists()}
    for name, picture in pictures.items():
        (folder / name).mkdir(parents=True)
        for number in range(PARTS):
            side = round(min(picture.size) * generator.uniform(0.45, 0.95))
            left, top = (int(generator.integers(0, length - side + 1)) for length in picture.size)
            part = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            if generator.random() < 0.5:
                part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            part.save(folder / name / f"{number:03d}.jpg", quality=90)


def command(folder: Path, *arguments: str) -> None:
    """Run a command as a user does."""
    subprocess.run([sys.executable, "-c", "from fastcam.cli import main; main()", *arguments], cwd=folder, check=True)


def keep(picture: Image.Image, name: str, width: int = 900) -> None:
    """Write a picture of the pages, not wider than that."""
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    picture.convert("RGB").save(RESULTS / name, quality=QUALITY)


def training(folder: Path) -> Image.Image:
    """Return the strips of a small network that trains, whose learning rate is made too large at step 160."""
    torch.manual_seed(0)
    files = sorted(folder.rglob("*.jpg"))
    names = sorted({file.parent.name for file in files})
    images = torch.stack(
        [
            torch.from_numpy(np.array(read_photograph(file).resize((32, 32)))).permute(2, 0, 1) / 127.5 - 1
            for file in files
        ]
    )
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(names))),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    with fastcam.inspect.ActivationHistory(model, ["1", "3", "5"], limits=(0.0, 4.0)) as history:
        for step in range(240):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 if step < 160 else 2.0
            chosen = torch.randint(len(images), (32,))
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return history.figure()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        parts(folder / "photos")
        command(folder, "neurons", "photos", *MODEL, "--layer", "_conv_head", "-k", "8", "--target", "Egyptian cat")
        command(folder, "filters", *MODEL, "--out", "filters.png")
        command(folder, "features", "photos", *MODEL, "--out", "features")
        queries = [f"{name}/000.jpg" for name in sorted(path.name for path in (folder / "photos").iterdir())][:4]
        asked = [each for query in queries for each in ("--query", query)]
        command(folder, "neighbours", "features", *asked, "-k", "6", "--out", "neighbours.png")
        command(folder, "mosaic", "features", "--columns", "22", "--rows", "16", "--color", "label", "--out", "m.png")
        stages = [part for name in STAGES for part in ("--layer", name)]
        command(folder, "activations", "photos/cat/000.jpg", *MODEL, *stages, "--out", "stages")
        keep(Image.open(folder / "stages" / "000.stages.png"), "inside_stages.jpg", 1100)
        sheet = Image.open(folder / "neurons" / "_conv_head.png")
        keep(sheet.crop((0, 0, sheet.width, SHOWN)), "inside_neurons.jpg")
        keep(Image.open(folder / "filters.png"), "inside_filters.jpg", 400)
        keep(Image.open(folder / "neighbours.png"), "inside_neighbours.jpg")
        keep(Image.open(folder / "m.png"), "inside_mosaic.jpg", 1100)
        keep(training(folder / "photos"), "inside_history.jpg", 700)


if __name__ == "__main__":
    main()
