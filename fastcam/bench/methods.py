"""Time one method in fastcam and in every other tool that has it, compared with a bare forward pass.

All get the same weights and images, and a copy of the model each. Their results must agree before they are timed; then
they are called alternately, slow ones less often.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

import fastcam
from fastcam.bench.contest import (
    EPSILON_TOLERANCE,
    KINK_TOLERANCE,
    SOFT_SPREAD,
    Case,
    Contestant,
    Entrant,
    Setting,
    bare_forward,
    with_fastcam,
)
from fastcam.bench.peers import installed
from fastcam.bench.rows import MethodRow
from fastcam.bench.timing import Patience, Synchronize, Timing, interleave, synchronizer, time_call

# Fastcam's own entrants; the first is the reference for all others.
OWN: dict[str, Entrant] = {"fastcam": with_fastcam}
REFERENCE = next(iter(OWN))
_RECHECK_FACTOR = 4.0  # first calls up to this factor above the limit for timing once are repeated


class RefusedError(Exception):
    """A contestant is not timed; the message gives the reason.

    Attributes:
        difference: from fastcam, as a share of the range, if that is the reason.
    """

    def __init__(self, reason: str, difference: float | None = None) -> None:
        super().__init__(reason)
        self.difference = difference


@dataclass(frozen=True)
class _Checked:
    """A contestant that agrees, the seconds of a call, and its difference from fastcam; None for fastcam itself."""

    contestant: Contestant
    seconds: float
    difference: float | None = None


def every_case(size: tuple[int, int], only: tuple[str, ...] = ()) -> list[Case]:
    """Return all methods, or those named, with options for which one explanation takes seconds at most.

    Args:
        size: height and width of the images.
        only: names of methods; empty for all.
    """
    window = max(1, min(size) // 7)
    with_options = [
        Case("eigen_cam", {"relu": True}),  # as in pytorch-grad-cam; signed by definition
        Case("eigen_grad_cam", {"relu": True}),
        Case("grad_cam_pp", limit=EPSILON_TOLERANCE),
        Case("score_cam", spread=SOFT_SPREAD),
        Case("rise", {"masks": 100}, "100 masks"),
        Case("occlusion", {"window": window, "stride": window}, f"{window} x {window}"),
        Case("integrated_gradients", {"steps": 20}, "20 steps", KINK_TOLERANCE),
        Case("smooth_grad", {"samples": 10, "level": 0.15}, "10 samples", KINK_TOLERANCE),
        Case("full_grad", {"rescale": "channel"}, "by channel", KINK_TOLERANCE),
    ]
    cases = {case.method: case for case in with_options}
    names = [method.name for method in fastcam.list_methods() if not only or method.name in only]
    return [cases.get(name, Case(name)) for name in names]


def measure(case: Case, at: Setting, patience: Patience, more: Mapping[str, Entrant] | None = None) -> list[MethodRow]:
    """Check that all contestants agree, then time them alternately.

    Args:
        case: the method.
        at: model and images.
        patience: the number of samples of each.
        more: further entrants of fastcam, by name.

    Returns:
        A row per contestant; one that was not timed has None for its milliseconds and the reason in "refused".
    """
    at = at.with_spread(case.spread)
    synchronize = synchronizer(at.images.device)
    entered = _enter(case, at, OWN | dict(more or {}), patience, synchronize)
    forward = bare_forward(at.with_copy().model, at.images)
    forward()
    checked = {tool: result for tool, result in entered.items() if isinstance(result, _Checked)}
    alone = {"": _Checked(Contestant(forward), time_call(forward, synchronize)[0])}
    timings, turns = _timings(alone | checked, patience, synchronize)
    base = timings[""].median
    return [
        MethodRow(
            model=at.name,
            batch=len(at.images),
            method=case.method,
            case=case.label,
            tool=tool,
            setting=result.contestant.setting if isinstance(result, _Checked) else "",
            milliseconds=timings[tool].median * 1e3 if tool in timings else None,
            spread=timings[tool].spread * 1e3 if tool in timings else None,
            times_forward=timings[tool].median / base if tool in timings else None,
            difference=result.difference,
            refused=str(result) if isinstance(result, RefusedError) else "",
            forward_milliseconds=base * 1e3,
            rounds=turns.get(tool, 0),
            note=case.note,
        )
        for tool, result in entered.items()
    ]


def _enter(
    case: Case, at: Setting, own: dict[str, Entrant], patience: Patience, synchronize: Synchronize
) -> dict[str, _Checked | RefusedError]:
    """Try all tools that have the method, fastcam first; only fastcam where it cannot explain the model."""
    entrants = own | {
        tool.name: tool.entrants[case.method]
        for tool in installed()
        if case.method in tool.entrants and tool.name not in case.without
    }
    entered: dict[str, _Checked | RefusedError] = {}
    reference: Tensor | None = None
    for tool, enter in entrants.items():
        try:
            contestant, seconds, maps = _try(enter, case, at, patience, synchronize)
            limit = case.limit if contestant.limit is None else contestant.limit
            difference = None if reference is None else _check_agreement(reference, maps, limit)
            entered[tool] = _Checked(contestant, seconds, difference)
            reference = maps if reference is None else reference
        except RefusedError as error:
            entered[tool] = error
            if tool == REFERENCE:
                break
    return entered


def _try(
    enter: Entrant, case: Case, at: Setting, patience: Patience, synchronize: Synchronize
) -> tuple[Contestant, float, Tensor]:
    """Return a tool's fastest contestant, the seconds of a call, and its result."""
    try:
        contestant = _fastest(enter(case, at), synchronize)
        with contestant.patch():
            seconds, maps = time_call(contestant.call, synchronize)
        if patience.once < seconds < _RECHECK_FACTOR * patience.once:  # a first call is slower, and would decide here
            seconds, _ = time_call(contestant.call, synchronize)
        return contestant, seconds, contestant.finish(maps).to(at.images.device)
    except Exception as error:  # other tools may raise anything; the remaining ones are still timed
        raise RefusedError(" ".join(str(error).split()) or type(error).__name__) from error


def _check_agreement(reference: Tensor, maps: Tensor, limit: float) -> float:
    """Return the difference from the reference; refuse one above the limit."""
    difference = largest_difference(reference, maps)
    if not difference <= limit:
        reason = f"differs from fastcam by {difference:.1e} of the range, more than {limit:.0e}"
        raise RefusedError(reason, difference)
    return difference


def _fastest(contestants: Sequence[Contestant], synchronize: Synchronize) -> Contestant:
    if len(contestants) == 1:
        return contestants[0]
    contestants[0].call()  # the first call of all is slower
    return min(contestants, key=lambda contestant: time_call(contestant.call, synchronize)[0])


def largest_difference(reference: Tensor, maps: Tensor) -> float:
    """Return the largest difference over all images, as a share of the range of the reference map.

    Raises:
        RefusedError: if the shapes differ, or a reference map is constant.
    """
    if reference.shape != maps.shape:
        raise RefusedError(f"returns {tuple(maps.shape)} where fastcam returns {tuple(reference.shape)}")
    reference, maps = reference.double().flatten(1), maps.double().flatten(1)
    low, high = reference.aminmax(dim=1)
    if not (high > low).all():
        raise RefusedError("cannot be compared: a map of fastcam has no range")
    return ((maps - reference).abs().amax(1) / (high - low)).max().item()


def _timings(
    checked: dict[str, _Checked], patience: Patience, synchronize: Synchronize
) -> tuple[dict[str, Timing], dict[str, int]]:
    """Return the times and numbers of samples; for very slow contestants of the call that was checked."""
    turns = {name: patience.turns(result.seconds) for name, result in checked.items()}
    turns[""] = max(patience.fewest, turns[""])
    calls = {name: result.contestant.call for name, result in checked.items() if turns[name] > 1}
    timings = interleave(calls, {name: turns[name] for name in calls}, finish=synchronize, warm=True)
    once = {name: Timing(result.seconds, 0.0) for name, result in checked.items() if name not in calls}
    return timings | once, turns
