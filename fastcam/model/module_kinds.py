"""What the class of a module says about its output."""

from torch import nn

from fastcam.model import quantised
from fastcam.model.batch_norms import is_frozen_class

# Modules that only resample or pass on the output of another layer.
_PASSIVE = (
    nn.Identity,
    nn.Flatten,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
)
# Modules whose outputs are (N, C, *S) by definition.
_CHANNELS_SECOND = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.GroupNorm,
)


def kind_of(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module, or of the one that it stands for in an opened artefact or a quantised model."""
    return getattr(module, "stands_for", None) or quantised.float_class(module) or type(module)


def is_passive(module: nn.Module) -> bool:
    """Whether a module, or all that it consists of, only passes on or resamples."""
    children = list(module.children())
    if not children or any(True for _ in module.parameters(recurse=False)):
        return issubclass(kind_of(module), _PASSIVE)
    return all(map(is_passive, children))


def has_channels_second(module: nn.Module) -> bool:
    """Whether a module's output is (N, C, *S) by definition."""
    return _is_channels_second(kind_of(module))


def has_channels_last(module: nn.Module) -> bool:
    """Whether a module's output is (N, ..., C) by definition."""
    return issubclass(kind_of(module), nn.LayerNorm | nn.Linear)


def has_token_norm(module: nn.Module) -> bool:
    """Whether a module is a norm over the channels of tokens, or contains one, as the blocks of transformers do."""
    return any(_is_token_norm(each) for each in module.modules())


def _is_token_norm(module: nn.Module) -> bool:
    kind = kind_of(module)
    return "norm" in kind.__name__.lower() and not _is_channels_second(kind)


def _is_channels_second(kind: type[nn.Module]) -> bool:
    return issubclass(kind, _CHANNELS_SECOND) or is_frozen_class(kind)
