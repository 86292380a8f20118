"""Where the package does something else than the tool, on purpose."""

DIFFERENCES = (
    (
        "GuidedBackprop, Deconvolution, GuidedGradCam",
        "rectifiers in functions and in place follow the rule, too, and ReLU6; exact_peer=True: nn.ReLU modules alone",
    ),
    (
        'IntegratedGradients and LayerIntegratedGradients with method="riemann_trapezoid"',
        "weights that sum to 1; exact_peer=True: the tool's, which sum to 1 - 1 / n_steps",
    ),
    (
        "perturbations_per_eval=1, internal_batch_size=None",
        "as many copies at a time as suit the device, fewer where memory runs out; the tool takes one, or all of them",
    ),
    ("attributions", "carry no graph; the tool's do where they are multiplied by the inputs"),
    ("Occlusion of a model in float64", "is float64; the tool's is float32"),
    ("inputs that require no gradient", "are left alone; the tool sets requires_grad on them, and warns"),
    ("forward functions that change their input in place", "get a copy; the tool explains what they left, or fails"),
    ("threads", "each has its own hooks; the tool raises, or mixes them up"),
    ("models in training mode", "keep their buffers; the tool lets batch norms move"),
    ("attribute_future", "is not there"),
    ("DataParallel", "is run as it is: device_ids are kept, and not used"),
)
"""Where numbers or manners differ from Captum's 0.9.0, and how."""
