"""What the tests of Ray clusters run on the nodes and in drivers of their own."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

import fastcam.dataset
from tests.dataset.small import SETTINGS, network
from tests.support.conv_net import ConvNet


class Slow(ConvNet):
    """Takes a while over every batch, so that there is a middle in which something can happen."""

    seconds = 0.3

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return super().forward(images)


class Deadly(ConvNet):
    """Kills the process that shows it a white image, as a bug in a driver or too little memory does."""

    def forward(self, images: Tensor) -> Tensor:
        if (images.amin((1, 2, 3)) > 2).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


def as_kind(kind: type[ConvNet]) -> ConvNet:
    """The small network with another way of running."""
    model = network()
    model.__class__ = kind
    return model


def drive(source: Path, out: Path, address: str) -> None:
    """A driver."""
    torch.set_num_threads(1)
    fastcam.dataset.run(source, as_kind(Slow), out, ray=address, **SETTINGS)


if __name__ == "__main__":
    drive(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
