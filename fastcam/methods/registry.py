"""The registry of methods: names, rules and the inputs that rules need."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

from torch import Tensor

LayerNeed = Literal["activations", "gradients", "mean_pool_classifier", "max_pool_classifier", "ablated_scores"]
InputNeed = Literal[
    "images", "scores", "input_gradients", "guided_gradients", "deconvnet_gradients", "full_gradients", "scorer"
]
Need = LayerNeed | InputNeed
Returns = Literal["weights", "map", "attributions"]
Reduction = Literal["max_abs", "sum_abs", "sum", "mean", "max", "norm"]  # over the colour channels
Outcome = Tensor | tuple[Tensor, dict[str, Any]]  # the result, or the result and details by name
Rule = Callable[..., Outcome]
RuleT = TypeVar("RuleT", bound=Rule)


@dataclass(frozen=True)
class Method:
    """One attribution method.

    Attributes:
        name: registry name, as in ``fastcam.explain(..., method=name)``.
        rule: function of its needs; it returns the kind named by ``returns``, or a pair of that and a dict of details.
            If it needs no scorer and returns no attributions, positions are flat: ``activations`` (N, C, P) and
            ``gradients`` (N, C, P), or (N, 1, C, P) and (N, K, C, P) for K targets. Otherwise they are (N, C, *s) and
            (N, [K,] C, *s). A classifier's rows and the ablated scores are (N, [K,] C), ``images`` (N, [1,] C, *S), the
            gradients with respect to them (N, [K,] C, *S); ``fastcam.methods.protocol`` defines the full gradients and
            the scorer.
        needs: the names of the rule's positional arguments.
        returns: "weights", (..., C) or (..., C, P), that the engine reduces with the activations; "map", the map
            itself, at the size of the layer, or of the images if no layer is needed; "attributions" of every input
            value, (N, [K,] C, *S), whose reduction over colour is the map.
        relu: whether the definition ends with a ReLU; ``explain(relu=...)`` overrides it.
        fused: an op that computes rule and reduction in one pass, or None.
        paper: the paper that defines the method.
        cost: number of forward passes per image, as text; a full backward pass counts as one.
        reduce: reduction of attributions to a map; ``explain(reduce=...)`` overrides it.
    """

    name: str
    rule: Rule
    needs: tuple[Need, ...]
    returns: Returns
    relu: bool
    fused: Callable[..., Tensor] | None
    paper: str
    cost: str
    reduce: Reduction

    @property
    def summary(self) -> str:
        """The first line of the rule's docstring."""
        return (inspect.getdoc(self.rule) or "").splitlines()[0]

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """Keyword options of the rule with their defaults."""
        parameters = inspect.signature(self.rule).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def all_options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options with their defaults, and those of the inner method named by ``options`` or the default."""
        inner = options.get("inner", self.options.get("inner"))
        return self.options if "inner" not in self.options else {**get_method(inner).options, **self.options}

    def reduction(self, options: Mapping[str, Any]) -> Reduction:
        """Return the reduction of attributions to a map: that of the inner method, if any."""
        inner = options.get("inner", self.options.get("inner"))
        return self.reduce if "inner" not in self.options else get_method(inner).reduce

    def value(self, *inputs: object, **options: object) -> Tensor:
        """Return the rule's result without its details."""
        outcome = self.rule(*inputs, **options)
        return outcome[0] if isinstance(outcome, tuple) else outcome

    @property
    def in_score_units(self) -> bool:
        """Whether the map is made of differences of scores of copies of the images alone."""
        gradients = any(need.endswith("gradients") for need in self.needs)
        return "scorer" in self.needs and self.returns == "map" and not self.has_layer and not gradients

    @property
    def has_layer(self) -> bool:
        """Whether the method uses a layer inside the network, instead of the input alone."""
        return any(need in get_args(LayerNeed) for need in self.needs)

    @property
    def is_one_pass(self) -> bool:
        """Whether the method needs only one pass over the original images."""
        return not {"scorer", "ablated_scores"} & set(self.needs)

    @property
    def is_flat(self) -> bool:
        """Whether the rule receives flat positions."""
        return self.has_layer and "scorer" not in self.needs and self.returns != "attributions"


_methods: dict[str, Method] = {}
# With targets.Detections these methods are what the papers on detectors call so.
_NAMES_WITH_DETECTIONS = {"odam": "hires_cam", "drise": "rise"}


def method(
    name: str,
    *,
    needs: tuple[Need, ...],
    paper: str,
    returns: Returns = "weights",
    relu: bool = True,
    fused: Callable[..., Tensor] | None = None,
    cost: str = "1",
    reduce: Reduction = "sum",
) -> Callable[[RuleT], RuleT]:
    """Register the decorated rule under ``name``; the arguments are those of :class:`Method`.

    Raises:
        ValueError: for a name that is already registered.
    """

    def register(rule: RuleT) -> RuleT:
        if name in _methods:
            raise ValueError(f"a method named {name!r} is registered already")
        _methods[name] = Method(name, rule, needs, returns, relu, fused, paper, cost, reduce)
        return rule

    return register


def get_method(name: str | Method) -> Method:
    """Return the method of that name; a :class:`Method` is returned unchanged.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if isinstance(name, Method):
        return name
    if name not in _methods:
        similar = _similar(name)
        hint = f"; did you mean {similar!r}?" if similar else ""
        raise ValueError(f"`method` must be one of {', '.join(_methods)}; got {name!r}{hint}")
    return _methods[name]


def _similar(name: str) -> str | None:
    """Return the method that another spelling, such as "GradCAM++", or a slip of the pen means."""

    def plain(text: str) -> str:
        return "".join(letter for letter in text.lower().replace("+", "p") if letter.isalnum())

    by_plain = {plain(known): known for known in _methods} | _NAMES_WITH_DETECTIONS
    near = difflib.get_close_matches(plain(str(name)), by_plain, n=1, cutoff=0.75)
    return by_plain[near[0]] if near else None


def list_methods() -> list[Method]:
    """Return all registered methods, in the order of registration."""
    return list(_methods.values())
