"""Settings of the op tests."""

import pytest

from tests.ops.op_tester import threads


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors gain nothing from threads; the tests of determinism set their own numbers."""
    with threads(1):
        yield
