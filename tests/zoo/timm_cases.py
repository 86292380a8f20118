"""The smallest model of every module family of timm."""

from functools import partial

import torch

from tests.zoo import timm_smallest
from tests.zoo.case import Built, Case


def build(name: str, size: int | None) -> Built:
    """Build one by its name."""
    import timm

    model = timm.create_model(name) if size is None else timm.create_model(name, img_size=size)
    side = size or model.pretrained_cfg.get("input_size", (3, 224, 224))[-1]
    return Built(model, torch.randn(1, 3, side, side))


def _unlisted(family: str, size: int | None) -> Built:
    raise LookupError(f"the family {family!r} is not in {timm_smallest.LIST.name}: run tests.zoo.timm_smallest")


def cases() -> list[Case]:
    """Return one case per family of the installed release."""
    import timm

    smallest = timm_smallest.listed()
    return [
        Case(f"timm/{smallest[family][0]}", partial(build, smallest[family][0]), smallest[family][1])
        if family in smallest
        else Case(f"timm/{family}", partial(_unlisted, family))
        for family in sorted(timm.list_modules())
    ]
