"""Names of classes in titles."""

from collections.abc import Mapping, Sequence

ClassNames = Sequence[str] | Mapping[int, str]


def check_class_names(names: ClassNames | None) -> None:
    """Raise for names that are no sequence or mapping; a string is a sequence of letters, never of names."""
    if names is not None and (isinstance(names, str) or not isinstance(names, Sequence | Mapping)):
        raise TypeError(f"`class_names` must be a sequence or a mapping from index to name, got {type(names).__name__}")


def named(title: str, target: int | None, names: ClassNames | None) -> str:
    """Return a title with the name of its class instead of "class 7"; classes without a name keep the number."""
    check_class_names(names)
    if names is None or target is None:
        return title
    known = target in names if isinstance(names, Mapping) else 0 <= target < len(names)
    number = f"class {target}:"
    return title.replace(number, f"{names[target]}:", 1) if known and title.startswith(number) else title
