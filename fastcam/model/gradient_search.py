"""The layer that is explained, found by the gradients of a score: where tokens or a prediction come behind it."""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from fastcam.model import module_kinds, token_maps
from fastcam.model.capture import Layer, Output, observe
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs
from fastcam.model.token_maps import TokenMap
from fastcam.model.verification import Verification

_LINEAR_NODES = ("Convolution", "Addmm", "Mm", "Bmm", "Linear", "Baddbmm")  # of the autograd graph
MAX_PROBED, MAX_SHAPES = 8, 4  # outputs of a shape whose maps are looked for on the model, and shapes: texts come first
MIN_SHARE = 0.5  # of the positions that must receive a gradient, so that the score depends on more than a class token


@dataclass(frozen=True)
class Found:
    """An observed output and the map in it; None for the output itself."""

    observed: Output
    token_map: TokenMap | None


@dataclass(frozen=True)
class _Choice:
    """An observed output, the maps that it may hold, and the gradient of the score with respect to it."""

    observed: Output
    candidates: list[TokenMap]
    gradient: Tensor

    def reached(self, share: float) -> list[TokenMap]:
        """Return the maps in which more than a share of the positions get a gradient."""
        return [each for each in self.candidates if _share_reached(each(self.gradient)) > share]

    def layer(self) -> Layer:
        """Return the module as a layer, in the observed run."""
        return Layer(self.observed.name, self.observed.module, run=self.observed.run)

    def gets_gradient(self) -> bool:
        """Whether the gradient of every image is not zero."""
        return bool((self.gradient != 0).flatten(1).any(1).all())


@dataclass(frozen=True)
class Search:
    """A search among the outputs of a model's modules.

    Attributes:
        model: the module to explain.
        inputs: of the model.
        value_of: from the model's output to scores.
        eligible: names and runs of the outputs to choose from.
        is_vector: whether the scored output is one vector per image.
    """

    model: nn.Module
    inputs: Inputs
    value_of: Callable[[ModelOutput], Tensor]
    eligible: set[tuple[str, int]]
    is_vector: bool

    def run(self) -> Found | None:
        """Return the layer; None if there is none, or no gradient."""
        choices = self._choices()
        # Parts inside an attention or a perceptron have no norm; the blocks and what they normalise do.
        preferred = [
            each for each in choices if self._is_map(each) or module_kinds.has_token_norm(each.observed.module)
        ]
        # Of a score whose gradient is zero everywhere there is a layer too; the map says that it got none.
        if self.is_vector:
            attempts = [(preferred, MIN_SHARE), (choices, MIN_SHARE), (preferred, 0.0), (preferred, -1.0)]
        else:
            of_all = [each for each in preferred if each.gets_gradient()]
            attempts = [(of_all, 0.0), (preferred, 0.0), (choices, 0.0), (choices, -1.0)]
        verification = Verification(self.model, self.inputs)
        for candidates, share in attempts:
            found = self._first_verified(candidates, share, verification)
            if found is not None:
                return found
        return self._assumed(preferred or choices, attempts[-1][1])

    def _choices(self) -> list[_Choice]:
        """Return the outputs that the score depends on, the most suitable first."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = self.inputs.images.detach().requires_grad_()
            seen = observe(self.model, self.inputs.replace_images(leaf).arguments, with_graph=True)
            value = self.value_of(seen.output).sum()
            outputs = [output for output in seen.outputs if self._is_eligible(output)]
            if not outputs or not value.requires_grad:
                return []
            gradients = torch.autograd.grad(value, [o.tensor for o in outputs], allow_unused=True)
        size, runs = self.inputs.images.shape[2:], Counter(output.name for output in seen.outputs)
        choices = [
            _Choice(output, token_maps.candidates(output.tensor.shape, size), gradient)
            for output, gradient in zip(reversed(outputs), reversed(gradients), strict=True)
            if gradient is not None
        ]
        if self.is_vector:
            return choices
        # A module that runs several times in a detector is a head of all levels, the last of which is the coarsest.
        before = _predictions(value)
        return _widest_first([c for c in choices if c.observed.node not in before and runs[c.observed.name] == 1])

    def _is_eligible(self, output: Output) -> bool:
        return (
            (output.name, output.run) in self.eligible
            and len(output.tensor) == len(self.inputs)
            and output.tensor.requires_grad
            and not issubclass(module_kinds.kind_of(output.module), nn.Linear)
        )

    def _is_map(self, choice: _Choice) -> bool:
        return is_map(choice.observed.module, choice.observed.tensor.shape, self.inputs.images)

    def _first_verified(self, choices: Sequence[_Choice], share: float, verification: Verification) -> Found | None:
        """Return the first output with a map in which more than a share of the positions get a gradient."""
        probed = self._probed(choices, share)
        for choice, reached in probed:
            verification.ask(choice.layer(), reached)
        for choice, reached in probed:
            if self._is_map(choice):
                return Found(choice.observed, None)
            verified = token_maps.find(reached, verification)
            # Where other tokens follow the image's, the map lies elsewhere than the candidate, and may get no gradient.
            if verified is not None and _share_reached(verified(choice.gradient)) > share:
                return Found(choice.observed, verified)
        return None

    def _probed(self, choices: Sequence[_Choice], share: float) -> list[tuple[_Choice, list[TokenMap]]]:
        """Return the first choices of some shapes with maps that are reached, up to one that is a map as it is."""
        probed: list[tuple[_Choice, list[TokenMap]]] = []
        counts = Counter[torch.Size]()
        for choice in choices:
            shape = choice.observed.tensor.shape
            is_new = shape not in counts
            if counts[shape] == MAX_PROBED or (is_new and len(counts) == MAX_SHAPES):
                continue
            reached = choice.reached(share)
            if reached:
                counts[shape] += 1
                probed.append((choice, reached))
                if self._is_map(choice):
                    break
        return probed

    def _assumed(self, choices: Sequence[_Choice], share: float) -> Found | None:
        """Return the first output of tokens that is a map if its positions are in row order."""
        for choice in choices:
            guess = token_maps.assumed(choice.observed.tensor.shape, self.inputs.images.shape[2:])
            if guess is not None and choice.reached(share):
                return Found(choice.observed, guess)
        return None


def random_projection(output: ModelOutput) -> Tensor:
    """Return a number that depends on every part of an output."""
    generator = torch.Generator().manual_seed(0)
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    total = torch.zeros(())
    for leaf in leaves:
        total = total.to(leaf.device) + (leaf * torch.randn(leaf.shape, generator=generator).to(leaf)).sum()
    return total


def _predictions(value: Tensor) -> set[Node]:
    """Return the nodes from a score back to the second of the linear layers and convolutions in front of it.

    The output of the last one is the prediction, and what it is made from repeats it, channel by channel.
    """
    assert value.grad_fn is not None
    depth: dict[Node, int] = {value.grad_fn: 0}
    pending = deque(depth)
    while pending:
        node = pending.popleft()
        passed = depth[node] + type(node).__name__.startswith(_LINEAR_NODES)
        for source, _ in node.next_functions if passed < 2 else ():
            if source is not None and passed < depth.get(source, 2):
                depth[source] = passed
                pending.append(source)
    return set(depth)


def _widest_first(choices: Sequence[_Choice]) -> list[_Choice]:
    """Return the outputs by their channels, the most first.

    Of equal ones come the coarsest, of those the ones least deep in the tree of modules, and of those the last first.
    """

    def rank(choice: _Choice) -> tuple[int, int, int]:
        if not choice.candidates:
            return 0, 0, 0
        likeliest, output = choice.candidates[0], choice.observed
        return -output.tensor.shape[likeliest.channel_axis], math.prod(likeliest.grid), output.name.count(".")

    return sorted(choices, key=rank)  # which keeps the order of equals


def _share_reached(gradient: Tensor) -> float:
    """Return the share of the positions of a map's gradient (N, C, *s) that is not zero."""
    return (gradient != 0).any(1).double().mean().item()


def is_map(module: nn.Module, shape: Sequence[int], images: Tensor) -> bool:
    """Whether a module's output is surely a map (N, C, *s) as it is."""
    if len(shape) != images.dim() or module_kinds.has_channels_last(module):
        return False
    return module_kinds.has_channels_second(module) or token_maps.is_map(shape, images.shape[2:])
