"""What stands in an opened artefact for the modules and values of the model it was made from."""

from torch import Tensor, nn

# The classes whose values are not what one wants to look at, and those that tell maps from tokens.
_KINDS: dict[str, type[nn.Module]] = {
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d,
    "avg_pool2d": nn.AvgPool2d,
    "dropout": nn.Dropout,
    "flatten": nn.Flatten,
    "layer_norm": nn.LayerNorm,
    "linear": nn.Linear,
}


class Value(nn.Module):
    """Returns a value that no submodule returned, as it is, so that it can be a target layer.

    Args:
        operation: what computed it, such as "conv2d".
    """

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation = operation
        self.stands_for = _KINDS.get(operation.removesuffix("_").split(".")[0])

    def forward(self, value: Tensor) -> Tensor:
        """The value."""
        return value

    def extra_repr(self) -> str:
        """What computed the value."""
        return self.operation


def as_name(text: str) -> str:
    """A name of an artefact's value as one of a module, which holds no dots."""
    return text.replace(".", "_")
