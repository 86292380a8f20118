"""Docstrings as the site needs them: roles become code, and examples are fenced."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`[.~]?([^`]+)`")
EXAMPLE = re.compile(r"(?:^[ \t]*(?:>>>|\.\.\.).*\n?)+", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Changes every docstring when its object is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None and "```pycon" not in obj.docstring.value:
            obj.docstring.value = EXAMPLE.sub(fenced, ROLE.sub(r"`\1`", obj.docstring.value))

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        self.on_object(obj=pkg)


def fenced(match: re.Match[str]) -> str:
    indent = re.match(r"[ \t]*", match[0])[0]
    return f"{indent}```pycon\n{match[0].rstrip()}\n{indent}```\n"
