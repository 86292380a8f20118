"""The benchmark tables; needs rich."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from fastcam.bench.rows import MethodRow, OpRow


def op_table(rows: Sequence[OpRow], title: str = "Ops") -> Table:
    """Return the table of all ops, compared with eager PyTorch and the time of reading the input."""
    on_gpu = any(row["copy_bandwidth_share"] for row in rows)
    caption = "x read: in times of reading the input once, the floor of a reduction"
    table = Table("op", "on", title=title, caption=caption)
    for name in ("MB", "ms", "x faster than eager", "x read", *(["of copy speed"] if on_gpu else [])):
        table.add_column(name, justify="right")
    for row in rows:
        share = row["copy_bandwidth_share"]
        table.add_row(
            row["op"],
            row["case"],
            f"{row['megabytes']:.0f}",
            f"{row['milliseconds']:.2f}",
            f"{row['times_eager']:.1f}",
            "" if row["times_read"] is None else f"{row['times_read']:.2f}",
            *([f"{share:.0%}" if share else ""] if on_gpu else []),
        )
    return table


def method_table(rows: Sequence[MethodRow], title: str) -> Table:
    """Return the table of all methods by tool, in multiples of a bare forward pass."""
    caption = "+-: half the interquartile range; difference: from fastcam, as a share of the range"
    table = Table("method", "tool", title=title, caption=caption)
    for name in ("ms", "+-", "x forward"):
        table.add_column(name, justify="right")
    table.add_column("difference")
    last = ""
    for row in rows:
        method = row["method"] + (f", {row['case']}" if row["case"] else "")
        tool = row["tool"] + (f", {row['setting']}" if row["setting"] else "")
        table.add_row(method if method != last else "", tool, *_figures(row))
        last = method
    return table


def _figures(row: MethodRow) -> list[str]:
    milliseconds, spread, times_forward = row["milliseconds"], row["spread"], row["times_forward"]
    if milliseconds is None or spread is None or times_forward is None:
        return ["", "", "", "not timed" if row["difference"] is None else f"{row['difference']:.0e}: not timed"]
    return [
        f"{milliseconds:.1f}",
        f"{spread / 2:.1f}" if row["rounds"] > 1 else "once",
        f"{times_forward:.2f}",
        f"{row['difference']:.0e}" if row["difference"] is not None else escape(row["note"]),
    ]
