"""Listings that travel to other processes a shard at a time."""

import pickle

import pytest

from fastcam.dataset import select
from fastcam.dataset.attempts import ShardAttempts
from fastcam.dataset.devices import LocalDriver
from fastcam.dataset.job_arguments import make_job
from fastcam.dataset.sources import source_of
from tests.dataset.small import folder, network


@pytest.mark.parametrize("kind", ["list", "chosen", "shuffled", "folder"])
def test_names_travel_with_their_orders(tmp_path, kind):
    """And no others: what a process gets at first does not grow with the listing."""

    def source(count):
        if kind == "folder":
            return source_of(folder(tmp_path / str(count), count))
        names = [str(tmp_path / f"\udcff{index * 7919 % 1000003}.jpg") for index in range(count)]
        return {
            "list": lambda: source_of(names),
            "chosen": lambda: select(names, sample=count // 2),
            "shuffled": lambda: select(names, shuffle_seed=1),
        }[kind]()

    sizes = []
    for count in (12, 24 if kind == "folder" else 20_000):
        whole = source(count)
        job = make_job(whole, network(), tmp_path / "out", shard_size=5)
        driver = LocalDriver(job, None, None, 2, ["cpu", "cpu"])
        sizes.append(len(pickle.dumps(driver.sent_job)))
        received = pickle.loads(pickle.dumps(driver.sent_job)).source
        assert len(received) == len(whole)
        first = next(whole.items(0, 1))
        assert described(received.items(0, 1)) == described([first])  # before any order, to see whether it is there
        for order in driver._orders([ShardAttempts(span) for span in job.spans()[-9:]]):
            received.receive({start: text for (start, _), text in zip(order["spans"], order["names"], strict=True)})
            for start, stop in order["spans"]:
                assert described(received.items(start, stop)) == described(whole.items(start, stop))
        with pytest.raises(KeyError):
            list(received.items(1, 2))
    assert sizes[1] - sizes[0] < 50


def described(items):
    return [(item.id, item.path, item.label) for item in items]
