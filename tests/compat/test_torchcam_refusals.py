"""What torch-cam refuses is refused here with the same type of exception."""

import numpy as np
import pytest
import torch
import torchcam
from PIL import Image
from torch import nn

from fastcam.compat import torchcam as package
from tests.compat.captum_calls import refusal
from tests.compat.torchcam_calls import CAMS, GRADIENTS, Net, images, made, net, transformer

pytestmark = pytest.mark.usefixtures("one_thread")


def extracted(name, *arguments, model=net, options=None, before=None, **keywords):
    """A call after the images' pass; ``before`` makes the scores from the model's."""

    def call(module):
        with made(module, name, model(), **(options or {})) as extractor:
            scores = model()(images())
            extractor(*arguments, scores if before is None else before(scores), **keywords)

    return call


def built(name, *arguments, model=net, **options):
    return lambda module: getattr(module.methods, name)(model(), *arguments, **options)


def finer(comparison=None, class_idx=1, **options):
    return extracted("FinerCAM", class_idx, comparison_idx=comparison, options=options)


def explained(image=None, model=net, **options):
    given = {"target_layer": "features", **options}
    return lambda module: module.explain.explain(model(), images()[:1] if image is None else image, **given)


def overlaid(image="RGB", mask=None, **options):
    picture = Image.new(image, (4, 4)) if isinstance(image, str) else image
    return lambda module: module.utils.overlay_mask(picture, mask or Image.new("F", (4, 4)), **options)


def measured(kind, *arguments, logits=None, **options):
    def call(module):
        with made(module, "GradCAM", net()) as extractor:
            getattr(module.metrics, kind)(extractor, logits, **options).update(images(), *arguments)

    return call


def legrad(layer="encoder.layers.encoder_layer_0", **options):
    def call(module):
        with module.methods.LeGrad(transformer(), layer, **options) as extractor:
            transformer()(torch.ones(1, 3, 32, 32, dtype=torch.float64))
            extractor(1)

    return call


class Returning(nn.Module):
    """A model whose scores are changed before they are returned."""

    def __init__(self, change) -> None:
        super().__init__()
        self.features, self.change = net().features, change

    def forward(self, given):
        return self.change(self.features(given).mean((2, 3)))


def returning(change):
    return explained(model=lambda: Returning(change).eval())


FUSED = {"nothing": [], "a tensor": torch.ones(1, 2, 2), "numbers": [1, 2]}
REFUSED = {
    **{f"{name} of no class": extracted(name, None) for name in CAMS},
    **{f"{name} of a class below 0": extracted(name, -1) for name in CAMS},
    **{f"{name} of too few classes": extracted(name, [1]) for name in CAMS},
    **{f"{name} of no scores": extracted(name, 1, before=lambda scores: None) for name in GRADIENTS[:2]},
    **{
        f"{name} of a list of scores": extracted(name, 1, before=list)
        for name in GRADIENTS
        if name != "SmoothGradCAMpp"
    },
    **{f"{name} at no such layer": built(name, "nowhere") for name in CAMS},
    **{f"{name} at a number": built(name, 3) for name in CAMS},
    **{f"{name} at another model's layer": built(name, nn.Linear(1, 1)) for name in CAMS},
    **{
        f"fused {key}": (lambda module, maps=maps: module.methods.GradCAM.fuse_cams(maps))
        for key, maps in FUSED.items()
    },
    **{f"refined {key}": (lambda m, maps=maps: m.methods.RefineCAM.fuse_cams(maps)) for key, maps in FUSED.items()},
    "both a class and a callable": extracted("GradCAM", 1, targets=lambda row: row[1]),
    "callables that are too few": extracted("GradCAM", None, targets=[lambda row: row[1]]),
    "callables that are none": extracted("GradCAM", None, targets=[1, 2]),
    "a callable of two numbers": extracted("GradCAM", None, targets=lambda row: row[:2]),
    "a callable of no tensor": extracted("GradCAM", None, targets=lambda row: 1.0),
    "callables of CAM": extracted("CAM", None, targets=lambda row: row[1]),
    "scores of another model": extracted("GradCAM", 1, before=lambda scores: torch.ones(2, 5, requires_grad=True)),
    "no pass before the call": lambda module: made(module, "GradCAM", net())(1, torch.ones(2, 5)),
    "a transform that is none": built("GradCAM", "features", reshape_transform=3),
    "a transform of no layer": built("GradCAM", reshape_transform=torch.relu),
    "CAM at two layers": built("CAM", ["features", "features.0"]),
    "CAM of a model without a linear layer": built("CAM", "0", model=lambda: nn.Sequential(nn.Conv2d(3, 2, 1))),
    "CAM with a number for a layer": built("CAM", "features", fc_layer=3),
    "refined at one layer": built("RefineCAM", ["features"]),
    "refined by no method": built("RefineCAM", ["features", "features.0"], base_method=int),
    "finer by another method": built("FinerCAM", "features", base_method=int),
    "finer by gamma of true": finer(gamma=True),
    "finer by gamma below 0": finer(gamma=-1.0),
    "finer by gamma without end": finer(gamma=float("inf")),
    "finer by half a class": finer(num_references=0.5),
    "finer by no class": finer(num_references=0),
    "finer than itself": finer(1),
    "finer than a class twice": finer([0, 0]),
    "finer than nothing": finer([]),
    "finer than a class that is not there": finer([7]),
    "finer than a class by name": finer("cat"),
    "finer than lists of two lengths": finer([[0], [2, 3]]),
    "finer than too few lists": finer([[0]]),
    "finer than a mixture": finer([0, [1]]),
    "finer for a class that is not there": finer(class_idx=9),
    "finer for a true class": finer(class_idx=[True, 1]),
    "finer with callables": extracted("FinerCAM", 1, targets=lambda row: row[0]),
    "legrad without blocks": legrad([]),
    "legrad at a linear layer": legrad("heads.head"),
    "legrad with half a token": legrad(prefix_tokens=0.5),
    "legrad with tokens below 0": legrad(prefix_tokens=-1),
    "legrad with all tokens": legrad(prefix_tokens=17),
    "legrad on a line": legrad(grid_shape=16),
    "legrad on an empty grid": legrad(grid_shape=(0, 16)),
    "legrad on another grid": legrad(grid_shape=(3, 5)),
    "legrad without a square": legrad(prefix_tokens=2),
    "legrad with a number for scores": legrad(score_projection=3),
    "legrad with scores of all tokens": legrad(score_projection=lambda tokens: tokens),
    "legrad of another model": lambda module: module.methods.LeGrad(net(), "features"),
    "an overlay of an array": overlaid(np.ones((4, 4))),
    "an overlay of a mask that is an array": overlaid(mask=torch.ones(4, 4)),
    "an overlay by all": overlaid(alpha=1.0),
    "an overlay below nothing": overlaid(alpha=-0.1),
    "an overlay by a whole number": overlaid(alpha=0),
    "an overlay of four bands": overlaid("RGBA"),
    "an overlay in no colours": overlaid(colormap="nowhere"),
    "an explanation of no tensor": explained(np.ones((1, 3, 4, 4))),
    "an explanation of two images": explained(images()),
    "an explanation of integers": explained(torch.ones(1, 3, 8, 8, dtype=torch.int64)),
    "an explanation in training": explained(model=lambda: Net().double().train()),
    "an explanation of a function": explained(model=lambda: torch.relu),
    "an explanation of a class by name": explained(expected_class_idx="cat"),
    "an explanation of a class that is not there": explained(expected_class_idx=9),
    "an explanation by no method": explained(method=int),
    "an explanation with a list of options": explained(method_kwargs=[1]),
    "an explanation with the layer twice": explained(method_kwargs={"target_layer": "features"}),
    "an explanation with too few names": explained(class_names=["a"]),
    "an explanation with one name": explained(class_names="abcde"),
    "an explanation with numbers for names": explained(class_names=[*"abcd", 1]),
    "an explanation in inference mode": torch.inference_mode()(explained()),
    "an explanation of a tuple": returning(lambda scores: (scores, scores)),
    "an explanation of a score for each position": returning(lambda scores: scores[..., None]),
    "an explanation of scores that are not numbers": returning(lambda scores: scores * torch.nan),
    "an explanation of no gradient": returning(lambda scores: scores.detach()),
    "steps of one half": measured("DeletionInsertionMetric", steps=0.5),
    "no steps": measured("DeletionInsertionMetric", steps=0),
    "true images at a time": measured("DeletionInsertionMetric", batch_size=True),
    "no images at a time": measured("DeletionInsertionMetric", batch_size=0),
    "a number for a baseline": measured("DeletionInsertionMetric", baseline=3),
    "a baseline of another shape": measured("DeletionInsertionMetric", baseline=torch.ones(7)),
    "a baseline that returns a number": measured("DeletionInsertionMetric", baseline=lambda given: 0),
    "a metric of a class that is not there": measured("ClassificationMetric", 9),
    "a metric of a class by name": measured("ClassificationMetric", "cat"),
    "a metric of a true class": measured("ClassificationMetric", [True, 1]),
    "a metric of too few classes": measured("ClassificationMetric", [1]),
    "a summary of nothing": lambda module: module.metrics.ClassificationMetric(made(module, "CAM", net())).summary(),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    expected = refusal(lambda: REFUSED[case](torchcam))
    assert expected is not None
    assert refusal(lambda: REFUSED[case](package)) is expected
