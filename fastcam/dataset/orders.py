"""Orders of shards, which a driver sends to other processes, and the answers to them."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TypedDict

from fastcam.dataset.attempts import ProgressFile, TrackedSource
from fastcam.dataset.records import Commit, JsonObject, Span
from fastcam.dataset.runner import Runner
from fastcam.dataset.signals import InterruptedRunError
from fastcam.dataset.sources.sent import SentFiles
from fastcam.dataset.stages import Stages
from fastcam.model.cancellation import stop_event


class Order(TypedDict):
    """Shards for a process to make, sent as JSON.

    Attributes:
        spans: [start, stop] of each shard.
        one_by_one: whether to make its images one by one; then there is one shard.
        lethal: positions of images to skip.
        names: of each span's images, where the process does not have the listing; see :mod:`.sources.sent`.
    """

    spans: list[list[int]]
    one_by_one: bool
    lethal: list[int]
    names: list[str]


def answers_of(order: Order, runner: Callable[[], Runner], place: str) -> Iterator[JsonObject]:
    """Yield an answer for each shard of an order: its commit record and the stages of the process so far, or the error.

    A process that is asked to stop yields no more: others make its shards.
    """
    try:
        own = runner()
        for commit in _make(order, own):
            stages = {"process": f"{place}, {os.getpid()}", "stages": asdict(own.progress.stages)}
            yield {"commit": asdict(commit), **stages}
    except InterruptedRunError:
        return
    except Exception as error:
        reason = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
        yield {"error": reason, "is_os_error": isinstance(error, OSError), "place": place}


def read_answer(answer: JsonObject) -> tuple[Commit, str, Stages]:
    """Return the commit record of an answer, the process that it comes from, and where its time went so far.

    Raises:
        OSError, RuntimeError: with the error of the process.
    """
    if "error" in answer:
        raise (OSError if answer["is_os_error"] else RuntimeError)(f"{answer['place']}: {answer['error']}")
    return Commit(**answer["commit"]), answer["process"], Stages(**answer["stages"])


def _make(order: Order, runner: Runner) -> Iterator[Commit]:
    if isinstance(runner.source, SentFiles):
        runner.source.receive({start: text for (start, _), text in zip(order["spans"], order["names"], strict=True)})
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
        runner = runner.one_by_one(source)
    with stop_event() as stop:
        yield from runner.make(missing, stop)
