"""Groups of options that several commands take together: a dataclass for each subject, whose fields are the options."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from typer.models import OptionInfo


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes the fields of its groups as options of their own, under the headings of the groups.

    Args:
        command: a function whose parameters are annotated for typer, or with a dataclass whose fields are options.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters(hints[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = hints[name](**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    del flat.__wrapped__  # its signature is another one
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def first_given(*groups: Any, but: Sequence[str] = ()) -> str | None:
    """Return the first option of groups that is not what it is by default, as it is written; None if all are."""
    for group in groups:
        for field in fields(group):
            if field.name not in but and getattr(group, field.name) != field.default:
                return f"--{field.name.replace('_', '-')}"
    return None


def _parameters(group: type[Any]) -> Iterator[inspect.Parameter]:
    """Yield a parameter for every field of a group."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind, described = get_args(hints[field.name])
        shown: OptionInfo = copy(described)
        shown.rich_help_panel = group.heading
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=Annotated[kind, shown]
        )


def _default(field: "Field[Any]") -> object:
    return inspect.Parameter.empty if field.default is MISSING else field.default
