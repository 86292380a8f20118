"""The papers' formulas in their own form, float64, before the final ReLU.

Activations a (N, 1, C, P) and gradients g (N, K, C, P) give maps (N, K, P). Nothing here knows `fastcam.ops.reference`.
"""

import math
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F


def weigh(a, w):
    """sum_c w_c A_c for weights (N, K, C)."""
    return torch.einsum("nkc,ncp->nkp", w, a.squeeze(1))


def grad_cam(a, g):
    """w_c = 1/Z sum_p G_cp (arXiv:1610.02391, eq. 1); sum_c w_c A_c (eq. 2)."""
    return weigh(a, g.sum(-1) / g.shape[-1])


def grad_cam_pp(a, g):
    """alpha = G^2 / (2 G^2 + sum_p A G^3), 0 for / 0; w_c = sum_p alpha ReLU(G) (arXiv:1710.11063, eq. 19)."""
    denominator = 2 * g**2 + a.sum(-1, keepdim=True) * g**3
    alpha = torch.where(denominator != 0, g**2 / denominator, 0)
    return weigh(a, (alpha * g.relu()).sum(-1))


def xgrad_cam(a, g, eps=1e-7):
    """w_c = sum_p A_cp / (sum_q A_cq + eps) G_cp (arXiv:2008.02312, eq. 8)."""
    return weigh(a, (a / (a.sum(-1, keepdim=True) + eps) * g).sum(-1))


def layer_cam(a, g):
    """w_cp = ReLU(G_cp); sum_c w_cp A_cp (doi:10.1109/TIP.2021.3089943, eq. 4-5)."""
    return (g.relu() * a).sum(2)


def element_weights(a, w):
    """sum_c w_cp A_cp; HiRes-CAM with w = G (arXiv:2011.08891, eq. 4)."""
    return (w * a).sum(2)


def resampled(maps, size):
    """Linear resampling of (N, [K,] *s) along every axis in float64, align_corners=False."""
    mode = ["linear", "bilinear", "trilinear"][len(size) - 1]
    lead = maps.shape[: maps.dim() - len(size)]
    flat = maps.double().reshape(-1, 1, *maps.shape[len(lead) :])
    return F.interpolate(flat, size=tuple(size), mode=mode, align_corners=False).reshape(*lead, *size)


def plane_moments(activations):
    """Mean, sum of squared deviations, zeros, maximum and its first place of every plane (N, C, *S): (5, N, C)."""
    planes = activations.detach().double().flatten(2)
    mean = planes.sum(2) / planes.shape[2]
    squares = ((planes - mean[..., None]) ** 2).sum(2)
    numbers = np.where(np.isnan(planes.numpy(force=True)), -np.inf, planes.numpy(force=True))
    place = torch.from_numpy(numbers.argmax(2)).to(mean)
    maximum = torch.from_numpy(numbers.max(2)).to(mean)
    return torch.stack([mean, squares, (planes == 0).sum(2).double(), maximum, place])


def min_max(maps, axes):
    """(u - min u) / (max u - min u) of each map (N, [K,] *S), float64; a map constant up to its rounding is 0."""
    if maps.numel() == 0:
        return maps
    spatial = tuple(range(-axes, 0))
    low, high = maps.amin(spatial, keepdim=True), maps.amax(spatial, keepdim=True)
    return torch.where(high - low > 1e-13 * high.abs(), (maps - low) / (high - low), 0)


def masked(images, maps, normalize=True):
    """Images (N, C, *S) times resampled maps (N, K, *s), scaled to [0, 1] unless told, in float64: (N, K, C, *S)."""
    masks = resampled(maps, images.shape[2:])
    if normalize:
        masks = min_max(masks, images.dim() - 2)
    return torch.einsum("nc...,nk...->nkc...", images.double(), masks)


def occluded(images, windows, baseline):
    """Copies (N, M, C, *S) with windows cut by Python's own integers, which do not overflow."""
    if baseline.dim() == 1:
        baseline = baseline.reshape(-1, *[1] * (images.dim() - 2))
    filling = baseline.expand_as(images)
    copies = torch.stack([images] * len(windows), 1) if len(windows) else images.unsqueeze(1)[:, :0]
    copies = copies.clone()
    for m, (starts, sizes) in enumerate(windows.tolist()):
        ends = [start + max(size, 0) for start, size in zip(starts, sizes, strict=True)]
        box = tuple(slice(max(start, 0), max(end, 0)) for start, end in zip(starts, ends, strict=True))
        copies[(slice(None), m, slice(None), *box)] = filling[(slice(None), slice(None), *box)]
    return copies


def gathered(clean, images, patches, origins, windows, size, fill=0.0):
    """Windows (M, C, *size), element by element with Python's own integers, which do not overflow."""
    out = clean.new_full((len(patches), clean.shape[1], *size), fill)
    for m, (n, origin, window) in enumerate(zip(images.tolist(), origins.tolist(), windows.tolist(), strict=True)):
        for i, j in np.ndindex(*size):
            y, x = window[0] + i, window[1] + j
            if not (0 <= y < clean.shape[2] and 0 <= x < clean.shape[3]):
                continue
            row, column = y - origin[0], x - origin[1]
            if 0 <= row < patches.shape[2] and 0 <= column < patches.shape[3]:
                out[m, :, i, j] = patches[m, :, row, column]
            else:
                out[m, :, i, j] = clean[n, :, y, x]
    return out


def rounded(value):
    """The nearest whole number, halves upwards, of a fraction."""
    return math.floor(value + Fraction(1, 2))


def overlaid(images, maps, colors, alpha):
    """round(image + alpha (color[round(255 map)] - image)) of NumPy arrays, in fractions: nothing is ever rounded."""
    share = Fraction(float(np.float32(alpha)))
    out = images.copy()
    for place in np.ndindex(*maps.shape):
        value = float(np.float32(maps[place]))
        if math.isnan(value):
            continue
        color = colors[rounded(255 * Fraction(min(max(value, 0.0), 1.0)))]
        for c in range(3):
            pixel = int(images[(*place, c)])
            out[(*place, c)] = rounded(pixel + share * (int(color[c]) - pixel))
    return out


def imputed(images, missing):
    """Images with missing pixels filled in: one times the weights of its neighbours is their weighted sum."""
    images, filled = images.double(), images.double().clone()
    height, width = missing.shape[1:]
    for n, hole in enumerate(missing):
        places = hole.nonzero().tolist()
        numbers = {tuple(place): number for number, place in enumerate(places)}
        matrix = torch.zeros(len(places), len(places), dtype=torch.float64)
        right = torch.zeros(len(places), images.shape[1], dtype=torch.float64)
        for row, (y, x) in enumerate(places):
            for down, across in ((j, i) for j in (-1, 0, 1) for i in (-1, 0, 1) if (j, i) != (0, 0)):
                near, weight = (y + down, x + across), 1 / 6 if 0 in (down, across) else 1 / 12
                if not (0 <= near[0] < height and 0 <= near[1] < width):
                    continue
                matrix[row, row] += weight
                if near in numbers:
                    matrix[row, numbers[near]] -= weight
                else:
                    right[row] += weight * images[n, :, near[0], near[1]]
        if places and len(places) < height * width:
            filled[n, :, hole] = torch.linalg.solve(matrix, right).T
        elif places:
            filled[n] = 0
    return filled
