"""Every method with options that make it cheap, and the networks it can explain."""

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

import fastcam
from tests.support.conv_net import images_for, suited

METHODS = [each.name for each in fastcam.list_methods()]
# The class activation maps of one forward and one backward pass, down to the layer.
GRADIENT_METHODS = [each.name for each in fastcam.list_methods() if "gradients" in each.needs and each.is_flat]
# Options that make the methods of many copies quick on the small networks.
CHEAP: dict[str, dict[str, Any]] = {
    "rise": {"masks": 12, "grid": 3},
    "occlusion": {"window": 4, "stride": 3, "engine": "dense"},  # the other engine does not run the model's modules
    "integrated_gradients": {"steps": 4},
    "smooth_grad": {"samples": 3},
}
ALL_CHEAP = {option: value for options in CHEAP.values() for option, value in options.items()}
# Those that try copies of the images and therefore take `batch_size`.
COPYING = [
    name
    for name in METHODS
    if {"scorer", "ablated_scores"} & set(fastcam.get_method(name).needs) and name != "full_grad"
]


def cheap(method: str) -> dict[str, Any]:
    """Options of the method that keep it fast."""
    return CHEAP.get(method, {})


def layer_of(method: str, layer: str) -> str | None:
    """The layer where the method looks at one."""
    return layer if fastcam.get_method(method).has_layer else None


def explain(
    method: str, images: Any = None, target: Any = None, model: nn.Module | None = None, **settings: Any
) -> Any:
    """The method, cheaply, on the small network that suits it."""
    own, layer = suited(method)
    images = images_for() if images is None else images
    settings = {"target_layer": layer_of(method, layer)} | cheap(method) | settings
    return fastcam.explain(own if model is None else model, images, method, target, **settings)


class Counting(nn.Module):
    """Passes images on and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return x


@contextlib.contextmanager
def few_objects() -> Iterator[None]:
    """Hides all there is from the garbage collector: looking for what is new takes no time then."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
