"""One small call of every op in each of its forms, through its wrapper and bare, beside the paper's formula.

For the ways to call an op (compilers, instruction sets, without the extension), where one call of each says enough.
`python -m tests.ops.calls` checks them all in this process and prints how fastcam was built.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from fastcam import ops
from tests.ops import formulas
from tests.ops.op_tester import DTYPES, channels_last, close, contiguous, random_pair, result_dtype


def inputs(dtype=torch.float32, count=3, layout=contiguous, channels=9):
    """Activations (N, C, 5, 3), gradients of that shape, and of K = 2 targets, and windows (4, 2, 2)."""
    shape = (count, channels, 5, 3)
    activations, gradients = random_pair(shape, None, dtype)
    _, targets = random_pair(shape, 2, dtype, seed=1)
    windows = torch.tensor([[[0, 0], [2, 2]], [[-1, 1], [3, 1]], [[3, 2], [9, 9]], [[7, 0], [1, 1]]])
    return layout(activations, 1), layout(gradients, 1), layout(targets, 2), windows


class ThroughWrapper:
    """Every function takes all the `inputs` and uses some."""

    def channel_mean(a, g, k, windows):
        return ops.channel_mean(a)

    def plane_moments(a, g, k, windows):
        return ops.plane_moments(g.relu())

    def channel_weights(a, g, k, windows):
        return ops.weighted_channel_sum(a, g[:, :, 0, 1])

    def channel_weights_of_targets(a, g, k, windows):
        return ops.weighted_channel_sum(a, k[..., 0, 1], relu=True)

    def element_weights(a, g, k, windows):
        return ops.weighted_channel_sum(a, g, relu=True)

    def grad_cam(a, g, k, windows):
        return ops.grad_cam(a, g)

    def grad_cam_of_targets(a, g, k, windows):
        return ops.grad_cam(a, k, relu=False)

    def grad_cam_pp(a, g, k, windows):
        return ops.grad_cam_pp(a, g)

    def xgrad_cam(a, g, k, windows):
        return ops.xgrad_cam(a, k, eps=0.5, relu=False)

    def layer_cam(a, g, k, windows):
        return ops.layer_cam(a, k)

    def upsample_normalize(a, g, k, windows):
        return ops.upsample_normalize(g[:, 0], (11, 8))

    def upsample_normalize_into(a, g, k, windows):
        out = g[:, 0, :1, :1].expand(-1, 11, 8).clone()
        return ops.upsample_normalize(g[:, 0].detach(), (11, 8), out=out.detach())

    def upsample_volume(a, g, k, windows):
        return ops.upsample_normalize(g[:, :4], (5, 2, 8), normalize=False)

    def occlude(a, g, k, windows):
        return ops.occlude(a, windows, g[0, :, 0, 0])

    def mask_images(a, g, k, windows):
        return ops.mask_images(a, k[:, :, 0, :4, :2])

    def mask_volumes(a, g, k, windows):
        return ops.mask_images(a.unsqueeze(2), k[:, :, :2, :3], normalize=False)

    def gather_patches(a, g, k, windows):
        patches = g[:1, :, :3, :2].expand(4, -1, -1, -1)
        origins, starts = windows[:, 0], windows[:, 1] - 3
        return ops.gather_patches(a, windows[:, 1, 0] % 2, patches, origins, starts, (6, 5), 0.5)

    def impute_neighbours(a, g, k, windows):
        return ops.impute_neighbours(a, g[:, 0] > 0.3, 1e-13 if a.dtype == torch.float64 else 1e-6)

    def overlay(a, g, k, windows):
        pixels = 100 * (a > 0).to(torch.uint8) + 50
        return ops.overlay(pixels, g[..., 0], torch.arange(768, device=a.device).reshape(256, 3).to(torch.uint8), 0.3)

    def resize_crop(a, g, k, windows):
        pixels = (100 * (g[0, :3] > 0).to(torch.uint8) + 50).flatten()
        return ops.resize_crop(pixels, (5, 3, 4, 7, 1, 2), (3, 4), cubic=True)


class Bare:
    """The same as TorchScript takes them: calls of torch.ops alone."""

    def channel_mean(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.channel_mean(a)

    def plane_moments(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.plane_moments(g.detach().relu())

    def channel_weights(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.weighted_channel_sum(a, g[:, :, 0, 1])

    def channel_weights_of_targets(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.weighted_channel_sum(a, k[:, :, :, 0, 1], relu=True)

    def element_weights(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.weighted_channel_sum(a, g, True)

    def grad_cam(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.grad_cam(a, g)

    def grad_cam_of_targets(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.grad_cam(a, k, False)

    def grad_cam_pp(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.grad_cam_pp(a, g)

    def xgrad_cam(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.xgrad_cam(a, k, 0.5, False)

    def layer_cam(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.layer_cam(a, k)

    def upsample_normalize(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.upsample_normalize(g[:, 0], [11, 8])

    def upsample_normalize_into(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        out = g[:, 0, :1, :1].expand(-1, 11, 8).clone()
        torch.ops.fastcam.upsample_normalize_into(g[:, 0], True, out)
        return out

    def upsample_volume(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        slices = torch.ops.fastcam.upsample_normalize(g[:, :4], [2, 8], False).flatten(2)
        return torch.ops.fastcam.upsample_normalize(slices, [5, 16], False).unflatten(2, [2, 8])

    def occlude(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.occlude(a, windows, g[0, :, 0, 0])

    def mask_images(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.mask_images(a, k[:, :, 0, :4, :2])

    def mask_volumes(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        slices = torch.ops.fastcam.upsample_normalize(k[:, :, :2, :3], [5, 3], False).flatten(3)
        masks = torch.ops.fastcam.upsample_normalize(slices, [1, 15], False).unflatten(3, [5, 3])
        return a.unsqueeze(1).unsqueeze(3) * masks.unsqueeze(2)

    def gather_patches(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        patches = g[:1, :, :3, :2].expand(4, -1, -1, -1)
        origins, starts = windows[:, 0], windows[:, 1] - 3
        return torch.ops.fastcam.gather_patches(a, windows[:, 1, 0] % 2, patches, origins, starts, [6, 5], 0.5)

    def impute_neighbours(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        return torch.ops.fastcam.impute_neighbours(
            a.detach(), g[:, 0] > 0.3, 1e-13 if a.dtype == torch.float64 else 1e-6
        )

    def overlay(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        pixels = 100 * (a > 0).to(torch.uint8) + 50
        colors = torch.arange(768, device=a.device).reshape(256, 3).to(torch.uint8)
        return torch.ops.fastcam.overlay(pixels, g[:, :, :, 0], colors, 0.3)

    def resize_crop(a: Tensor, g: Tensor, k: Tensor, windows: Tensor):
        pixels = (100 * (g[0, :3] > 0).to(torch.uint8) + 50).flatten()
        return torch.ops.fastcam.resize_crop(pixels, [5, 3, 4, 7, 1, 2], [3, 4], True)


def _functions(table):
    return {name: value for name, value in vars(table).items() if not name.startswith("_")}


THROUGH_WRAPPER = _functions(ThroughWrapper)
BARE = _functions(Bare)
SAME_AS_INPUT = (
    "upsample_normalize",
    "upsample_normalize_into",
    "upsample_volume",
    "occlude",
    "mask_images",
    "mask_volumes",
    "gather_patches",
    "impute_neighbours",
)  # in dtype
BYTES = ("overlay", "resize_crop")
DIFFERENTIABLE_IN = {
    "channel_mean": [0],
    "plane_moments": [],
    "upsample_normalize": [1],
    "upsample_normalize_into": [],
    "upsample_volume": [1],
    "mask_images": [0, 2],
    "mask_volumes": [0, 2],
    "impute_neighbours": [],
    "overlay": [],
    "resize_crop": [],
}  # the others in a and g or k


def expected(name, a, g, k, windows):
    """What a function must return, in float64."""
    size = a.shape[2:]
    flat, gradients, targets = (x.double().flatten(-2) for x in (a.unsqueeze(1), g.unsqueeze(1), k))

    def maps(values):
        return values.reshape(len(a), -1, *size)

    formula = {
        "channel_mean": lambda: a.double().mean((2, 3)),
        "plane_moments": lambda: formulas.plane_moments(g.relu()),
        "channel_weights": lambda: maps(formulas.weigh(flat, gradients[..., 1]))[:, 0],
        "channel_weights_of_targets": lambda: maps(formulas.weigh(flat, targets[..., 1])).relu(),
        "element_weights": lambda: maps(formulas.element_weights(flat, gradients))[:, 0].relu(),
        "grad_cam": lambda: maps(formulas.grad_cam(flat, gradients))[:, 0].relu(),
        "grad_cam_of_targets": lambda: maps(formulas.grad_cam(flat, targets)),
        "grad_cam_pp": lambda: maps(formulas.grad_cam_pp(flat, gradients))[:, 0].relu(),
        "xgrad_cam": lambda: maps(formulas.xgrad_cam(flat, targets, 0.5)),
        "layer_cam": lambda: maps(formulas.layer_cam(flat, targets)).relu(),
        "upsample_normalize": lambda: formulas.min_max(formulas.resampled(g[:, 0], (11, 8)), 2),
        "upsample_normalize_into": lambda: formulas.min_max(formulas.resampled(g[:, 0], (11, 8)), 2),
        "upsample_volume": lambda: formulas.resampled(g[:, :4], (5, 2, 8)),
        "occlude": lambda: formulas.occluded(a, windows, g[0, :, 0, 0]).double(),
        "mask_images": lambda: formulas.masked(a, k[:, :, 0, :4, :2]),
        "mask_volumes": lambda: formulas.masked(a.unsqueeze(2), k[:, :, :2, :3], normalize=False),
        "gather_patches": lambda: gathered_patches(a, g, windows).double(),
        "impute_neighbours": lambda: formulas.imputed(a, g[:, 0] > 0.3),
        "overlay": lambda: overlaid(a, g).double(),
        "resize_crop": lambda: resized(g).double(),
    }
    return formula[name]()


def gathered_patches(a, g, windows):
    """The windows of the first patch at four places."""
    patches = g[:1, :, :3, :2].expand(4, -1, -1, -1)
    return formulas.gathered(a, windows[:, 1, 0] % 2, patches, windows[:, 0], windows[:, 1] - 3, (6, 5), 0.5)


def overlaid(a, g):
    """Gradients as maps over activations as pixels of two greys."""
    pixels, maps = torch.where(a > 0, 150, 50).byte().numpy(), g[..., 0].detach().float().numpy()
    return torch.from_numpy(formulas.overlaid(pixels, maps, (np.arange(768) % 256).reshape(256, 3), 0.3))


def resized(g):
    """Three planes of gradients as pixels of two greys, resized to 4 x 7, without the lines and columns at the ends."""
    pixels = torch.where(g[:1, :3] > 0, 150, 50).byte()
    whole = F.interpolate(pixels, (4, 7), mode="bicubic", antialias=True)
    return whole[:, :, 1:4, 2:6].permute(0, 2, 3, 1)


def check(name, result, arguments):
    """Asserts the numbers of one function's result."""
    dtype = arguments[0].dtype if name in SAME_AS_INPUT else result_dtype(arguments[0].dtype)
    close(result, expected(name, *arguments), torch.uint8 if name in BYTES else dtype)


class EveryOp(nn.Module):
    """All the functions of a table, with arithmetic before and after them for a compiler to fuse around."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, a, g, k, windows):
        doubled = (2 * a, 2 * g, 2 * k, windows)
        return {name: function(*doubled) + a.mean() for name, function in self.table.items()}


def check_every_op(results, a, g, k, windows):
    """Asserts the numbers of an `EveryOp`."""
    for name, result in results.items():
        close(result, expected(name, 2 * a, 2 * g, 2 * k, windows) + a.double().mean())


def main():
    """Every op, dtype and layout; one chunk of channels and several."""
    for dtype in DTYPES:
        for layout in (contiguous, channels_last):
            for channels in (9, 135):
                arguments = inputs(dtype, layout=layout, channels=channels)
                for name, function in THROUGH_WRAPPER.items():
                    check(name, function(*arguments), arguments)
    print(json.dumps(fastcam.build_info()))


if __name__ == "__main__":
    main()
