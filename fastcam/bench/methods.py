"""One method in the hands of fastcam and of every tool that has it, beside a bare forward pass.

All get the same weights and images, each a copy of the model to itself. What they return must agree before anything is
timed; then they are timed in turns, the slow ones less often.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import fastcam
from fastcam.bench.contest import EPSILONS, KINKS, SOFT, Case, Contestant, Entrant, Setting, bare_forward, with_fastcam
from fastcam.bench.peers import installed
from fastcam.bench.timing import Patience, Timing, interleave, timed, waiting

# Our own ways to explain; the first is what all others are compared with.
OWN: dict[str, Entrant] = {"fastcam": with_fastcam}
REFERENCE = next(iter(OWN))
_CLOSE = 4.0  # times what is timed once
Wait = Callable[[], Any]  # until the device has done everything


class RefusedError(Exception):
    """A contestant that is not timed, and why.

    Attributes:
        difference: from fastcam, as a share of the range, where that is why.
    """

    def __init__(self, reason: str, difference: float | None = None) -> None:
        super().__init__(reason)
        self.difference = difference


@dataclass(frozen=True)
class _Checked:
    """A contestant that agrees, the seconds of a call, and its difference from fastcam: none of fastcam's own."""

    contestant: Contestant
    seconds: float
    difference: float | None = None


def every_case(size: tuple[int, int], only: tuple[str, ...] = ()) -> list[Case]:
    """All methods, or those named, with options for which one explanation takes seconds at most.

    Args:
        size: height and width of the images.
        only: names of methods; empty for all.
    """
    window = max(1, min(size) // 7)
    special = [
        Case("eigen_cam", {"relu": True}),  # as in pytorch-grad-cam; signed by definition
        Case("eigen_grad_cam", {"relu": True}),
        Case("grad_cam_pp", limit=EPSILONS),
        Case("score_cam", spread=SOFT),
        Case("rise", {"masks": 100}, "100 masks"),
        Case("occlusion", {"window": window, "stride": window}, f"{window} x {window}"),
        Case("integrated_gradients", {"steps": 20}, "20 steps", KINKS),
        Case("smooth_grad", {"samples": 10, "level": 0.15}, "10 samples", KINKS),
        Case("full_grad", {"rescale": "channel"}, "by channel", KINKS),
    ]
    named = {case.method: case for case in special}
    names = [method.name for method in fastcam.list_methods() if not only or method.name in only]
    return [named.get(name, Case(name)) for name in names]


def measure(
    case: Case, at: Setting, patience: Patience, more: Mapping[str, Entrant] | None = None
) -> list[dict[str, Any]]:
    """Agreement first, then everybody in turns.

    Args:
        case: the method.
        at: model and images.
        patience: how often each is called.
        more: other ways of our own to explain, by name.

    Returns:
        A row for each contestant, to print and to keep; one that was not timed has None for its milliseconds and says
        why in "refused".
    """
    at = at.with_spread(case.spread)
    wait = waiting(at.images.device)
    entered = _entered(case, at, OWN | dict(more or {}), patience, wait)
    forward = bare_forward(at.apart().model, at.images)
    forward()
    checked = {tool: each for tool, each in entered.items() if isinstance(each, _Checked)}
    alone = {"": _Checked(Contestant(forward), timed(forward, wait)[0])}
    timings, turns = _timings(alone | checked, patience, wait)
    base = timings[""].median
    rows = []
    for tool, each in entered.items():
        common = {"model": at.name, "batch": len(at.images), "method": case.method, "case": case.label, "tool": tool}
        measured = _unmeasured(each) if isinstance(each, RefusedError) else _measured(each, timings[tool], base)
        rows.append(
            common | measured | {"forward_milliseconds": base * 1e3, "rounds": turns.get(tool, 0), "note": case.note}
        )
    return rows


def _measured(each: _Checked, timing: Timing, forward: float) -> dict[str, Any]:
    return {
        "setting": each.contestant.setting,
        "milliseconds": timing.median * 1e3,
        "spread": timing.spread * 1e3,
        "times_forward": timing.median / forward,
        "difference": each.difference,
        "refused": "",
    }


def _unmeasured(why: RefusedError) -> dict[str, Any]:
    nothing = dict.fromkeys(("milliseconds", "spread", "times_forward"))
    return {"setting": "", **nothing, "difference": why.difference, "refused": str(why)}


def _entered(
    case: Case, at: Setting, own: dict[str, Entrant], patience: Patience, wait: Wait
) -> dict[str, _Checked | RefusedError]:
    """Everybody who has the method, fastcam first; nobody else where fastcam cannot explain the model."""
    entrants = own | {
        tool.name: tool.entrants[case.method]
        for tool in installed()
        if case.method in tool.entrants and tool.name not in case.without
    }
    entered: dict[str, _Checked | RefusedError] = {}
    reference: Tensor | None = None
    for tool, enter in entrants.items():
        try:
            contestant, seconds, found = _tried(enter, case, at, patience, wait)
            limit = case.limit if contestant.limit is None else contestant.limit
            difference = None if reference is None else _agreed(reference, found, limit)
            entered[tool] = _Checked(contestant, seconds, difference)
            reference = found if reference is None else reference
        except RefusedError as error:
            entered[tool] = error
            if tool == REFERENCE:
                break
    return entered


def _tried(enter: Entrant, case: Case, at: Setting, patience: Patience, wait: Wait) -> tuple[Contestant, float, Tensor]:
    """A tool's fastest contestant, the seconds of a call, and what it returned."""
    try:
        contestant = _fastest(enter(case, at), wait)
        with contestant.alike():
            seconds, found = timed(contestant.call, wait)
        if patience.once < seconds < _CLOSE * patience.once:  # a first call is slower, and here it would decide
            seconds, _ = timed(contestant.call, wait)
        return contestant, seconds, contestant.finish(found).to(at.images.device)
    except Exception as error:  # another tool may raise anything, and the rest goes on
        raise RefusedError(" ".join(str(error).split()) or type(error).__name__) from error


def _agreed(reference: Tensor, found: Tensor, limit: float) -> float:
    difference = largest_difference(reference, found)
    if not difference <= limit:
        reason = f"differs from fastcam by {difference:.1e} of the range, more than {limit:.0e}"
        raise RefusedError(reason, difference)
    return difference


def _fastest(contestants: Sequence[Contestant], wait: Wait) -> Contestant:
    if len(contestants) == 1:
        return contestants[0]
    contestants[0].call()  # the first call of all is slower
    return min(contestants, key=lambda each: timed(each.call, wait)[0])


def largest_difference(reference: Tensor, found: Tensor) -> float:
    """The largest, as a share of the range, over the images.

    Raises:
        RefusedError: where nothing can be compared: other shapes, or a map without a range.
    """
    if reference.shape != found.shape:
        raise RefusedError(f"returns {tuple(found.shape)} where fastcam returns {tuple(reference.shape)}")
    reference, found = reference.double().flatten(1), found.double().flatten(1)
    low, high = reference.aminmax(dim=1)
    if not (high > low).all():
        raise RefusedError("cannot be compared: a map of fastcam has no range")
    return ((found - reference).abs().amax(1) / (high - low)).max().item()


def _timings(checked: dict[str, _Checked], patience: Patience, wait: Wait) -> tuple[dict[str, Timing], dict[str, int]]:
    """In turns, and how often each was called; for what is very slow, the call that was checked."""
    turns = {name: patience.turns(each.seconds) for name, each in checked.items()}
    turns[""] = max(patience.fewest, turns[""])
    calls = {name: each.contestant.call for name, each in checked.items() if turns[name] > 1}
    timings = interleave(calls, {name: turns[name] for name in calls}, finish=wait, warm=True)
    once = {name: Timing(each.seconds, 0.0) for name, each in checked.items() if name not in calls}
    return timings | once, turns
