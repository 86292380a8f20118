"""Offsets beyond 2^31 elements, which need 64 bits, and more tasks than a grid has blocks.

The far tensors are views of memory of which all but a few pages stay untouched, so that nothing of the size is stored.
"""

import pytest
import torch

from fastcam import ops
from tests.ops import formulas
from tests.ops.op_tester import close, random_pair, same_bits
from tests.support.tiers import slow

FAR = 2**30 + 8  # two such steps, and 16 more, lie beyond 2^31


def spread(values, strides):
    """The values in memory with these strides, in float16."""
    reach = sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True)) + 1
    assert reach > 2**31
    memory = torch.empty(reach, dtype=torch.float16, device=values.device)
    return memory.as_strided(values.shape, strides).copy_(values)


LAYOUTS = {
    "small planes": ((2, 3, 5, 3), (64, FAR, 3, 1)),
    "large planes": ((2, 3, 40, 33), (2048, FAR, 33, 1)),
    "rows": ((2, 5, 3, 1), (16, 1, FAR, FAR)),
    "images": ((3, 2, 5, 3), (FAR, 15, 3, 1)),
}
METHODS = {
    "grad_cam": formulas.grad_cam,
    "grad_cam_pp": formulas.grad_cam_pp,
    "xgrad_cam": formulas.xgrad_cam,
    "layer_cam": formulas.layer_cam,
    "weighted_channel_sum": formulas.element_weights,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channel_reductions(layout, device):
    shape, strides = LAYOUTS[layout]
    activations, gradients = random_pair(shape, None, torch.float16, device)
    far_activations, far_gradients = spread(activations, strides), spread(gradients, strides)
    a, g = (each.double().flatten(2).unsqueeze(1) for each in (activations, gradients))
    for name, formula in METHODS.items():
        expected = formula(a, g).reshape(shape[0], *shape[2:])
        maps = getattr(ops, name)(far_activations, far_gradients, relu=False)
        close(maps, expected, torch.float32)
    close(ops.channel_mean(far_gradients), gradients.double().mean((2, 3)), torch.float32)
    weights = gradients[:, :, 0, 0].float()
    expected = formulas.weigh(a, weights.double().unsqueeze(1)).reshape(shape[0], *shape[2:])
    close(ops.weighted_channel_sum(far_activations, weights), expected, torch.float32)


def test_targets(device):
    """The targets of an image lie far apart."""
    activations, gradients = random_pair((1, 3, 5, 3), 3, torch.float16, device)
    far = spread(gradients, (0, FAR, 15, 3, 1))
    a, g = activations.double().flatten(2).unsqueeze(1), gradients.double().flatten(3)
    expected = formulas.grad_cam_pp(a, g).reshape(1, 3, 5, 3)
    close(ops.grad_cam_pp(activations, far, relu=False), expected, torch.float32)


def test_resampling(device):
    """The last of so many maps that they hold 2^31 elements."""
    count = 2**31 // 256**2 + 1
    maps = torch.empty(count, 256, 256, dtype=torch.float16, device=device)
    maps[-1] = torch.arange(256.0, device=device)
    same_bits(ops.upsample_normalize(maps, (1, 1), normalize=False)[-1].cpu(), torch.tensor([[127.5]]).half())


def test_gathering(device):
    """A patch in the last of so many images that they hold 2^31 elements."""
    count = 2**31 // 1024**2 + 1
    clean = torch.empty(count, 1, 1024, 1024, dtype=torch.float16, device=device)
    clean[-1, 0, :4, :4] = torch.arange(16.0, device=device).reshape(4, 4)
    image, origin = torch.tensor([count - 1], device=device), torch.tensor([[1, 1]], device=device)
    patch = torch.full((1, 1, 1, 2), -1.0, dtype=torch.float16, device=device)
    window = ops.gather_patches(clean, image, patch, origin, origin - 2, (4, 4))
    expected = torch.tensor([[0.0, 0, 0, 0], [0, 0, 1, 2], [0, 4, -1, -1], [0, 8, 9, 10]]).half()
    same_bits(window[0, 0].cpu(), expected)


def test_more_images_than_a_cache_holds(device):
    """Large planes whose activations two kernels read: on CUDA a few images at a time."""
    activations, gradients = random_pair((3, 17, 380, 345), None, torch.float64, device)
    a, g = activations.flatten(2).unsqueeze(1), gradients.flatten(2).unsqueeze(1)
    expected = formulas.xgrad_cam(a, g).reshape(3, 380, 345)
    close(ops.xgrad_cam(activations, gradients, relu=False), expected, torch.float64)


@pytest.mark.parametrize("count", [70001, *slow(65535)])
def test_more_tasks_than_blocks_along_an_axis(count, device):
    """A grid has at most 65,535 blocks along y and z: kernels loop over the rest."""
    maps = torch.arange(count, dtype=torch.float32, device=device).reshape(count, 1, 1)
    same_bits(ops.upsample_normalize(maps, (1, 1), normalize=False), maps)
    windows = torch.zeros(count, 2, 1, dtype=torch.int64, device=device)
    windows[::2, 1] = 1
    image, copies = torch.ones(1, 1, 2, device=device), torch.ones(1, count, 1, 2, device=device)
    copies[0, ::2, 0, 0] = 0
    same_bits(ops.occlude(image, windows), copies)
    activations = torch.ones(count, 1, 2, device=device)
    sums = ops.grad_cam(activations, activations * maps)
    same_bits(sums, maps[:, 0].expand(-1, 2).contiguous())
