"""Where the package does something else than the tool, on purpose."""

DIFFERENCES = (
    (
        "GradCAMpp",
        "the paper's formula; exact_peer=True: the sum of ReLU(G)^3, for the tool's division does not reach its result",
    ),
    (
        "SmoothGradCAMpp",
        "means over the noisy images, weighting the activations of the image itself; exact_peer=True: the sum of A G^3 "
        "in the place of (sum A) G^3, and the last gradients and activations of the last noisy image",
    ),
    (
        "ScoreCAM, SSCAM, ISCAM",
        "masks are upsampled, then scaled to [0, 1], as in the paper; exact_peer=True: scaled, then upsampled",
    ),
    (
        "in-place modules behind the layer",
        "do not change what is explained; exact_peer=True: the maps are of what they left",
    ),
    ("NaN in the activations or gradients", "makes the map NaN; exact_peer=True: counts as 0"),
    ("normalised maps", "reach 1, and a constant one is 0; exact_peer=True: 1e-8 is added to the range"),
    ("threads", "each has its own forward pass; the tool mixes them up"),
    ("frozen parameters and torch.no_grad()", "work; the tool fails"),
    ("a graph that was freed, or that another error broke", "is named; the tool says that the score is not connected"),
    ("half precision", "gives float32 maps; the tool's are in half precision"),
    ("class_idx", "may be a tensor, a tuple or a number of NumPy; the tool takes int and list"),
    ("more arguments of the model", "are handed on by the methods that run it again; the tool leaves them out"),
    ("LeGrad", "runs the blocks once more when called, and leaves forward passes alone; the tool recomputes attention"),
    ("fuse_cams of maps with one axis", "is linear; the tool fails"),
    ("overlay_mask with a mask in bytes", "is one of [0, 1]; exact_peer=True: its squares wrap around at 256"),
)
"""Where maps or manners differ from torch-cam's 0.5.0, and how."""
