"""The measures of explanations by name, and what each needs."""

import difflib
import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, TypeVar

from torch import Tensor

from fastcam.evaluate.requests import Request, ScoreKind

Need: TypeAlias = Literal["scores", "explainer", "attributions", "masks", "boxes"]
Outcome: TypeAlias = Tensor | tuple[Tensor, dict[str, Tensor]]
Asking: TypeAlias = Generator[Request, Tensor, Outcome]
Rule: TypeAlias = Callable[..., Outcome | Asking]
Pool: TypeAlias = Callable[[dict[str, Tensor]], Tensor]
RuleT = TypeVar("RuleT", bound=Rule)


@dataclass(frozen=True)
class Measure:
    """A measure of explanations.

    Attributes:
        name: in the registry.
        rule: from a :class:`fastcam.evaluate.case.Case` and options to values (R,), one for every map, and possibly
            details (R, ...) by name. A rule that needs the model is a generator: it yields requests for the scores, or
            the explanations, of copies of the images, is sent the answers, and returns the same.
        needs: "scores" of the model for copies of the images; an "explainer", to explain copies; "attributions" of
            every input value; "masks" or "boxes" of the objects.
        formula: of the value, in words and symbols.
        higher_is_better: which of two values speaks for the explanation; None where neither does.
        score: of what the formula's f is: the "probability" of the explained class (the score itself where it is no
            class of several), the "explained" score, the "predicted" class, or None where there is no f.
        paper: that defines the measure.
        pool: from the details of all images (N, [K,] ...) to the number of the dataset, for measures that are no mean
            over images.
    """

    name: str
    rule: Rule
    needs: tuple[Need, ...]
    formula: str
    higher_is_better: bool | None
    score: ScoreKind | None
    paper: str
    pool: Pool | None = None

    @property
    def summary(self) -> str:
        """The first line of the rule's docstring."""
        return (inspect.getdoc(self.rule) or "").splitlines()[0]

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """The rule's options with their defaults."""
        parameters = inspect.signature(self.rule).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}

    def check_options(self, options: Mapping[str, object]) -> None:
        """Refuse options that the measure does not have.

        Raises:
            TypeError: for an unknown option.
        """
        for option in options:
            if option not in self.options:
                known = ", ".join(self.options) or "none"
                raise TypeError(f"the measure {self.name} has no option {option!r}; known: {known}")


_measures: dict[str, Measure] = {}


def measure(
    name: str,
    *,
    formula: str,
    paper: str,
    needs: tuple[Need, ...] = (),
    higher_is_better: bool | None = True,
    score: ScoreKind | None = None,
    pool: Pool | None = None,
) -> Callable[[RuleT], RuleT]:
    """Register the decorated rule under ``name``; the arguments are those of :class:`Measure`.

    Raises:
        ValueError: for a name that is registered already.
    """

    def register(rule: RuleT) -> RuleT:
        if name in _measures:
            raise ValueError(f"a measure named {name!r} is registered already")
        kind = score or ("probability" if "scores" in needs else None)
        _measures[name] = Measure(name, rule, needs, formula, higher_is_better, kind, paper, pool)
        return rule

    return register


def get_measure(name: str | Measure) -> Measure:
    """Return the measure of that name; a :class:`Measure` is returned unchanged.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if isinstance(name, Measure):
        return name
    if name not in _measures:
        near = difflib.get_close_matches(str(name), _measures, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"a measure must be one of {', '.join(_measures)}; got {name!r}{hint}")
    return _measures[name]


def list_measures() -> list[Measure]:
    """Return all registered measures, in the order of registration."""
    return list(_measures.values())
