"""What users write, as a type checker and an editor see it: tests/typing/test_types.py checks every line."""

from collections.abc import Callable
from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from torch import Tensor, nn

import fastcam
import fastcam.dataset
import fastcam.evaluate


def one_method(model: nn.Module, images: Tensor) -> Tensor:
    explanation = fastcam.explain(model, images, method="grad_cam", target=207, target_layer="layer4")
    assert_type(explanation, fastcam.Explanation)
    assert_type(explanation.maps, Tensor)
    assert_type(explanation.native, Tensor)
    assert_type(explanation.targets, Tensor | None)
    assert_type(explanation.save("maps.png"), list[Path])
    return explanation.maps


def several_methods(model: nn.Module, images: Tensor) -> dict[str, fastcam.Explanation]:
    explanations = fastcam.explain(model, images, ["grad_cam", "layer_cam"], relu=False)
    assert_type(explanations, dict[str, fastcam.Explanation])
    return explanations


def several_layers(model: nn.Module, images: Tensor) -> None:
    fused = fastcam.explain(model, images, target_layer=["layer3", "layer4"], fuse="max")
    assert_type(fused, fastcam.Explanation)
    apart = fastcam.explain(model, images, target_layer=["layer3", "layer4"], fuse=None)
    if isinstance(apart, fastcam.Explanation):
        assert_type(apart, fastcam.Explanation)


def in_a_pipeline(model: nn.Module, batches: list[Tensor]) -> list[Tensor]:
    with fastcam.Explainer(
        model, "layer_cam", model.get_submodule("layer4"), precision="bf16", compile=True
    ) as explainer:
        assert_type(explainer, fastcam.Explainer[fastcam.Explanation])
        return [explainer(images, target="all").maps for images in batches]


def many_in_a_pipeline(model: nn.Module, images: Tensor) -> Tensor:
    explainer = fastcam.Explainer(model, ("grad_cam", "cam"))
    assert_type(explainer, fastcam.Explainer[dict[str, fastcam.Explanation]])
    return explainer(images)["cam"].maps


def targets_of_every_kind(model: nn.Module, images: Tensor) -> None:
    def score(output: Tensor) -> Tensor:
        return output[:, 1] - output[:, 2]

    callables: list[Callable[[Tensor], Tensor]] = [score, score]
    fastcam.explain(model, images, target=[[207, 281]] * 4)
    fastcam.explain(model, images, target=torch.tensor([1, 2]))
    fastcam.explain(model, images, target=np.array([1, 2]))
    fastcam.explain(model, images, target=score)
    fastcam.explain(model, images, target=callables)
    fastcam.explain(model, images, target=fastcam.targets.Probability(207))
    fastcam.explain(model, (images, torch.ones(4)), select="logits", out=torch.empty(4, 224, 224))


def options_and_attributions(model: nn.Module, images: Tensor) -> Tensor | None:
    path = fastcam.explain(model, images, "integrated_gradients", 207, steps=20, progress=True)
    assert_type(path.attributions, Tensor | None)
    return path.attributions


def statuses(explanation: fastcam.Explanation) -> list[str]:
    status = explanation.status
    return [each for each in status if isinstance(each, str)]


def prepared(model: nn.Module, images: Tensor) -> fastcam.Prepared:
    faster = fastcam.prepare(model, images, precision="auto", compile=True)
    print(faster.report())
    print(fastcam.occlusion_plan(model, 224, window=32, stride=16))
    return faster


@fastcam.method("mine", needs=("activations", "gradients"), paper="none")
def mine(activations: Tensor, gradients: Tensor, *, power: float = 2.0) -> Tensor:
    """My own weights."""
    return gradients.mean(-1) ** power * activations.mean(-1)


def registry() -> list[str]:
    assert_type(mine(torch.ones(1, 2, 3), torch.ones(1, 2, 3)), Tensor)
    return [method.name for method in fastcam.list_methods()] + [fastcam.get_method("mine").paper]


def measured(model: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
    explainer = fastcam.Explainer(model, ["grad_cam", "layer_cam"])
    explanations = explainer(images)
    evaluation = fastcam.evaluate.run(explanations, ["insertion", "max_sensitivity"], model, explainer=explainer)
    assert_type(evaluation["grad_cam", "insertion"].values, Tensor)
    print(evaluation, evaluation["grad_cam", "insertion"].interval())
    assert_type(fastcam.evaluate.pointing_game(explanations["grad_cam"], masks=masks), Tensor)
    assert_type(explanations["grad_cam"].masks(0.2), Tensor)
    return fastcam.evaluate.deletion(model, images, explanations["grad_cam"], steps=10)


def several_models_over_a_dataset(one: nn.Module, other: nn.Module) -> None:
    layers = {"one": "layer4", "other": "features"}
    done = fastcam.dataset.run("photos", {"one": one, "other": other}, "maps", target_layer=layers, target=207)
    assert_type(done.failed, int)
    fastcam.dataset.run("photos", one, "maps", target_layer="layer4", graph=False)
