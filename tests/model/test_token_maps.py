"""Where in the image the positions of a layer's output lie."""

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.model import token_maps
from tests.support.conv_net import Call
from tests.support.token_networks import (
    CHANNELS,
    TokenNetwork,
    Transformer,
    block_order,
    grad_cam_by_hand,
    pictures,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def check(model: nn.Module, images: Tensor, layer: str, positions: Tensor, grid: tuple[int, ...], **options) -> None:
    """Grad-CAM's map is the one by hand, and nothing is guessed."""
    found = fastcam.explain(model, images, "grad_cam", 3, layer, relu=False, strict=True, **options)
    torch.testing.assert_close(
        found.native, grad_cam_by_hand(model, images, layer, 3, positions, grid), rtol=1e-9, atol=1e-12
    )
    grid_text = " x ".join(map(str, grid))
    assert any(f"is a map of {grid_text} positions" in note for note in found.notes)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("size", [(12, 28), (24, 16), (20, 20)], ids=["wide", "high", "square"])
def test_tokens_in_row_order_after_a_prefix(size, prefix):
    grid = (size[0] // 4, size[1] // 4)
    positions = prefix + torch.arange(grid[0] * grid[1])
    check(TokenNetwork(prefix=prefix), pictures(*size), "tokens", positions, grid)


@pytest.mark.parametrize("reshape", [fastcam.vit_reshape, fastcam.swin_reshape], ids=["vit", "swin"])
def test_a_reshape_without_a_grid_is_no_square(reshape):
    """24 x 24 = 16 x 36, so that a square would fit the tokens of a wide picture too."""
    check(TokenNetwork((2, 2)), pictures(8, 18), "tokens", torch.arange(36), (4, 9), reshape_transform=reshape)


def test_a_transform_of_ones_own_is_followed_as_it_is():
    model, images = TokenNetwork(), pictures(12, 28)
    found = fastcam.explain(
        model, images, "grad_cam", 3, "tokens", relu=False,
        reshape_transform=lambda tokens: fastcam.vit_reshape(tokens, grid=(7, 3)),
    )  # fmt: skip
    expected = grad_cam_by_hand(model, images, "tokens", 3, torch.arange(21), (7, 3))
    torch.testing.assert_close(found.native, expected, rtol=1e-9, atol=1e-12)
    assert found.notes == ()


def test_channels_behind():
    check(TokenNetwork(shape=(3, 7)), pictures(12, 28), "tokens", torch.arange(21), (3, 7))


def test_channels_behind_that_look_like_channels_in_front():
    """(N, 12, 12, 12): where the shape fits both, a layer on the last axis decides."""
    model = TokenNetwork((2, 2), shape=(CHANNELS, CHANNELS))
    model.tokens = nn.Linear(CHANNELS, CHANNELS).double().eval()
    check(model, pictures(24, 24), "tokens", torch.arange(144), (12, 12))


@pytest.mark.parametrize("block", [(2, 2), (2, 4)])
def test_blocks_of_tokens(block):
    """(N, blocks, tokens, C): the position of a cell is that of its block, then that within it."""
    grid, inside = (4, 8), block[0] * block[1]
    order = block_order(grid, block)
    model = TokenNetwork(order=order, shape=(32 // inside, inside))
    check(model, pictures(16, 32), "tokens", order.argsort(), grid)


@pytest.mark.parametrize("prefix", [0, 2])
def test_any_order_of_tokens(prefix):
    order = torch.randperm(24, generator=torch.Generator().manual_seed(8))
    model = TokenNetwork(prefix=prefix, order=order)
    check(model, pictures(16, 24), "tokens", prefix + order.argsort(), (4, 6))


def test_an_order_of_columns():
    order = torch.arange(24).reshape(4, 6).T.flatten()
    check(TokenNetwork(order=order, mixing=0.3), pictures(16, 24), "tokens", order.argsort(), (4, 6))


def test_the_order_is_that_of_every_image_and_found_once(monkeypatch):
    calls = []
    verify = token_maps.verify
    monkeypatch.setattr(token_maps, "verify", lambda *arguments: calls.append(1) or verify(*arguments))
    model, images = TokenNetwork(prefix=1), pictures(16, 24)
    explainer = fastcam.Explainer(model, "grad_cam", "tokens")
    first = explainer(images, 3)
    asked = len(calls)
    again = explainer(images.flip(0), 3)
    assert asked
    assert len(calls) == asked
    assert again.notes == first.notes
    torch.testing.assert_close(again.native, first.native.flip(0), rtol=1e-9, atol=1e-12)


class RunsTwice(TokenNetwork):
    """The layer runs on the tokens in reverse order first."""

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        reverse, forward = self.tokens(tokens.flip(1)), self.tokens(tokens)
        return self.head((self.query(forward).softmax(1) * (forward + 0.3 * reverse.flip(1))).sum(1).tanh())


def test_a_map_is_verified_in_the_run_that_is_explained():
    check(RunsTwice(), pictures(16, 24), "tokens", torch.arange(24), (4, 6), layer_run=1)


def test_the_layers_that_are_searched_share_their_forward_passes():
    """Each token is made from all cells, so that no layer has a map; one pass per grid and way to choose tells that."""
    scramble = torch.randn(24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    model, passes = TokenNetwork(), []
    norms = [nn.LayerNorm(CHANNELS).double() for _ in range(6)]
    model.tokens = nn.Sequential(Call(lambda tokens: scramble @ tokens), *norms).eval()
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    found = fastcam.explain(model, pictures(16, 24), "grad_cam", 3)
    assert found.layer == "embed"
    assert len(passes) < len(norms) + token_maps.MAX_GRIDS


@pytest.mark.parametrize("tokens", [nn.LayerNorm(CHANNELS), nn.Sequential(nn.Linear(CHANNELS, CHANNELS), nn.Tanh())])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_of_a_signal(prefix, tokens):
    """(N, T, C) of signals has as many axes as (N, C, L), and every number of prefix tokens leaves a grid."""
    model = TokenNetwork((4,), prefix)
    model.tokens = tokens.double().eval()
    check(model, pictures(72), "tokens", prefix + torch.arange(18), (18,))


@pytest.mark.parametrize(("prefix", "queries"), [(0, 10), (1, 10), (1, 20)])
def test_tokens_behind_those_of_the_image(prefix, queries):
    """A detector's queries behind the patches, as in YOLOS."""
    model, order = TokenNetwork(prefix=prefix + queries), torch.arange(prefix, prefix + 24)
    put_first = torch.cat([torch.arange(prefix), prefix + queries + torch.arange(24), prefix + torch.arange(queries)])
    model.tokens = nn.Sequential(Call(lambda tokens: tokens[:, put_first]), *model.tokens)
    check(model, pictures(16, 24), "tokens", order, (4, 6))


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize(
    ("size", "patch"), [((8, 12, 16), (4, 4, 4)), ((6, 16, 24), (2, 8, 8))], ids=["volume", "video"]
)
def test_tokens_of_volumes_and_videos(size, patch, prefix):
    grid = tuple(pixels // side for pixels, side in zip(size, patch, strict=True))
    positions = prefix + torch.arange(grid[0] * grid[1] * grid[2])
    check(TokenNetwork(patch, prefix), pictures(*size), "tokens", positions, grid)


def test_deep_layers_of_a_transformer():
    check(Transformer(), pictures(16, 24), "blocks.1.norm1", 1 + torch.arange(24), (4, 6))


def everywhere(tokens: Tensor) -> Tensor:
    """Every token holds the same of the whole image."""
    return torch.cat([tokens, tokens.mean(1, keepdim=True).expand(-1, tokens.shape[1], -1)], 2)[..., CHANNELS:]


def test_positions_that_follow_no_part_of_the_image_are_a_guess():
    model, images = TokenNetwork(), pictures(16, 24)
    model.tokens = nn.Sequential(Call(everywhere), nn.Linear(CHANNELS, CHANNELS)).double().eval()
    with pytest.raises(
        ValueError, match=r"'tokens' is taken for a map of 4 x 6 positions in row order.*reshape_transf"
    ):
        fastcam.explain(model, images, "grad_cam", 3, "tokens", strict=True)
    with pytest.warns(UserWarning, match="taken for a map of 4 x 6 positions in row order"):
        found = fastcam.explain(model, images, "grad_cam", 3, "tokens", relu=False)
    assert any("follow no part of the image clearly enough" in note for note in found.notes)
    expected = grad_cam_by_hand(model, images, "tokens", 3, torch.arange(24), (4, 6))
    torch.testing.assert_close(found.native, expected, rtol=1e-9, atol=1e-12)


def test_tokens_that_fill_no_grid_are_refused():
    model, images = TokenNetwork(), pictures(16, 24)
    model.tokens = nn.Sequential(Call(lambda tokens: tokens.mean(2)), nn.Linear(24, CHANNELS)).double().eval()
    with pytest.raises(ValueError, match="'tokens' returns shape"):
        fastcam.explain(model, images, "grad_cam", 3, "tokens")


# --- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "grid", "start", "axis"),
    [
        ((2, 197, 8), (224, 224), (14, 14), 1, 2),
        ((2, 201, 8), (224, 224), (14, 14), 5, 2),
        ((2, 768, 49), (224, 224), (7, 7), 0, 1),
        ((2, 7, 7, 8), (224, 224), (7, 7), 0, 3),
        ((2, 8, 7, 7), (224, 224), (7, 7), 0, 1),
        ((2, 21, 8), (96, 224), (3, 7), 0, 2),
        ((2, 1 + 5 * 14 * 14, 8), (10, 224, 224), (5, 14, 14), 1, 2),
    ],
)
def test_the_likeliest_candidate(shape, size, grid, start, axis):
    first = token_maps.candidates(shape, size)[0]
    assert (first.grid, first.start, first.channel_axis) == (grid, start, axis)


@pytest.mark.parametrize(("grid", "block"), [((8, 8), (4, 4)), ((4, 8), (4, 4))])
def test_blocks_are_a_candidate(grid, block):
    inside = block[0] * block[1]
    found = token_maps.candidates((2, grid[0] * grid[1] // inside, inside, 8), (4 * grid[0], 4 * grid[1]))
    assert any(
        each.grid == grid and each.order is not None and torch.equal(each.order, block_order(grid, block).argsort())
        for each in found
    )


def test_a_map_gathers_its_cells():
    order = torch.tensor([3, 5, 1, 6, 2, 4])
    numbers = torch.arange(7.0).reshape(1, 7, 1) * torch.tensor([1.0, 10.0])
    maps = token_maps.TokenMap(2, (2, 3), 1, order)(numbers)
    assert torch.equal(maps[0, 0], torch.tensor([[3.0, 5, 1], [6, 2, 4]]))
    assert torch.equal(maps[0, 1], 10 * maps[0, 0])
    assert str(token_maps.TokenMap(2, (2, 3), 1, order)) == "2 x 3 positions after 1 other, reordered"
