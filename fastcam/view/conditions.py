"""Filters of rows: columns and operators that are known, values that are bound, nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind = Literal["text", "number", "truth"]
Columns: TypeAlias = Mapping[str, Kind]

# The columns that every table has, with the kinds of their values.
COLUMNS: Columns = {
    "image_id": "text",
    "label": "text",
    "target": "number",
    "target_name": "text",
    "predicted": "number",
    "predicted_name": "text",
    "is_right": "truth",
    "score": "number",
    "confidence": "number",
    "entropy": "number",
    "disagreement": "number",
    "detection": "number",
    "method": "text",
    "layer": "text",
    "status": "text",
    "store": "number",
    "tag": "number",
}
OF_MAPS = ("entropy", "disagreement")  # the columns for which all maps are read
_OPERATORS: dict[str, tuple[str, frozenset[Kind]]] = {
    "is": ("{} = ?", frozenset(("text", "number", "truth"))),
    "is not": ("{} IS DISTINCT FROM ?", frozenset(("text", "number", "truth"))),
    "contains": ("contains(lower({}), lower(?))", frozenset(("text",))),
    "at least": ("{} >= ?", frozenset(("number",))),
    "at most": ("{} <= ?", frozenset(("number",))),
    "is missing": ("{} IS NULL", frozenset(("text", "number", "truth"))),
    "is there": ("{} IS NOT NULL", frozenset(("text", "number", "truth"))),
}
OPERATORS: dict[str, list[str]] = {
    kind: [name for name, (_, kinds) in _OPERATORS.items() if kind in kinds] for kind in ("text", "number", "truth")
}
_TYPES: dict[Kind, type | tuple[type, ...]] = {"text": str, "number": (int, float), "truth": bool}
_WITHOUT_VALUE = ("is missing", "is there")
MOST = 20  # conditions at a time
LONGEST = 1000  # characters of a text


@dataclass(frozen=True)
class Condition:
    """One condition on a column.

    Attributes:
        column: of ``columns``.
        operator: of :data:`OPERATORS` of its kind.
        value: that it is compared with; None for "is missing" and "is there".
        columns: that there are.

    Raises:
        ValueError: for anything else.
    """

    column: str
    operator: str
    value: str | float | bool | None = None
    columns: Columns = field(default_factory=lambda: COLUMNS, repr=False, compare=False)

    def __post_init__(self) -> None:
        kind = self.columns.get(self.column) if isinstance(self.column, str) else None
        if kind is None:
            raise ValueError(f"a condition is on one of {', '.join(self.columns)}; got {str(self.column)[:50]!r}")
        if self.operator not in OPERATORS[kind]:
            raise ValueError(
                f"{self.column} is compared by {', '.join(OPERATORS[kind])}; got {str(self.operator)[:50]!r}"
            )
        if self.operator in _WITHOUT_VALUE:
            if self.value is not None:
                raise ValueError(f"{self.operator!r} takes no value")
            return
        is_truth = isinstance(self.value, bool)
        if not isinstance(self.value, _TYPES[kind]) or is_truth != (kind == "truth"):
            raise ValueError(f"{self.column} is compared with a {kind}, got {str(self.value)[:50]!r}")
        if isinstance(self.value, str) and len(self.value) > LONGEST:
            raise ValueError(f"a text has at most {LONGEST} characters, got {len(self.value)}")


def read_conditions(values: object, columns: Columns = COLUMNS) -> list[Condition]:
    """Return the conditions on columns in a list of objects with "column", "operator" and perhaps "value".

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(values, list) or len(values) > MOST:
        raise ValueError(f"conditions are a list of at most {MOST}")
    found = []
    for each in values:
        if not isinstance(each, Mapping) or not set(each) <= {"column", "operator", "value"}:
            raise ValueError("a condition has a column, an operator and perhaps a value")
        found.append(Condition(each.get("column", ""), each.get("operator", ""), each.get("value"), columns))
    return found


def where(conditions: Sequence[Condition]) -> tuple[str, list[str | float | bool]]:
    """Return the text of a WHERE clause, empty without conditions, and the values that are bound to it."""
    if not conditions:
        return "", []
    texts = [_OPERATORS[each.operator][0].format(f'"{each.column}"') for each in conditions]
    return "WHERE " + " AND ".join(texts), [each.value for each in conditions if each.value is not None]
