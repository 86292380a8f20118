"""Fixtures of all tests."""

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from tests.support import tiers

# The files that take longest, first: two workers then end together.
LONGEST = [
    "dataset/test_cluster.py",
    "ops/test_compilers.py",
    "incremental/test_networks.py",
    "compat/test_pytorch_grad_cam.py",
    "artefacts/test_networks.py",
    "ops/test_weighted_channel_sum.py",
    "dataset/test_durability.py",
    "integration/test_peers.py",
    "test_readme.py",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-in", type=int, default=1, metavar="N", help="run one in N cases of every test")


def pytest_configure(config: pytest.Config) -> None:
    tiers.choose(config.option.markexpr)


@pytest.hookimpl(trylast=True)  # of the cases that the markers leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _thin_out(config, items)

    def rank(item: pytest.Item) -> int:
        name = item.path.as_posix()
        return next((index for index, longest in enumerate(LONGEST) if name.endswith(longest)), len(LONGEST))

    items.sort(key=rank)


def _thin_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the first case of every test, and one in N of the others."""
    seen = Counter[str]()
    kept, others = [], []
    for item in items:
        test = item.nodeid.partition("[")[0]
        (others if seen[test] % config.getoption("--one-in") else kept).append(item)
        seen[test] += 1
    items[:] = kept
    config.hook.pytest_deselected(items=others)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny networks are slower on several threads, by far where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
