"""Sanity checks by random weights (arXiv:1810.03292): a map that stays the same does not explain the model."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from fastcam import targets
from fastcam.evaluate.plots import new_figure
from fastcam.evaluate.similarity import similarities
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.methods.registry import Method
from fastcam.model import layers as model_layers
from fastcam.model import running
from fastcam.model.inputs import Images, Inputs
from fastcam.model.progress import ProgressReporter, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Order = Literal["cascading", "independent"]
SAME, DIFFERENT = 0.95, 0.5  # rank correlations, in the verdict


@dataclass(frozen=True, eq=False)
class Randomisation:
    """How the maps change with random weights.

    Attributes:
        method: name of the method.
        order: "cascading" or "independent".
        layers: L names, from the output to the input, each randomised in its turn.
        similarity: to the maps of the trained model, (L, N) by measure, see
            :func:`fastcam.evaluate.similarity.similarities`; NaN where a map shows nothing.
        to_last: (L, N), the rank correlation with the maps of the last step.
    """

    method: str
    order: Order
    layers: list[str]
    similarity: dict[str, Tensor]
    to_last: Tensor

    @property
    def verdict(self) -> str:
        """One sentence: on which layers' weights the maps depend, by the mean rank correlation of the images."""
        means = self.similarity["spearman"].nanmean(1)
        if means.isnan().all():
            return f"no map of {self.method} shows anything with random weights"
        if self.order == "independent":
            same = [name for name, mean in zip(self.layers, means.tolist(), strict=True) if mean >= SAME]
            if not same:
                return f"{self.method} depends on the weights of every layer"
            return f"{self.method} hardly depends on the weights of {', '.join(same)} (rank correlation {SAME} or more)"
        lowest = means[~means.isnan()].amin().item()
        if lowest >= DIFFERENT:
            least = math.floor(100 * round(lowest, 6)) / 100  # never above the truth
            stays = "1" if least >= 1 else f"{least:.2f} or more"
            return f"{self.method} hardly depends on the weights: the rank correlation stays at {stays}"
        index = next(i for i, mean in enumerate(means.tolist()) if mean < DIFFERENT)
        text = f"{self.method} changes once the layers from the output to {self.layers[index]!r} are random"
        settled = self._settled_at()
        return text if settled is None else f"{text}; it does not depend on the weights of layers below {settled!r}"

    def _settled_at(self) -> str | None:
        """Return the first layer after which the maps no longer change, if layers follow."""
        means = self.to_last.nanmean(1).tolist()
        for name, rest in ((self.layers[i], means[i:]) for i in range(len(means) - 1)):
            if all(mean >= SAME for mean in rest):
                return name
        return None

    def plot(self) -> "Figure":
        """Return a matplotlib figure: the mean similarities over the layers, with one standard deviation.

        Raises:
            ImportError: without matplotlib.
        """
        return plot_randomisations([self])

    def __repr__(self) -> str:
        return f"Randomisation({self.verdict!r})"


def plot_randomisations(results: Sequence[Randomisation]) -> "Figure":
    """Return a matplotlib figure, a panel for every method: the mean similarities, with one standard deviation.

    Raises:
        ImportError: without matplotlib.
    """
    width = max(6, 0.3 * len(results[0].layers) + 3)
    figure = new_figure(width, 4 * len(results))
    panels = figure.subplots(len(results), sharex=True, squeeze=False)[:, 0]
    for panel, result in zip(panels, results, strict=True):
        places = range(len(result.layers))
        for name, values in result.similarity.items():
            mean = values.nanmean(1)
            spread = (values - mean[:, None]).square().nanmean(1).sqrt()
            panel.plot(places, mean, label=name)
            panel.fill_between(places, mean - spread, mean + spread, alpha=0.15)
        panel.set_ylim(-1.05, 1.05)
        panel.set_ylabel("similarity to the trained map")
        panel.set_title(f"{result.method}, {result.order}")
    panels[0].legend()
    panels[-1].set_xticks(range(len(results[0].layers)), results[0].layers, rotation=90)
    return figure


def randomisation(
    model: nn.Module,
    images: Images,
    method: str | Method = "grad_cam",
    target: targets.Target = None,
    *,
    order: Order = "cascading",
    layers: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool | Report = False,
    **options: Any,
) -> Randomisation:
    """Replace the model's weights by random ones, layer by layer from the output on, and compare the maps.

    Every weight tensor becomes normal noise of its own mean and standard deviation, drawn anew for each tensor; running
    statistics of batch norms stay. The classes are those of the trained model. The model is copied once and left as it
    was. Data randomisation, the other check of the paper, is a recipe: train a second model on permuted labels until it
    knows them by heart, and compare its maps of the training images with those of the first one by
    :func:`fastcam.evaluate.similarity.similarities`.

    Args:
        model: the trained model.
        images: as for :func:`fastcam.explain`.
        method: a method.
        target: as for :func:`fastcam.explain`.
        order: "cascading" keeps the layers above random; "independent" makes one layer random at a time.
        layers: names of modules, each with all weights below it, from the output to the input; None takes every module
            with weights of its own, in the opposite order of the forward pass.
        seed: of the weights.
        progress: shows a bar, or is called with (done, total) layers.
        options: of :class:`fastcam.Explainer`, ``target_layer`` and ``batch_size`` for example.

    Raises:
        ValueError: for an unknown order, or a layer without weights.
        ImportError: without SciPy and scikit-image.
    """
    if order not in get_args(Order):
        raise ValueError(f"`order` must be one of {', '.join(get_args(Order))}, got {order!r}")
    trained = _explain(model, images, method, target, options)
    classes = trained.targets if target is None or trained.targets is not None else target
    names = list(layers) if layers is not None else _layers_from_output(model, images, options)
    copied = copy.deepcopy(model)
    maps: list[Tensor] = []
    with ProgressReporter(progress, f"{trained.method} of random weights").over(len(names)) as advance:
        for name in names:
            before = _randomise(copied, name, seed)
            maps.append(_explain(copied, images, method, classes, options).raw.detach())
            if order == "independent":
                _restore(before)
            advance(1)
    axes = len(trained.size)
    maps, original = [each.flatten(0, -1 - axes) for each in maps], trained.raw.detach().flatten(0, -1 - axes)
    compared = [similarities(original, each) for each in maps]
    return Randomisation(
        trained.method,
        order,
        names,
        {key: torch.stack([each[key] for each in compared]) for key in compared[0]},
        torch.stack([similarities(each, maps[-1])["spearman"] for each in maps]),
    )


def _explain(
    model: nn.Module, images: Images, method: str | Method, target: targets.Target, options: dict[str, Any]
) -> Explanation:
    explanation = Explainer(model, method, **options)(images, target)
    if not isinstance(explanation, Explanation):
        raise ValueError("one method and one map a layer are randomised at a time: fuse the layers")
    return explanation


def _layers_from_output(model: nn.Module, images: Images, options: dict[str, Any]) -> list[str]:
    """Return the names of the modules with weights of their own, the last to run first."""
    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    try:
        inputs = Inputs.of(
            images, model, options.get("explain_input"), options.get("shared", ()), options.get("channel_axis")
        )
        with torch.no_grad(), running.preserve_state(model):
            running.call(model, inputs.first().arguments)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(reversed(order)))


def _randomise(model: nn.Module, name: str, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Make the weights of a layer random; return them with copies of what they were.

    Raises:
        ValueError: for an unknown layer, or one without weights.
    """
    layer = model_layers.get_layer(model, name).module
    owned = [(key, each) for key, each in layer.named_parameters() if each.is_floating_point()]
    if not owned:
        raise ValueError(f"layer {name!r} has no weights that could be random")
    before: list[tuple[Tensor, Tensor]] = [(each, each.detach().clone()) for _, each in owned]
    for key, weight in owned:
        generator = torch.Generator().manual_seed(_seed_of(f"{name}.{key}", seed))
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        with torch.no_grad():
            mean, deviation = weight.mean(), weight.std(correction=0)
            weight.copy_(mean + deviation * noise)
    return before


def _seed_of(name: str, seed: int) -> int:
    """Return a seed for one tensor of the model, so that equal shapes get other numbers."""
    number = seed
    for letter in name:
        number = (number * 257 + ord(letter)) % (2**61 - 1)
    return number


def _restore(before: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for weight, values in before:
            weight.copy_(values)
