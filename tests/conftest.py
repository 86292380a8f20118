"""Fixtures of all tests."""

from collections.abc import Iterator

import pytest
import torch

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        name = item.path.as_posix()
        return next((index for index, longest in enumerate(LONGEST) if name.endswith(longest)), len(LONGEST))

    items.sort(key=rank)


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
