"""Models whose hooks collect what their heads read, as those of transformers do, and hooks that change an output."""

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.methods.registry import get_method
from tests.support.conv_net import Call, images_for

METHODS = [
    method.name
    for method in map(get_method, fastcam.list_methods())
    if method.has_layer and not any("classifier" in need for need in method.needs)
]


class Stages(nn.Module):
    """Two stages, both of which the head reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh())
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return self.read([first, self.second(first)])

    def read(self, stages: list[Tensor]) -> Tensor:
        return self.head(torch.cat([stage.square().mean((2, 3)) for stage in stages], 1))


class Collecting(Stages):
    """The same, by hooks that collect the stages."""

    def __init__(self) -> None:
        super().__init__()
        self.collected: list[Tensor] = []
        for stage in (self.first, self.second):
            stage.register_forward_hook(lambda module, arguments, output: self.collected.append(output))

    def forward(self, x: Tensor) -> Tensor:
        self.collected.clear()
        self.second(self.first(x))
        return self.read(self.collected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["first", "second"])
def test_hooks_that_collect(method, layer):
    """The way from the layer to the score by way of a hook counts."""
    images = images_for(count=2)
    for _ in range(2):
        found = fastcam.explain(Collecting().eval(), images, method, [1, 3], layer)
        expected = fastcam.explain(Stages().eval(), images, method, [1, 3], layer)
        torch.testing.assert_close(found.native, expected.native, rtol=1e-4, atol=1e-6)
        assert found.status == expected.status
        assert "ok" in found.status


@pytest.mark.parametrize("method", METHODS)
def test_hooks_that_change_an_output(method):
    """What a hook makes of it is what the layer returns."""

    class Doubling(Stages):
        def forward(self, x: Tensor) -> Tensor:
            first = self.first(x)
            return self.read([2 * first, self.second(2 * first)])

    class Last(Doubling):
        """With a layer whose output is doubled."""

        def __init__(self) -> None:
            super().__init__()
            self.twice = Call(lambda x: 2 * x)

        def forward(self, x: Tensor) -> Tensor:
            doubled = self.twice(self.first(x))
            return self.read([doubled, self.second(doubled)])

    hooked, images = Stages().eval(), images_for(count=2)
    hooked.first.register_forward_hook(lambda module, arguments, output: 2 * output)
    found = fastcam.explain(hooked, images, method, [1, 3], "first")
    expected = fastcam.explain(Last().eval(), images, method, [1, 3], "twice")
    torch.testing.assert_close(found.native, expected.native, rtol=1e-4, atol=1e-6)
    assert "ok" in found.status
