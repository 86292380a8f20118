"""Methods as data: a name, what the rule needs, and the rule."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from torch import Tensor

LayerNeed = Literal["activations", "gradients", "mean_pool_classifier", "max_pool_classifier", "ablated_scores"]
InputNeed = Literal[
    "images", "scores", "input_gradients", "guided_gradients", "deconvnet_gradients", "full_gradients", "scorer"
]
Need = LayerNeed | InputNeed
Returns = Literal["weights", "map", "attributions"]
Reduction = Literal["max_abs", "sum_abs", "sum", "mean", "max", "norm"]  # over colour
Outcome = Tensor | tuple[Tensor, dict[str, Any]]  # the result, or a pair of it and details by name
Rule = Callable[..., Outcome]
RuleT = TypeVar("RuleT", bound=Rule)


@dataclass(frozen=True)
class Method:
    """One attribution method.

    Attributes:
        name: registry name, as in ``fastcam.explain(..., method=name)``.
        rule: function of what it needs; it returns what ``returns`` says, or a pair of that and a dict of details.
            Where it needs no scorer and returns no attributions, positions are flat: ``activations`` (N, C, P) and
            ``gradients`` (N, C, P), or (N, 1, C, P) and (N, K, C, P) for K targets. Otherwise they are (N, C, *s) and
            (N, [K,] C, *s). A classifier's rows and the ablated scores are (N, [K,] C), ``images`` (N, [1,] C, *S), the
            gradients with respect to them (N, [K,] C, *S); what the full gradients and the scorer are,
            ``fastcam.methods.protocol`` says.
        needs: the names of the rule's positional arguments.
        returns: "weights", (..., C) or (..., C, P), that the engine reduces with the activations; "map", the map
            itself, at the layer, or at the size of the images where no layer is needed; "attributions" of every input
            value, (N, [K,] C, *S), whose reduction over colour is the map.
        relu: whether the definition ends in a ReLU; ``explain(relu=...)`` overrides it.
        fused: an op that does rule and reduction in one pass, or None.
        paper: where the method is defined.
        cost: forward passes for one image, a backward pass through all of the network counted as one, in words.
        reduce: how attributions become a map; ``explain(reduce=...)`` overrides it.
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

    @property
    def options(self) -> dict[str, Any]:
        """Keyword options of the rule with their defaults."""
        parameters = inspect.signature(self.rule).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def all_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options with their defaults, and those of the method inside where ``given`` or the default names one."""
        inner = given.get("inner", self.options.get("inner"))
        return self.options if "inner" not in self.options else get_method(inner).options | self.options

    def reduction(self, given: Mapping[str, Any]) -> Reduction:
        """How attributions become a map: as those of the method inside, where there is one."""
        inner = given.get("inner", self.options.get("inner"))
        return self.reduce if "inner" not in self.options else get_method(inner).reduce

    def value(self, *given: Any, **options: Any) -> Tensor:
        """Return the rule's result without its details."""
        outcome = self.rule(*given, **options)
        return outcome[0] if isinstance(outcome, tuple) else outcome

    @property
    def has_layer(self) -> bool:
        """Whether the method looks at a layer inside the network; without one it attributes to the input alone."""
        return any(need in get_args(LayerNeed) for need in self.needs)

    @property
    def is_one_pass(self) -> bool:
        """Whether a pass over the images as they are is all that the method takes."""
        return not {"scorer", "ablated_scores"} & set(self.needs)

    @property
    def is_flat(self) -> bool:
        """Whether the rule gets its positions flat."""
        return self.has_layer and "scorer" not in self.needs and self.returns != "attributions"


_methods: dict[str, Method] = {}


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
    """Registers the decorated rule under ``name``; the arguments are those of :class:`Method`.

    Raises:
        ValueError: for a name that is taken.
    """

    def register(rule: RuleT) -> RuleT:
        if name in _methods:
            raise ValueError(f"a method named {name!r} is registered already")
        _methods[name] = Method(name, rule, needs, returns, relu, fused, paper, cost, reduce)
        return rule

    return register


def get_method(name: str | Method) -> Method:
    """The method of that name; a method that is no name is passed on.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if isinstance(name, Method):
        return name
    if name not in _methods:
        raise ValueError(f"`method` must be one of {', '.join(_methods)}; got {name!r}")
    return _methods[name]


def list_methods() -> list[Method]:
    """Every registered method, in the order of registration."""
    return list(_methods.values())
