"""Orders of shards, which a driver sends to other processes, and the answers to them."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TypedDict

from fastcam.dataset.attempts import ProgressFile, TrackedSource
from fastcam.dataset.records import Commit, JsonObject, Span
from fastcam.dataset.runner import Runner
from fastcam.dataset.signals import InterruptedRunError
from fastcam.model.cancellation import stop_event


class Order(TypedDict):
    """Shards for a process to make, sent as JSON.

    Attributes:
        spans: [start, stop] of each shard.
        one_by_one: whether to make its images one by one; then there is one shard.
        lethal: positions of images to skip.
    """

    spans: list[list[int]]
    one_by_one: bool
    lethal: list[int]


def answers_of(order: Order, runner: Callable[[], Runner], place: str) -> Iterator[JsonObject]:
    """Yield an answer for each shard of an order: its commit record, or the error and where it happened.

    A process that is asked to stop yields no more: others make its shards.
    """
    try:
        for commit in _make(order, runner()):
            yield asdict(commit)
    except InterruptedRunError:
        return
    except Exception as error:
        reason = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
        yield {"error": reason, "is_os_error": isinstance(error, OSError), "place": place}


def read_answer(answer: JsonObject) -> Commit:
    """Return the commit record of an answer.

    Raises:
        OSError, RuntimeError: with the error of the process.
    """
    if "error" in answer:
        raise (OSError if answer["is_os_error"] else RuntimeError)(f"{answer['place']}: {answer['error']}")
    return Commit(**answer)


def _make(order: Order, runner: Runner) -> Iterator[Commit]:
    missing = []
    for span in (Span(*bounds) for bounds in order["spans"]):
        if runner.store.is_done(span):  # committed by a process that died before it could answer
            yield runner.store.read_commit(span)
        else:
            missing.append(span)
    if order["one_by_one"]:
        (bounds,) = order["spans"]
        progress = ProgressFile(runner.store.folder, Span(*bounds))
        source = TrackedSource(runner.source, progress, order["lethal"])
        runner = replace(runner, source=source, batch_size=1, workers=0)
    with stop_event() as stop:
        yield from runner.make(missing, stop)
