"""What the engine found out, or had to guess, about a model: said with the result, and refused if it must not guess."""

import sys
import warnings

_warned: set[str] = set()  # once a process


class Notes:
    """Collects what is said about one explanation.

    Args:
        strict: whether a guess is an error.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        """Add what was found and checked."""
        if text not in self.texts:
            self.texts.append(text)

    def guess(self, text: str) -> None:
        """Add an assumption that could not be checked, and warn of it once a process.

        Raises:
            ValueError: with the text, if guesses are not allowed.
        """
        if self.strict:
            raise ValueError(text)
        self.say(text)
        if text not in _warned:
            _warned.add(text)
            warn(text)


def warn(text: str) -> None:
    """Issue a UserWarning that points to the caller of the package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "fastcam":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level)
