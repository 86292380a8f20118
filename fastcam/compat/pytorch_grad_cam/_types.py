"""Types of arguments and results."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[Any]
ReshapeTransform: TypeAlias = Callable[[Any], Tensor]  # from the output of a layer to (N, C, *s)
Target: TypeAlias = Callable[[Any], Tensor]  # from the model's output for one image to its score
Targets: TypeAlias = Sequence[Target]
