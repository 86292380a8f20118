"""The same maps as pytorch-grad-cam and torch-cam, for methods that go through the whole network or try the model.

Every map must agree within 1e-4 of its range. Where definitions differ, the peer is told or helped to do as fastcam:

| peer, method                   | what it does                        | what fastcam does, and why                   |
| ------------------------------ | ----------------------------------- | -------------------------------------------- |
| pytorch-grad-cam, guided       | modules `nn.ReLU` only, image 0     | every rectifier, every image                 |
| pytorch-grad-cam, Ablation-CAM | fills min - 1e7 unless the min is 0 | 0, as in the paper                           |
| pytorch-grad-cam, Ablation-CAM | of tokens, the class token's too    | only those of the map: they are channel k    |
| pytorch-grad-cam, Score-CAM    | masks with align_corners=True       | False, as all maps are enlarged              |
| torch-cam, Score-CAM           | scales masks before enlarging them  | after it, as in the paper: all span [0, 1]   |
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastcam
from tests.integration.peer_networks import AGREEMENT, CLASSES, NETWORKS, RECTIFIED, attributions, error, images
from tests.support.conv_net import conv_net
from tests.support.networks import in_double

torchcam = pytest.importorskip("torchcam.methods")
pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
from pytorch_grad_cam.ablation_layer import AblationLayer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", RECTIFIED)
def test_pytorch_grad_cam_guided_backpropagation(name):
    """A copy of the network, for it puts one shared `nn.ReLU` in the place of all."""
    peer = pytorch_grad_cam.GuidedBackpropReLUModel(copy.deepcopy(NETWORKS[name]()))(images()[:1].clone(), CLASSES[0])
    assert error(attributions(name, "guided_backprop")[:1].movedim(1, -1), torch.from_numpy(peer)[None]) <= AGREEMENT


def zeros(where: Callable[[Tensor, int], Tensor]) -> type[AblationLayer]:
    """The paper's ablation in the place of its min - 1e7; ``where`` is a view of one channel of one copy."""

    class Zeros(AblationLayer):
        def set_next_batch(self, input_batch_index: int, activations: Tensor, num_channels_to_ablate: int) -> None:
            self.activations = activations[input_batch_index].repeat(
                num_channels_to_ablate, *[1] * (activations.dim() - 1)
            )

        def __call__(self, x: Tensor) -> Tensor:
            for copied, channel in zip(self.activations, self.indices, strict=False):
                where(copied, channel).fill_(0)
            return self.activations

    return Zeros


# Behind a ReLU the least activation is 0, and the peer fills zeros; elsewhere it is told to.
CHANNEL_FIRST = zeros(lambda activations, channel: activations[channel])
CHANNEL_LAST = zeros(lambda activations, channel: activations[..., channel])
PATCHES = zeros(lambda tokens, channel: tokens[1:, channel])
ABLATIONS = {
    "vgg11": ("features.1", 32, None, AblationLayer),
    "resnet18": ("layer1", 32, None, AblationLayer),
    "densenet121": ("features.denseblock3.denselayer20.conv2", 32, None, CHANNEL_FIRST),
    "mobilenet_v2": ("features.6", 32, None, CHANNEL_FIRST),
    "swin": ("layers.1.blocks.0", 64, fastcam.swin_reshape, CHANNEL_LAST),
    "vit": ("blocks.1", 64, fastcam.vit_reshape, PATCHES),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_pytorch_grad_cam_ablation_cam(name):
    """Less a constant, so that its float32 does not round the small change of a large score away."""
    layer, size, reshape, ablation = ABLATIONS[name]
    model, x = NETWORKS[name](), images(size)
    clean = model(x).detach()
    scores = [lambda output, i=i, c=c: output[c] - clean[i, c] + 1 for i, c in enumerate(CLASSES)]
    module = model.get_submodule(layer)
    with pytorch_grad_cam.AblationCAM(model, [module], reshape, ablation()) as cam:
        cam.activations_and_grads(x)
        activations = cam.activations_and_grads.activations[0].numpy()
        peer = torch.from_numpy(cam.get_cam_image(x, module, scores, activations, None))
    found = fastcam.explain(model, x, "ablation_cam", scores, layer, relu=False, reshape_transform=reshape)
    assert error(found.native, peer) <= AGREEMENT


def test_score_cam_where_the_masks_need_no_enlarging():
    """A layer of the size of the images: all three take the same masks."""
    model, x = in_double(conv_net()), images(32)
    module = model.stem
    found = fastcam.explain(model, x, "score_cam", [1, 3], "stem")
    with torchcam.ScoreCAM(model, "stem") as extractor, torch.no_grad():
        peer = extractor([1, 3], model(x), normalized=False)[0]
    assert error(found.native, peer) <= AGREEMENT
    with pytorch_grad_cam.ScoreCAM(model, [module]) as cam:
        peer = torch.from_numpy(cam(x, [lambda output: output[1], lambda output: output[3]]))
    assert error(found.maps, peer) <= AGREEMENT
