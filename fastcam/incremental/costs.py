"""What operations cost on a device: this decides between patches and whole passes, and which windows run together."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Costs in multiply-adds of a convolution.

    Attributes:
        call: of an operation on whole images, however small.
        step: of an operation on patches, however small: what is gathered for it, and planned on the host.
        constant: of reading one weight.
        element: of writing one element.
    """

    call: float
    step: float
    constant: float
    element: float


PROCESSOR = Costs(2e7, 2e7, 40.0, 20.0)  # of many, by `python -m benchmarks.occlusion`
