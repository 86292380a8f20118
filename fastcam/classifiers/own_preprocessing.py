"""The preprocessing that belongs to a model: timm's and torchvision's own, found by its name or on the model itself."""

from pathlib import Path
from typing import TypeAlias

from torch import nn

from fastcam import artefacts
from fastcam.classifiers import models
from fastcam.classifiers.preprocessing import Preprocessing

ModelLike: TypeAlias = nn.Module | models.Classifier | Preprocessing | str


def find_preprocessing(model: ModelLike) -> Preprocessing | None:
    """Return the preprocessing that the command line uses for a model; None where it is not known.

    Args:
        model: a model, "torchvision:NAME", "timm:NAME" or "package.module:factory", or a preprocessing itself.

    Raises:
        ValueError: for an unknown name, or a preprocessing that is not supported.
        TypeError: for anything else.
    """
    if isinstance(model, Preprocessing):
        return model
    if isinstance(model, models.Classifier):
        return model.preprocessing
    if isinstance(model, str):
        return None if Path(model).suffix in artefacts.SUFFIXES else models.load(model).preprocessing
    if isinstance(model, nn.Module):
        return _of_module(model)
    raise TypeError(
        "`model` must be a model, its name as 'torchvision:resnet18' or a fastcam.classifiers.Preprocessing, got "
        f"{type(model).__name__}"
    )


def _of_module(model: nn.Module) -> Preprocessing | None:
    own = getattr(model, "preprocessing", None)
    if isinstance(own, Preprocessing):
        return own
    children = dict(model.named_children())
    if children.keys() in ({"_orig_mod"}, {"module"}):  # of torch.compile and nn.DataParallel
        return _of_module(next(iter(children.values())))
    if isinstance(getattr(model, "pretrained_cfg", None), dict):
        from timm.data.config import resolve_model_data_config

        return models.timm_preprocessing(resolve_model_data_config(model))
    if type(model).__module__.startswith("torchvision.models."):
        return _of_torchvision(model)
    return None


def _of_torchvision(model: nn.Module) -> Preprocessing | None:
    """Return the preprocessing of the architecture with as many parameters, or the one that all of its family share."""
    from torchvision.models import get_model_builder, list_models

    family = [name for name in list_models() if get_model_builder(name).__module__ == type(model).__module__]
    known = {name: models.torchvision_weights(name) for name in family}
    count = sum(parameter.numel() for parameter in model.parameters())
    same = [weights for weights in known.values() if weights is not None and weights.meta.get("num_params") == count]
    found = {models.torchvision_preprocessing(weights) for weights in same or known.values()}
    return found.pop() if len(found) == 1 else None
