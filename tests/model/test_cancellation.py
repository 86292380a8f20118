"""Cancellation between the blocks of the copies."""

import pytest
import torch

from fastcam.model.batching import Batches
from fastcam.model.cancellation import cancelled_by, raise_if_cancelled
from fastcam.model.progress import ProgressReporter


class StopError(Exception):
    pass


def test_no_block_is_begun_after_the_check_raises():
    done = []

    def check():
        if len(done) == 3:
            raise StopError

    batches = Batches(2, torch.device("cpu"), ProgressReporter())
    with cancelled_by(check), pytest.raises(StopError):
        list(batches.each(1, 10, lambda block: done.append(block.variants) or torch.zeros(1)))
    assert done == [range(0, 2), range(2, 4), range(4, 6)]
    raise_if_cancelled()  # the check is gone with its context
    assert len(list(batches.each(1, 10, len))) == 5
