"""Intended differences from Captum 0.9.0."""

DIFFERENCES = (
    (
        "GuidedBackprop, Deconvolution, GuidedGradCam",
        "the rule also applies to functional and in-place rectifiers and ReLU6; exact_peer=True: nn.ReLU modules only",
    ),
    (
        'IntegratedGradients and LayerIntegratedGradients with method="riemann_trapezoid"',
        "weights sum to 1; exact_peer=True: Captum's weights, which sum to 1 - 1 / n_steps",
    ),
    (
        "perturbations_per_eval=1, internal_batch_size=None",
        "as many copies at a time as suit the device, fewer where memory runs out; Captum takes one, or all of them",
    ),
    ("attributions", "carry no graph; Captum's do where they are multiplied by the inputs"),
    ("Occlusion of a model in float64", "is float64; Captum's is float32"),
    ("inputs that require no gradient", "are not changed; Captum sets requires_grad on them, and warns"),
    ("forward functions that change their input in place", "get a copy; Captum explains the changed input, or fails"),
    ("threads", "each has its own hooks; Captum raises, or mixes them up"),
    ("models in training mode", "keep their buffers; Captum lets batch norms update them"),
    (
        "gradient_func of methods at a layer or with another rule for rectifiers",
        "cannot be assigned; Captum calls it with the rule, and ignores it at a layer",
    ),
    ("FeatureAblation with keywords that it does not have", "refuses them; Captum ignores them"),
    ("attribute_future", "is not implemented"),
    ("DataParallel", "is run unchanged: device_ids are kept, and not used"),
)
"""Pairs of a feature and its difference in numbers or behaviour from Captum 0.9.0."""
