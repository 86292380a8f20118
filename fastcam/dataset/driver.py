"""The driver of a run in several processes: it sends orders to them until all shards are committed."""

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fastcam.dataset.attempts import ProgressFile, ShardAttempts
from fastcam.dataset.job import Job
from fastcam.dataset.orders import Order, read_answer
from fastcam.dataset.records import JsonObject
from fastcam.dataset.runner import Progress, Report
from fastcam.dataset.sources.sent import SentFiles, names_between, text_of
from fastcam.dataset.stages import Stages
from fastcam.dataset.store import Store

MAX_SHARDS_PER_ORDER = 8  # a process loads the next shard of an order while it writes the last
MIN_ORDERS_PER_PROCESS = 4  # for an even load, where there are enough shards

_log = logging.getLogger(__name__)


@dataclass
class Driver:
    """The driver of one run.

    A shard on which a process died is retried, first alone, then image by image until the image in progress at each
    death is known; that image becomes a row with an error status.

    Attributes:
        job: the run.
        store: its folder.
        report: called after every commit.
        processes: maximum number of processes.
    """

    job: Job
    store: Store
    report: Report
    processes: int

    @functools.cached_property
    def sent_job(self) -> Job:
        """The job as the processes get it: without the names of all images, where they come with the orders."""
        files = SentFiles.of(self.job.source)
        return self.job if files is None else replace(self.job, source=files)

    def answers(self, orders: list[Order]) -> Iterator[JsonObject]:
        """Yield the answers of the processes; there are none for the shards of processes that died."""
        raise NotImplementedError

    def run(self) -> Progress:
        """Make the missing shards.

        Raises:
            OSError, RuntimeError: for an error of a process, or a shard that failed too often.
        """
        missing = {span: ShardAttempts(span) for span in self.job.missing_spans(self.store)}
        total = len(self.job.source)
        progress = Progress(total, total - sum(span.stop - span.start for span in missing))
        start, stages = time.monotonic(), dict[str, Stages]()
        while missing:
            for answer in self.answers(list(self._orders(list(missing.values())))):
                commit, process, so_far = read_answer(answer)
                stages[process] = so_far
                attempts = missing.pop(commit.span, None)
                if attempts is None:
                    continue
                ProgressFile(self.store.folder, attempts.span).clear()
                count = commit.stop - commit.start
                progress.done, progress.new = progress.done + count, progress.new + count
                progress.failed += commit.failed
                progress.stages = Stages.together(stages.values())
                progress.seconds, progress.commit = time.monotonic() - start, commit
                self.report(progress)
            for attempts in missing.values():
                _log.warning("the process or node that was making shard %s died; retrying", attempts.span.name)
                attempts.add_failure(self.store.folder)
        return progress

    def _orders(self, shards: list[ShardAttempts]) -> Iterator[Order]:
        """Yield orders of several shards each, then one order for each shard that failed before."""
        size = max(1, min(MAX_SHARDS_PER_ORDER, len(shards) // (MIN_ORDERS_PER_PROCESS * self.processes)))
        bounds = [[shard.span.start, shard.span.stop] for shard in shards if not shard.failures]
        for first in range(0, len(bounds), size):
            yield self._order(bounds[first : first + size])
        for shard in shards:
            if shard.failures:
                yield self._order([[shard.span.start, shard.span.stop]], shard.is_one_by_one, shard.lethal)

    def _order(self, spans: list[list[int]], one_by_one: bool = False, lethal: Sequence[int] = ()) -> Order:
        """Return an order, with the names of the images where the processes do not have them."""
        names = []
        if isinstance(self.sent_job.source, SentFiles):
            names = [text_of(names_between(self.job.source, start, stop)) for start, stop in spans]
        return {"spans": spans, "one_by_one": one_by_one, "lethal": list(lethal), "names": names}
