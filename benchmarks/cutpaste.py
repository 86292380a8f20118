"""CutPaste (arXiv:2104.04015) from textures to maps of their defects: ``python -m benchmarks.cutpaste``.

A ResNet-18 learns to tell sound pieces of a texture from ones with a patch or a scar cut out and pasted elsewhere. A
normal density of its features then says how unusual an image is, and maps of that score show where. Printed are the
image AUROC of the score, and pixel AUROC and PRO of the maps: Grad-CAM, Score-CAM, occlusion, and the density of every
position. The textures come with scikit-image; the defects are planted here, in the folders of MVTec AD, and a category
of that dataset can be given instead.

``--picture`` draws some maps, all on the scale of the sound images.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF

import fastcam
from benchmarks.results_io import RESULTS, write
from fastcam.evaluate import AnomalyFolder, auroc, per_region_overlap
from fastcam.targets import Distance

SIDE, BATCH, HELD_OUT = 96, 24, 40
DEFECTS = ("scratch", "stain", "patch")
LAYER = "layer3"
DENSITY = "density of positions"
MEAN, STD = 0.45, 0.225


def plant(folder: Path, texture: str, generator: np.random.Generator) -> None:
    """Write a category of sound and broken pieces of a texture."""
    import skimage.data

    source = Image.fromarray(getattr(skimage.data, texture)()).convert("RGB")

    def piece() -> Image.Image:
        side = int(generator.uniform(1.6, 2) * SIDE)
        left, top = (int(generator.integers(0, length - side + 1)) for length in source.size)
        part = source.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        light = generator.uniform(0.85, 1.15)
        return part.point(lambda value: min(255, round(value * light)))

    def save(picture: Image.Image, *names: str) -> None:
        path = folder.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)

    for number in range(160):
        save(piece(), "train", "good", f"{number:03d}.png")
    for number in range(20):
        save(piece(), "test", "good", f"{number:03d}.png")
    for kind in DEFECTS:
        for number in range(10):
            picture, mask = broken(piece(), kind, piece(), generator)
            save(picture, "test", kind, f"{number:03d}.png")
            save(mask, "ground_truth", kind, f"{number:03d}_mask.png")


def broken(
    picture: Image.Image, kind: str, other: Image.Image, generator: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """A piece with a defect, and where that is."""
    mask = Image.new("L", picture.size)
    draw = ImageDraw.Draw(mask)
    middle = generator.uniform(0.25 * SIDE, 0.75 * SIDE, 2)
    if kind == "scratch":
        angle, length = generator.uniform(0, np.pi), generator.uniform(20, 40)
        step = np.array([np.cos(angle), np.sin(angle)]) * length / 2
        draw.line([*(middle - step), *(middle + step)], 255, int(generator.integers(2, 5)))
    elif kind == "stain":
        radius = generator.uniform(6, 12, 2)
        draw.ellipse([*(middle - radius), *(middle + radius)], 255)
    else:
        half = generator.uniform(7, 14, 2)
        draw.rectangle([*(middle - half), *(middle + half)], 255)
    if kind == "patch":
        filling = other.rotate(90).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        tint = 235 if kind == "scratch" else 45
        filling = Image.blend(picture, Image.new("RGB", picture.size, (tint, tint, tint)), 0.65)
    return Image.composite(filling, picture, mask), mask


def read(paths: Sequence[Path]) -> Tensor:
    """Pictures as (N, 3, SIDE, SIDE)."""
    pictures = [Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for path in paths]
    return (torch.stack([TF.pil_to_tensor(picture) for picture in pictures]) / 255 - MEAN) / STD


def cut_paste(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images with a patch of 2 to 15 percent of the area, its colours jittered, pasted elsewhere."""
    changed = images.clone()
    for image in changed:
        area, ratio = uniform(0.02, 0.15, generator) * SIDE**2, uniform(0.3, 1, generator)
        ratio = ratio if uniform(0, 1, generator) < 0.5 else 1 / ratio
        height, width = (min(SIDE - 1, max(2, round(side))) for side in ((area * ratio) ** 0.5, (area / ratio) ** 0.5))
        top, left, to_top, to_left = (place(SIDE - length, generator) for length in (height, width) * 2)
        patch = image[:, top : top + height, left : left + width].clone()
        image[:, to_top : to_top + height, to_left : to_left + width] = jittered(patch, generator)
    return changed


def cut_paste_scar(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images with a long thin patch, jittered and turned by up to 45 degrees, pasted elsewhere."""
    changed = images.clone()
    for image in changed:
        height, width = round(uniform(10, 25, generator) * SIDE / 128), max(2, round(uniform(2, 16, generator) / 3))
        top, left = place(SIDE - height, generator), place(SIDE - width, generator)
        patch = jittered(image[:, top : top + height, left : left + width].clone(), generator)
        angle = uniform(-45, 45, generator)
        turned = TF.rotate(patch, angle, expand=True)
        seen = TF.rotate(torch.ones_like(patch[:1]), angle, expand=True) > 0.5
        height, width = turned.shape[1:]
        top, left = place(SIDE - height, generator), place(SIDE - width, generator)
        part = image[:, top : top + height, left : left + width]
        part.copy_(torch.where(seen, turned, part))
    return changed


def jittered(patch: Tensor, generator: torch.Generator) -> Tensor:
    """A patch with another brightness and contrast, each by up to a tenth."""
    brightness, contrast = uniform(-0.1, 0.1, generator) / STD, uniform(0.9, 1.1, generator)
    return (patch - patch.mean()) * contrast + patch.mean() + brightness


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def place(most: int, generator: torch.Generator) -> int:
    return int(torch.randint(max(1, most + 1), (), generator=generator))


def network() -> nn.Module:
    """A ResNet-18 with a head for sound, patched and scarred images."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    model.fc = nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 3))
    return model


def train(model: nn.Module, sound: Tensor, steps: int) -> None:
    """Teach a model to tell sound images from changed ones."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=3e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    kinds = torch.arange(3).repeat_interleave(BATCH)
    model.train()
    for _ in range(steps):
        chosen = sound[torch.randint(len(sound), (BATCH,), generator=generator)]
        if float(torch.rand((), generator=generator)) < 0.5:
            chosen = chosen.flip(3)
        batch = torch.cat([chosen, cut_paste(chosen, generator), cut_paste_scar(chosen, generator)])
        loss = F.cross_entropy(model(batch), kinds)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    model.eval()


def maps_of(model: nn.Module, sound: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor], fastcam.Scale]:
    """Scores (N,), the raw maps (N, SIDE, SIDE) of every method, and the scale of the density's on sound images.

    The scale is that of images that the density has not been fitted to, which it finds more usual than others.
    """
    held_out, seen_before = sound[:HELD_OUT], sound[HELD_OUT:]
    unusual = Distance.fit(model, seen_before.split(BATCH), "avgpool")
    by_position = Distance.fit(model, seen_before.split(BATCH), LAYER, positions=True)
    explainer = fastcam.Explainer(model, ["grad_cam", "score_cam"], LAYER)
    occlusion = fastcam.Explainer(model, "occlusion", window=16, stride=8)
    found: dict[str, list[Tensor]] = {}
    scores = []
    for batch in images.split(BATCH):
        explained = {**explainer(batch, unusual), "occlusion": occlusion(batch, unusual)}
        scores.append(explained["occlusion"].scores)
        for name, each in explained.items():
            found.setdefault(name, []).append(each.raw.detach())
        found.setdefault(DENSITY, []).append(density_map(model, by_position, batch))
    scale = fastcam.Scale.fit(density_map(model, by_position, batch) for batch in held_out.split(BATCH))
    return torch.cat(scores), {name: torch.cat(each) for name, each in found.items()}, scale


def density_map(model: nn.Module, density: Distance, images: Tensor) -> Tensor:
    """Distances (N, SIDE, SIDE) of the features at every position."""
    with torch.no_grad(), fastcam.recording(model, model.get_submodule(LAYER)) as seen:
        model(images)
    distances = density.distances(next(iter(seen.values())))
    return F.interpolate(distances.unsqueeze(1), (SIDE, SIDE), mode="bilinear").squeeze(1)


def run(folder: Path, steps: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the table, and what was found."""
    category = AnomalyFolder.read(folder)
    sound, images = read(category.train), read([each.path for each in category.test])
    masks = torch.stack([each.read_mask().float() for each in category.test])
    masks = F.interpolate(masks.unsqueeze(1), (SIDE, SIDE)).squeeze(1) > 0.5
    model = network()
    train(model, sound, steps)
    scores, maps, scale = maps_of(model, sound, images)
    is_broken = torch.tensor([each.is_anomaly for each in category.test])
    rows: list[dict[str, Any]] = [{"what": "score of the image", "image_auroc": auroc(scores, is_broken)}]
    for name, each in maps.items():
        rows.append({"what": name, "pixel_auroc": auroc(each, masks), "pro": per_region_overlap(each, masks)})
    return rows, {"category": category, "images": images, "masks": masks, "maps": maps, "scale": scale, "model": model}


def draw(found: dict[str, Any]) -> None:
    """Write results/cutpaste.jpg: a row each of photographs, masks, and maps on the scale of the sound images."""
    kinds = [each.kind for each in found["category"].test]
    chosen = [kinds.index(kind) + shift for kind in dict.fromkeys(kinds) for shift in (0, 1)]
    photos = ((found["images"][chosen] * STD + MEAN).clamp(0, 1) * 255).byte().movedim(1, 3).numpy()
    rows = [photos, np.repeat((found["masks"][chosen].numpy() * 255).astype(np.uint8)[..., None], 3, 3)]
    colors = fastcam.render.colors("jet")
    for scale in (found["scale"], None):
        maps = found["maps"][DENSITY][chosen]
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        scaled = (maps - low) / (high - low).clamp(min=1e-12) if scale is None else scale(maps)
        rows.append((0.5 * photos + 0.5 * colors[(scaled * 255).byte().numpy()]).astype(np.uint8))
    sheet = Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows]))
    sheet.save(RESULTS / "cutpaste.jpg", quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--category", type=Path, help="a folder of MVTec AD, instead of planted defects")
    parser.add_argument("--texture", default="brick", help="of scikit-image: brick, grass or gravel")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--picture", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.category is None:
            plant(Path(folder), options.texture, np.random.default_rng(0))
        rows, found = run(options.category or Path(folder), options.steps)
    if options.picture:
        draw(found)
    write("cutpaste", rows)
    table = Table("what", "image AUROC", "pixel AUROC", "PRO up to 0.3")
    for row in rows:
        table.add_row(
            row["what"], *(f"{row[key]:.3f}" if key in row else "" for key in ("image_auroc", "pixel_auroc", "pro"))
        )
    Console().print(table)


if __name__ == "__main__":
    main()
