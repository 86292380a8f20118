"""What `make test-all` runs besides `make test`: cases of a kind that another case proves already.

Where the slow tier is deselected, whole products of cases are not even made: pytest takes a minute to collect them.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest

_products = {"whole": True}


def choose(markers: str) -> None:
    """Choose the cases to make by the expression of markers that pytest is given."""
    _products["whole"] = "not slow" not in markers


def slow(*cases: Any) -> list[Any]:
    """The cases as parameters of the slow tier."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases]


def covering(*axes: Sequence[Any]) -> list[Any]:
    """The product of the axes as parameters: those of a covering array in the daily tier, the others in the slow one.

    The array has every value of the two longest axes together, and along these the others change in turns, so that
    nearly every pair of values of any two axes is there.
    """
    sizes = [len(axis) for axis in axes]
    first, second, *rest = sorted(range(len(axes)), key=lambda axis: -sizes[axis])
    daily = set()
    for i, j in itertools.product(range(sizes[first]), range(sizes[second])):
        chosen, period = {first: i, second: j}, 1
        for axis in rest:
            chosen[axis] = (i + j // period) % sizes[axis]
            period *= sizes[axis]
        daily.add(tuple(chosen[axis] for axis in range(len(axes))))
    return [
        pytest.param(
            *(axis[index] for axis, index in zip(axes, indices, strict=True)),
            id="-".join(_name(axis[index]) for axis, index in zip(axes, indices, strict=True)),
            marks=() if indices in daily else pytest.mark.slow,
        )
        for indices in itertools.product(*map(range, sizes))
        if _products["whole"] or indices in daily
    ]


def thinned(axis: Sequence[Any], *others: Sequence[Any]) -> list[Any]:
    """Pairs of values of one axis, with the others: daily the equal ones and those with the first value, in turns."""
    cases = []
    for i, j in itertools.product(range(len(axis)), repeat=2):
        is_daily = i == j or 0 in (i, j)
        for turn, other in enumerate(itertools.product(*others)):
            now = is_daily and (len(others) == 0 or (i + j) % math.prod(map(len, others)) == turn)
            if not (now or _products["whole"]):
                continue
            values = (axis[i], axis[j], *other)
            cases.append(pytest.param(*values, id="-".join(map(_name, values)), marks=() if now else pytest.mark.slow))
    return cases


def _name(value: Any) -> str:
    return getattr(value, "__name__", str(value)).removeprefix("torch.")
