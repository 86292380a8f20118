"""Intended differences from torch-cam 0.5.0."""

DIFFERENCES = (
    (
        "GradCAMpp",
        "the paper's formula; exact_peer=True: the sum of ReLU(G)^3, as torch-cam discards the result of its division",
    ),
    (
        "SmoothGradCAMpp",
        "means over noisy images, weighting the activations of the original image; exact_peer=True: the sum of A G^3 "
        "instead of (sum A) G^3, with the rectified gradients and the weighted activations of the last noisy image",
    ),
    (
        "ScoreCAM, SSCAM, ISCAM",
        "masks are upsampled, then scaled to [0, 1], as in the paper; exact_peer=True: scaled, then upsampled",
    ),
    (
        "in-place modules after the layer",
        "do not change the explained activations; exact_peer=True: the maps use the changed activations",
    ),
    ("NaN in the activations or gradients", "makes the map NaN; exact_peer=True: counts as 0"),
    ("normalised maps", "reach 1, and a constant one is 0; exact_peer=True: 1e-8 is added to the range"),
    ("threads", "have separate forward passes; torch-cam mixes them up"),
    (
        "other explanations of the same model",
        "are not recorded by an extractor, and the hooks go away with it; torch-cam's remain and record every pass",
    ),
    ("frozen parameters and torch.no_grad()", "work; torch-cam fails"),
    (
        "a freed graph, or another error in the backward pass",
        "is reported as such; torch-cam reports that the score is not connected",
    ),
    ("half precision", "gives float32 maps; torch-cam's are in half precision"),
    ("class_idx", "may be a tensor, a tuple or a NumPy integer; torch-cam accepts int and list"),
    ("further arguments of the model", "are passed on by the methods that rerun it; torch-cam drops them"),
    ("LeGrad", "reruns the blocks when called and does not change forward passes; torch-cam recomputes attention"),
    ("fuse_cams of maps with one axis", "interpolates linearly; torch-cam fails"),
    ("overlay_mask with a uint8 mask", "scales it to [0, 1]; exact_peer=True: squares wrap around at 256"),
)
"""Pairs of a feature and its difference in maps or behaviour from torch-cam 0.5.0."""
