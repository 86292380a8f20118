"""The rows of the benchmark tables, as they are printed and stored as JSON."""

from typing import TypedDict


class OpRow(TypedDict):
    """The times of one op; ratios are of medians."""

    op: str
    case: str
    megabytes: float
    milliseconds: float
    spread: float
    times_eager: float
    times_read: float | None
    difference: float
    copy_bandwidth_share: float | None


class MethodRow(TypedDict):
    """One contestant of one method; None instead of times for a contestant that was not timed."""

    model: str
    batch: int
    method: str
    case: str
    tool: str
    setting: str
    milliseconds: float | None
    spread: float | None
    times_forward: float | None
    difference: float | None
    refused: str
    forward_milliseconds: float
    rounds: int
    note: str
