"""Images of several sizes, videos, channels in other places, and frames that make one row of the output."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.model.inputs import Inputs
from tests.support.conv_net import conv_net

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(12, 10), (9, 16), (12, 10)]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-11)


@pytest.fixture
def images():
    torch.manual_seed(5)
    return [torch.rand(3, *size, dtype=torch.float64) for size in SIZES]


# --- several sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grad_cam", "integrated_gradients", "occlusion"])
@pytest.mark.parametrize("target", [None, 2, [1, 2, 4], torch.tensor([[0, 1], [2, 3], [4, 0]]), lambda out: out[:, 3]])
def test_every_image_is_explained_at_its_own_size(images, method, target):
    model = conv_net().double()
    batch = fastcam.explain(model, images, method, target)
    assert isinstance(batch, fastcam.RaggedExplanation)
    assert batch.sizes == SIZES
    for index, image in enumerate(images):
        own = target[index : index + 1] if isinstance(target, list | Tensor) else target
        alone = fastcam.explain(model, image[None], method, own)
        inside = tuple(map(slice, image.shape[1:]))
        close(batch.maps[index][..., *inside], alone.maps[0])
        close(batch.raw[index][..., *inside], alone.raw[0])
        close(batch.scores[index], alone.scores[0])
        outside = batch.maps[index].clone()
        outside[..., *inside] = 0
        assert not outside.any()


def test_pictures_have_the_sizes_of_the_images(images, tmp_path):
    batch = fastcam.explain(conv_net().double(), images)
    alone = fastcam.explain(conv_net().double(), images[1][None])
    np.testing.assert_array_equal(batch.overlay()[1], alone.overlay()[0])
    photographs = [np.zeros((*size, 3), np.uint8) for size in [(40, 30), (40, 30), (40, 30)]]
    np.testing.assert_array_equal(batch.overlay(np.stack(photographs))[1], alone.overlay(photographs[1][None])[0])
    assert len(batch.save(tmp_path / "map.png")) == 3
    assert batch._repr_png_()[:4] == b"\x89PNG"
    batch.plot()
    with pytest.raises(ValueError, match="must be 3 pictures, one for each image, got 1"):
        batch.overlay(np.zeros((1, 8, 8, 3), np.uint8))


def test_several_methods_causes_and_an_existing_tensor(images):
    model = conv_net().double()
    by_method = fastcam.explain(model, images, ["grad_cam", "saliency"], 1)
    assert {name: type(each) for name, each in by_method.items()} == dict.fromkeys(
        ["grad_cam", "saliency"], fastcam.RaggedExplanation
    )
    assert by_method["saliency"].attributions.shape == (3, 3, 12, 16)
    close(
        by_method["saliency"].attributions[1, :, :9],
        fastcam.explain(model, images[1][None], "saliency", 1).attributions[0],
    )
    out = torch.empty(3, 12, 16, dtype=torch.float64)
    explanation = fastcam.explain(model, [images[0], images[1] * torch.nan, images[2]], target=1, out=out)
    assert explanation.causes == ["", "non-finite", ""]
    assert explanation.status == ["ok", "non-finite", "ok"]
    assert explanation.maps is out
    with pytest.raises(ValueError, match=r"`out` must have shape \(3, 12, 16\), got \(3, 12, 10\)"):
        explanation.write_maps(torch.empty(3, 12, 10))


# --- channels in other places -----------------------------------------------------------------------------------------


class FramesFirst(nn.Module):
    """A network of volumes (N, C, T, H, W) for videos (N, T, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net(axes=3)

    def forward(self, videos: Tensor) -> Tensor:
        assert videos.is_contiguous()
        return self.net(videos.movedim(2, 1))


METHODS = {
    "grad_cam": {},
    "saliency": {},
    "integrated_gradients": {"steps": 4},
    "occlusion": {"window": 3, "stride": 2},
    "score_cam": {},
    "rise": {"masks": 9},
    "smooth_grad": {"samples": 3},
}


@pytest.mark.parametrize("method", METHODS)
def test_videos_with_frames_first_are_explained_as_volumes(method):
    torch.manual_seed(2)
    volumes, options = torch.rand(2, 3, 6, 8, 7, dtype=torch.float64), METHODS[method]
    expected = fastcam.explain(conv_net(axes=3).double(), volumes, method, 1, "features", **options)
    model = FramesFirst().double().eval()
    explanation = fastcam.explain(model, volumes.movedim(1, 2), method, 1, "net.features", **options)
    close(explanation.maps, expected.maps)
    close(explanation.native, expected.native)
    assert torch.equal(explanation.images, volumes)
    assert explanation.notes == ("axis 2 of the input is taken for its channels, axis 1 for the frames",)
    with_axis = fastcam.explain(
        model, volumes.movedim(1, 2).contiguous(), method, 1, "net.features", channel_axis=-3, **options
    )
    close(with_axis.maps, expected.maps)
    assert with_axis.notes == ()


def test_the_last_axis_may_hold_the_channels():
    net = conv_net().double()
    images = torch.rand(2, 3, 12, 10, dtype=torch.float64)

    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images.movedim(-1, 1))

    explanation = fastcam.explain(ChannelsLast().eval(), images.movedim(1, -1), "saliency", 1, channel_axis=-1)
    close(explanation.attributions, fastcam.explain(net, images, "saliency", 1).attributions)


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 3, 8, 16, 16), 1), ((2, 8, 3, 16, 16), 2), ((2, 8, 4, 16, 16), 1), ((2, 8, 3, 16), 1)]
)
def test_which_axis_holds_the_channels(shape, axis):
    inputs = Inputs.of(torch.zeros(shape))
    assert inputs.channel_axis == axis
    assert inputs.arguments[0].shape == shape


@pytest.mark.parametrize("axis", [0, 4, -4, -5])
def test_axes_that_there_are_not(axis):
    with pytest.raises(ValueError, match=rf"`channel_axis` must be an axis of the images .* other than 0.* got {axis}"):
        Inputs.of(torch.zeros(2, 3, 4, 4), channel_axis=axis)


# --- one row for all frames -------------------------------------------------------------------------------------------


class Clip(nn.Module):
    """Frames (T, 3, H, W) to one row of classes, through a recurrent network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv, self.rnn, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.rnn(self.conv(frames).tanh().mean((2, 3))[None])[0][:, -1])


@pytest.mark.parametrize("target", [1, [1], None, torch.tensor([1]), lambda out: out[:, 1], "K"])
def test_frames_of_one_row_share_its_score(target):
    model, frames = Clip().double().eval(), torch.rand(5, 3, 16, 16, dtype=torch.float64)
    row = model(frames)[0]
    classes = row.argmax().reshape(1) if target is None else torch.tensor([1])
    if target == "K":
        target, classes = [[1, 3]], torch.tensor([1, 3])
    explanation = fastcam.explain(model, frames, "grad_cam", target, "conv")
    activations = model.conv(frames).detach().requires_grad_()
    pooled = model.rnn(activations.tanh().mean((2, 3))[None])[0][:, -1]
    for position, index in enumerate(classes.tolist()):
        (gradient,) = torch.autograd.grad(model.head(pooled)[0, index], activations, retain_graph=True)
        expected = (gradient.mean((2, 3), keepdim=True) * activations).sum(1).relu()
        native, scores = explanation.native, explanation.scores
        if native.dim() == 4:
            native, scores = native[:, position], scores[:, position]
        close(native, expected)
        close(scores, row[index].expand(5))
    assert explanation.notes[0].startswith("the model's output has one row for all 5 images")


def test_pixels_of_frames():
    model, frames = Clip().double().eval(), torch.rand(5, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(model(frames)[0, 2], frames)
    explanation = fastcam.explain(model, frames.detach(), "input_x_gradient", 2)
    close(explanation.attributions, expected * frames.detach())


@pytest.mark.parametrize("size", [1, 2])
def test_frames_in_more_images_than_a_group_holds(size):
    model, frames = Clip().double().eval(), torch.rand(5, 3, 16, 16, dtype=torch.float64)
    expected = fastcam.explain(model, frames, target=1, target_layer="conv").native
    close(fastcam.explain(model, frames, target=1, target_layer="conv", batch_size=size).native, expected)


def test_memory_for_one_image_alone():
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net().double()

        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.net(images)

    images = torch.rand(3, 3, 12, 10, dtype=torch.float64)
    expected = fastcam.explain(conv_net().double(), images, target=1, target_layer="features").native
    with pytest.warns(UserWarning, match="memory does not hold two images"):
        explanation = fastcam.explain(Small().eval(), images, target=1, target_layer="net.features", batch_size=1)
    close(explanation.native, expected)


def test_copies_of_single_frames_are_refused():
    with pytest.raises(ValueError, match=r"one row for all 5 images.*score_cam runs copies.*channel_axis=2"):
        fastcam.explain(Clip().eval(), torch.rand(5, 3, 16, 16), "score_cam", 1, "conv")
