"""Any shape, dtype and memory layout: op == formula."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcam import ops
from tests.ops import formulas
from tests.ops.op_tester import DTYPES, close, result_dtype, same_bits

settings.register_profile("ops", deadline=None, max_examples=60, derandomize=True)
PROFILE = settings.get_profile("ops")

SIZES = st.integers(1, 9)
CHANNELS = st.one_of(st.integers(1, 9), st.sampled_from([17, 130, 515]))
SPATIAL = st.lists(SIZES, min_size=1, max_size=3)
TARGETS = st.sampled_from([None, None, 1, 2, 3])
SEEDS = st.integers(0, 2**32 - 1)


def random(draw, shape, dtype):
    """Normal numbers, from a drawn seed: what matters here is where they lie in memory."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(draw(SEEDS))).to(dtype)


def anywhere(draw, values):
    """The values in memory of any order of the axes, with gaps of NaN between them; some axes expanded."""
    for axis in range(values.dim()):
        if values.shape[axis] and draw(st.integers(0, 9)) == 0:
            values = values.narrow(axis, 0, 1).clone().expand_as(values)
    if draw(st.integers(0, 4)) == 0:
        return values
    order = draw(st.permutations(range(values.dim())))
    steps = [draw(st.sampled_from([1, 1, 1, 2])) for _ in order]
    before = [draw(st.sampled_from([0, 0, 1])) for _ in order]
    sizes = [values.shape[axis] * step + gap for axis, step, gap in zip(order, steps, before, strict=True)]
    memory = values.new_full(sizes, float("nan"))
    view = memory[tuple(slice(gap, None, step) for gap, step in zip(before, steps, strict=True))]
    view = view.permute([order.index(axis) for axis in range(values.dim())])
    return view.copy_(values)


@st.composite
def pairs(draw):
    """Activations, half of them 0, and gradients."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = [draw(st.integers(0, 3)), draw(CHANNELS), *draw(SPATIAL)]
    targets = draw(TARGETS)
    gradients_shape = shape if targets is None else [shape[0], targets, *shape[1:]]
    activations = random(draw, shape, dtype).relu()
    return anywhere(draw, activations), anywhere(draw, random(draw, gradients_shape, dtype))


def exact(formula, activations, gradients):
    """The formula of flat (N, 1, C, P) and (N, K, C, P), float64, in the shape of the maps."""
    has_targets = gradients.dim() > activations.dim()
    g = gradients.double().flatten(2 + has_targets)
    maps = formula(activations.double().flatten(2).unsqueeze(1), g if has_targets else g.unsqueeze(1))
    return maps.reshape(*gradients.shape[: 1 + has_targets], *activations.shape[2:])


def check(op, formula, activations, gradients):
    """Within 1e-5 of the sum of what is added up: its terms may cancel."""
    signed = exact(formula, activations, gradients)
    terms = exact(formula, activations.abs(), gradients.abs()) if formula is not formulas.grad_cam_pp else signed
    scale = terms.max() if terms.numel() else 0
    dtype = result_dtype(activations.dtype)
    close(op(activations, gradients, relu=False), signed, dtype, scale)
    close(op(activations, gradients, relu=True), signed.clamp(min=0), dtype, scale)


@PROFILE
@given(pairs())
def test_grad_cam(pair):
    check(ops.grad_cam, formulas.grad_cam, *pair)


@PROFILE
@given(pairs())
def test_grad_cam_pp(pair):
    check(ops.grad_cam_pp, formulas.grad_cam_pp, *pair)


@PROFILE
@given(pairs())
def test_element_weights(pair):
    check(ops.weighted_channel_sum, formulas.element_weights, *pair)


@PROFILE
@given(pairs(), st.data())
def test_channel_weights(pair, data):
    activations, gradients = pair
    spatial = activations.dim() - 2
    weights = gradients[(..., *[0] * spatial)] if data.draw(st.booleans()) else gradients.flatten(-spatial).mean(-1)
    if weights.shape == activations.shape:  # these would be one per element
        weights = weights[:, 0]
    if data.draw(st.booleans()):
        weights = weights.to(result_dtype(weights.dtype))
    as_gradients = weights.reshape(*weights.shape, *[1] * spatial).expand(*weights.shape, *activations.shape[2:])
    check(
        lambda a, _, relu: ops.weighted_channel_sum(a, weights, relu=relu),
        formulas.element_weights,
        activations,
        as_gradients,
    )


@st.composite
def maps_and_sizes(draw):
    dtype = draw(st.sampled_from(DTYPES))
    spatial = draw(SPATIAL)
    lead = draw(st.lists(st.integers(0, 3), min_size=1, max_size=2))
    size = [draw(st.integers(1, 20)) for _ in spatial]
    return anywhere(draw, random(draw, [*lead, *spatial], dtype)), size


@PROFILE
@given(maps_and_sizes(), st.booleans())
def test_upsample_normalize(maps_and_size, normalize):
    maps, size = maps_and_size
    resampled = formulas.resampled(maps, size)
    if not normalize:
        return close(ops.upsample_normalize(maps, size, normalize=False), resampled, maps.dtype)
    scaled = ops.upsample_normalize(maps, size)
    assert ((scaled >= 0) & (scaled <= 1)).all()
    spatial = tuple(range(-len(size), 0))
    if maps.numel():  # what the smallest of many ranges magnifies is not the op's error
        ranges = resampled.amax(spatial, keepdim=True) - resampled.amin(spatial, keepdim=True)
        keep = ((ranges > 1) | (ranges < 1e-12)).expand_as(resampled)
        scaled, expected = torch.where(keep, scaled, 0), torch.where(keep, formulas.min_max(resampled, len(size)), 0)
        return close(scaled, expected, maps.dtype, scale=1)
    return None


@st.composite
def occlusions(draw):
    """Images, windows anywhere, and a baseline of any shape that is allowed."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = [draw(st.integers(0, 3)), draw(st.integers(1, 4)), *draw(SPATIAL)]
    axes = len(shape) - 2
    number = st.one_of(st.integers(-12, 12), st.integers(-(2**62), 2**62))
    flat = [draw(number) for _ in range(draw(st.integers(0, 4)) * 2 * axes)]
    windows = torch.tensor(flat, dtype=torch.int64).reshape(-1, 2, axes)
    baseline_shape = draw(st.sampled_from([[], shape[1:2], shape[1:], shape]))
    images, baseline = random(draw, shape, dtype), random(draw, baseline_shape, dtype)
    return anywhere(draw, images), anywhere(draw, windows.double()).long(), anywhere(draw, baseline)


@PROFILE
@given(occlusions())
def test_occlude(arguments):
    same_bits(ops.occlude(*arguments), formulas.occluded(*arguments))


@st.composite
def images_and_maps(draw):
    """Images and maps of any size, half precision images also under float32 maps."""
    dtype, spatial = draw(st.sampled_from(DTYPES)), draw(SPATIAL)
    images = random(draw, [draw(st.integers(0, 3)), draw(st.integers(1, 5)), *spatial], dtype)
    map_shape = [len(images), draw(st.integers(0, 4)), *[draw(st.integers(1, 20)) for _ in spatial]]
    maps = random(draw, map_shape, draw(st.sampled_from([dtype, result_dtype(dtype)])))
    return anywhere(draw, images), anywhere(draw, maps)


@PROFILE
@given(images_and_maps(), st.booleans())
def test_mask_images(arguments, normalize):
    images, maps = arguments
    copies, expected = ops.mask_images(images, maps, normalize), formulas.masked(images, maps, normalize)
    if normalize and expected.numel():  # what the smallest of many ranges magnifies is not the op's error
        spatial = tuple(range(2, images.dim()))
        masks = formulas.resampled(maps, images.shape[2:])
        ranges = masks.amax(spatial, keepdim=True) - masks.amin(spatial, keepdim=True)
        keep = ((ranges > 1) | (ranges < 1e-12)).unsqueeze(2).expand_as(expected)
        copies, expected = torch.where(keep, copies, 0), torch.where(keep, expected, 0)
    close(copies, expected, images.dtype)


@st.composite
def patches_in_windows(draw):
    """Activations, patches and windows of any size, anywhere."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = [draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(SIZES), draw(SIZES)]
    count, numbers = draw(st.integers(0, 4)), st.one_of(st.integers(-12, 12), st.integers(-(2**63), 2**63 - 1))
    patch_shape = [count, shape[1], draw(st.integers(0, 9)), draw(st.integers(0, 9))]
    images = torch.tensor([draw(st.integers(0, shape[0] - 1)) for _ in range(count)], dtype=torch.int64)
    places = torch.tensor([draw(numbers) for _ in range(4 * count)], dtype=torch.int64).reshape(2, count, 2)
    clean, patches = random(draw, shape, dtype), random(draw, patch_shape, dtype)
    size = (draw(SIZES), draw(SIZES))
    return anywhere(draw, clean), images, anywhere(draw, patches), *places, size, draw(st.sampled_from([0.0, -1.5]))


@PROFILE
@given(patches_in_windows())
def test_gather_patches(arguments):
    same_bits(ops.gather_patches(*arguments), formulas.gathered(*arguments))
