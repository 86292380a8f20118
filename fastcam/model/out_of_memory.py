"""Memory that runs out: the errors that say so, and memory kept for speed alone, which is given up then."""

import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

Result = TypeVar("Result")

# Messages of torch's allocator, the C++ library and oneDNN when host memory runs out.
MESSAGES = (
    "can't allocate memory",
    "bad_alloc",
    '"aten::new_empty"',  # of our own ops with torch 2.10, which says no more
    "could not create a memory object",
    "could not create a primitive",
    "could not execute a primitive",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that device or host memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return any(message in text for message in MESSAGES)


class Keeper(Protocol):
    """Keeps memory for speed."""

    def give_up(self) -> bool:
        """Give the memory up; returns whether there was any."""


_keepers: "weakref.WeakSet[Keeper]" = weakref.WeakSet()


def add_keeper(keeper: Keeper) -> None:
    """Have a keeper asked for its memory when there is no other, as long as it lives."""
    _keepers.add(keeper)


def with_spare_memory(run: Callable[[], Result]) -> Result:
    """Return what a function returns; if memory runs out, in its second run, with all that was kept for speed.

    Raises:
        Exception: of the function.
    """
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or not sum(keeper.give_up() for keeper in list(_keepers)):
            raise
    return run()
