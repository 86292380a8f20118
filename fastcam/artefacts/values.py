"""The modules that stand for intermediate values in opened artefacts."""

from torch import Tensor, nn

# Operations that the search for a target layer must recognise, by the module class that does the same.
_MODULE_CLASSES: dict[str, type[nn.Module]] = {
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d,
    "avg_pool2d": nn.AvgPool2d,
    "dropout": nn.Dropout,
    "flatten": nn.Flatten,
    "layer_norm": nn.LayerNorm,
    "linear": nn.Linear,
}


class Value(nn.Module):
    """An identity module for a value that no submodule returned, so that it can be a target layer.

    Args:
        operation: name of the operation that computed it, such as "conv2d".
    """

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.training = False  # of a model that is in evaluation mode, or it would not have been opened
        self.operation = operation
        self.stands_for = _MODULE_CLASSES.get(operation.removesuffix("_").split(".")[0])

    def forward(self, value: Tensor) -> Tensor:
        """Return the value unchanged."""
        return value

    def extra_repr(self) -> str:
        """The operation that computed the value."""
        return self.operation


def as_name(text: str) -> str:
    """Return the name of an artefact's value as the name of a module, which holds no dots."""
    return text.replace(".", "_")
