"""The layer that is explained where none is named, in networks of every kind."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import Call
from tests.support.token_networks import CHANNELS, Transformer, grad_cam_by_hand, pictures

pytestmark = pytest.mark.usefixtures("one_thread")


# --- classifiers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefix", "layer"), [(1, "blocks.1.norm1"), (3, "blocks.1.norm1"), (0, "norm")])
def test_transformers(prefix, layer):
    """With a class token the norm in front of the last attention: behind it only the class token counts."""
    model, images = Transformer(prefix), pictures(16, 24)
    found = fastcam.explain(model, images, target=3, relu=False, strict=True)
    assert found.layer == layer
    expected = grad_cam_by_hand(model, images, layer, 3, prefix + torch.arange(24), (4, 6))
    torch.testing.assert_close(found.native, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("prefix", "layer"), [(1, "blocks.1.norm1"), (0, "norm")])
def test_transformers_of_signals(prefix, layer):
    model, images = Transformer(prefix, (4,)), pictures(72)
    found = fastcam.explain(model, images, target=3, relu=False, strict=True)
    assert found.layer == layer
    expected = grad_cam_by_hand(model, images, layer, 3, prefix + torch.arange(18), (18,))
    torch.testing.assert_close(found.native, expected, rtol=1e-9, atol=1e-12)


def test_norms_go_before_parts_of_a_block():
    """Where blocks return tuples, what a perceptron adds is the last output of tokens, and their norm is explained."""

    class InTuples(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = Transformer(0)
            self.whole.norm = nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.whole.embed(images).flatten(2).transpose(1, 2)
            for block in self.whole.blocks:
                tokens = tokens + block.attention(block.norm1(tokens))
                tokens = tokens + block.mlp(block.norm2(tokens))
            return self.whole.head(tokens.tanh().mean(1))

    assert fastcam.explain(InTuples(), pictures(16, 24), strict=True).layer == "whole.blocks.1.norm2"


@pytest.mark.parametrize("target", [3, lambda output: output["logits"][:, 3]], ids=["class", "callable"])
def test_an_output_with_logits_is_a_classifier_s(target):
    class InDict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.wide, self.last, self.head = nn.Conv2d(3, 20, 3, 2, 1), nn.Conv2d(20, 6, 3, 2, 1), nn.Linear(6, 5)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            maps = self.last(self.wide(images).tanh())
            return {"logits": self.head(maps.tanh().mean((2, 3))), "features": maps}

    assert fastcam.explain(InDict().double().eval(), pictures(16, 24), target=target, strict=True).layer == "last"


def test_convolution_behind_tokens():
    """A map made of the tokens again, and a convolution on it."""
    torch.manual_seed(0)
    to_map = Call(lambda tokens: tokens.transpose(1, 2).unflatten(2, (4, 6)))
    to_tokens = Call(lambda maps: maps.flatten(2).transpose(1, 2))
    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), to_tokens, nn.LayerNorm(8), to_map, nn.Conv2d(8, 7, 3, padding=1), nn.Tanh(),
        Call(lambda maps: maps.mean((2, 3))), nn.Linear(7, 5),
    ).double().eval()  # fmt: skip
    assert fastcam.explain(model, pictures(16, 24), strict=True).layer == "5"


class ChannelsLast(nn.Module):
    """Blocks of linear layers on (N, h, w, C) between convolutions, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, CHANNELS, 4, stride=4)
        self.block = nn.Sequential(nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS), nn.GELU())
        self.norm, self.head = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).movedim(1, -1)
        x = self.norm(x + self.block(x))
        return self.head(x.tanh().mean((1, 2)))


@pytest.mark.parametrize("size", [(16, 24), (48, 48)], ids=["few positions", "as many as channels"])
def test_channels_last(size):
    """(N, 12, 12, 12) is read from the model, since the shape does not tell."""
    model, images, grid = ChannelsLast().double().eval(), pictures(*size), (size[0] // 4, size[1] // 4)
    found = fastcam.explain(model, images, target=3, relu=False, strict=True)
    assert found.layer == "norm"
    expected = grad_cam_by_hand(model, images, "norm", 3, torch.arange(grid[0] * grid[1]), grid)
    torch.testing.assert_close(found.native, expected, rtol=1e-9, atol=1e-12)


class Recurrent(nn.Module):
    """A CRNN: the columns of a convolution's map are the steps of a recurrent layer, with classes for each of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(6, 16, 3, padding=1))
        self.act = nn.Tanh()
        self.rnn, self.head = nn.GRU(16, 8, batch_first=True, bidirectional=True), nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        steps, _ = self.rnn(self.act(self.body(images)).mean(2).transpose(1, 2))
        return self.head(steps)  # (N, steps, classes)


def test_crnn():
    model, images = Recurrent().double().eval(), pictures(12, 20)
    found = fastcam.explain(model, images, target=lambda output: output[:, 4, 2], relu=False)
    assert found.layer == "act"
    A = model.act(model.body(images)).detach().requires_grad_()
    steps = model.rnn(A.mean(2).transpose(1, 2))[0]
    (G,) = torch.autograd.grad(model.head(steps)[:, 4, 2].sum(), A)
    expected = (G.mean((2, 3), keepdim=True) * A).sum(1).detach()
    torch.testing.assert_close(found.native, expected, rtol=1e-9, atol=1e-12)


# --- dense predictions ------------------------------------------------------------------------------------------------


class Segmenter(nn.Module):
    """A backbone of 16 channels, a decoder of 8, and the prediction at the image's size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, 16, 3, 2, 1), nn.Tanh())
        self.decoder = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.Tanh())
        self.classify = nn.Conv2d(8, 20, 1)  # more than any other layer has

    def forward(self, images: Tensor) -> Tensor:
        prediction = self.classify(self.decoder(self.backbone(images)))
        return F.interpolate(prediction, images.shape[2:], mode="bilinear")


def gradient_of(score, A: Tensor) -> Tensor:
    leaf = A.detach().requires_grad_()
    return torch.autograd.grad(score(leaf).sum(), leaf)[0]


def cam(A: Tensor, G: Tensor) -> Tensor:
    return (G.mean((2, 3), keepdim=True) * A).sum(1).detach()


def test_segmentation():
    model, images = Segmenter().double().eval(), pictures(16, 24)
    found = fastcam.explain(model, images, target=lambda output: output[:, 3, 4:9].sum((1, 2)), relu=False)
    assert found.layer == "backbone"
    A = model.backbone(images)

    def score(leaf: Tensor) -> Tensor:
        prediction = model.classify(model.decoder(leaf))
        return F.interpolate(prediction, images.shape[2:], mode="bilinear")[:, 3, 4:9].sum((1, 2))

    torch.testing.assert_close(found.native, cam(A, gradient_of(score, A)), rtol=1e-9, atol=1e-12)


class Detector(nn.Module):
    """Three regions of every image, pooled from the backbone, as rows of a head: N * 3 of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, 10, 3, 2, 1), nn.Tanh())
        self.region_head = nn.Sequential(nn.Conv2d(10, 32, 1), nn.Tanh())
        self.classify = nn.Linear(32, 4)

    def head(self, features: Tensor) -> list[dict[str, Tensor]]:
        regions = torch.cat([features[i : i + 1, :, :3, j : j + 3] for i in range(len(features)) for j in range(3)])
        scores = self.classify(self.region_head(regions).mean((2, 3)))
        return [{"scores": rows} for rows in scores.split(3)]

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return self.head(self.backbone(images))


@pytest.mark.parametrize("count", [1, 2])
def test_detector_with_rows_of_regions(count):
    model, images = Detector().double().eval(), pictures(16, 24, count=count)

    def score(output: list[dict[str, Tensor]]) -> Tensor:
        return torch.stack([each["scores"][1, 2] for each in output])

    found = fastcam.explain(model, images, target=score, relu=False)
    assert found.layer == "backbone"
    A = model.backbone(images)
    expected = cam(A, gradient_of(lambda leaf: score(model.head(leaf)), A))
    torch.testing.assert_close(found.native, expected, rtol=1e-9, atol=1e-12)


class Pyramid(nn.Module):
    """One head for two levels of features, as RetinaNet has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.Tanh())
        self.lateral = nn.Conv2d(16, 8, 1)
        self.head = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.Tanh(), nn.Conv2d(32, 8, 1), nn.Conv2d(8, 4, 1))

    def predict(self, features: Tensor) -> dict[str, Tensor]:
        fine = self.lateral(features)
        levels = [self.head(level).flatten(2) for level in (fine, F.max_pool2d(fine, 2))]
        return {"boxes": torch.cat(levels, 2), "scores": torch.cat(levels, 2).tanh()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.predict(self.backbone(images))


def test_head_shared_by_levels():
    model, images = Pyramid().double().eval(), pictures(16, 24)
    found = fastcam.explain(model, images, target=lambda output: output["scores"][:, 1, 7], relu=False, strict=True)
    assert found.layer == "backbone"
    A = model.backbone(images)
    expected = cam(A, gradient_of(lambda leaf: model.predict(leaf)["scores"][:, 1, 7], A))
    torch.testing.assert_close(found.native, expected, rtol=1e-9, atol=1e-12)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_a_coarse_map_is_noted_where_the_layer_was_chosen():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 8, stride=8), nn.Tanh(), Call(lambda maps: maps.mean((2, 3))), nn.Linear(6, 5)
    )
    model.double().eval()
    chosen = fastcam.explain(model, pictures(16, 24))
    assert chosen.layer == "1"
    assert any("has 2 x 3 positions; an earlier target_layer= gives a finer one" in note for note in chosen.notes)
    assert fastcam.explain(model, pictures(16, 24), target_layer="1").notes == ()


@pytest.mark.parametrize("name", ["1", "module.1", None])
def test_layers_of_a_data_parallel_model(name):
    torch.manual_seed(0)
    convolutions = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3))
    model = nn.Sequential(*convolutions, Call(lambda maps: maps.tanh().mean((2, 3))), nn.Linear(6, 5)).double().eval()
    found = fastcam.explain(nn.DataParallel(model), pictures(16, 24), target=3, target_layer=name)
    assert found.layer in (name, "module.1")
    torch.testing.assert_close(
        found.native, fastcam.explain(model, pictures(16, 24), target=3, target_layer="1").native
    )


def test_no_map_lists_the_last_layers():
    model = nn.Sequential(Call(lambda x: x.flatten(1)), nn.Linear(3 * 16 * 24, 5)).double().eval()
    with pytest.raises(ValueError, match=r"no layer of Sequential with a map of the image \(16 x 24\).*target_layer="):
        fastcam.explain(model, pictures(16, 24))
