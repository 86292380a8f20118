"""Methods as data: a name, what the rule needs, and the rule."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Need = Literal["activations", "gradients", "mean_pool_classifier", "max_pool_classifier"]
Rule = Callable[..., Tensor]


@dataclass(frozen=True)
class Method:
    """One attribution method.

    Attributes:
        name: registry name, as in ``fastcam.explain(..., method=name)``.
        rule: function of what it needs. Positions are flat: ``activations`` (N, C, P) and ``gradients`` (N, C, P),
            or (N, 1, C, P) and (N, K, C, P) for K targets; a classifier's rows are (N, C) or (N, K, C). It returns
            weights, (..., C) or (..., C, P), or the map itself, (..., P), where ``returns`` is "map".
        needs: the names of the rule's positional arguments.
        returns: "weights" (the engine reduces them with the activations) or "map".
        relu: whether the definition ends in a ReLU; ``explain(relu=...)`` overrides it.
        fused: an op that does rule and reduction in one pass, or None.
        paper: where the method is defined.
    """

    name: str
    rule: Rule
    needs: tuple[Need, ...]
    returns: Literal["weights", "map"]
    relu: bool
    fused: Callable[..., Tensor] | None
    paper: str

    @property
    def summary(self) -> str:
        """The first line of the rule's docstring."""
        return (inspect.getdoc(self.rule) or "").splitlines()[0]

    @property
    def options(self) -> dict[str, Any]:
        """Keyword options of the rule with their defaults."""
        parameters = inspect.signature(self.rule).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


_methods: dict[str, Method] = {}


def method(
    name: str,
    *,
    needs: tuple[Need, ...],
    paper: str,
    returns: Literal["weights", "map"] = "weights",
    relu: bool = True,
    fused: Callable[..., Tensor] | None = None,
) -> Callable[[Rule], Rule]:
    """Registers the decorated rule under ``name``; the arguments are those of :class:`Method`.

    Raises:
        ValueError: for a name that is taken.
    """

    def register(rule: Rule) -> Rule:
        if name in _methods:
            raise ValueError(f"a method named {name!r} is registered already")
        _methods[name] = Method(name, rule, needs, returns, relu, fused, paper)
        return rule

    return register


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in _methods:
        raise ValueError(f"`method` must be one of {', '.join(_methods)}; got {name!r}")
    return _methods[name]


def list_methods() -> list[Method]:
    """Every registered method, in the order of registration."""
    return list(_methods.values())
