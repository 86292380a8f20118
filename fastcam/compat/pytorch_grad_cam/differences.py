"""Intended differences from pytorch-grad-cam 1.5.7."""

DIFFERENCES = (
    ("fewer targets than the output has rows", "a ValueError; pytorch-grad-cam returns maps of zeros"),
    (
        "a model in training mode",
        "is explained in evaluation mode and restored; pytorch-grad-cam leaves it in evaluation mode",
    ),
    ("parameters", "get no .grad; pytorch-grad-cam adds its gradients to theirs"),
    (
        "images",
        "are not changed; pytorch-grad-cam's guided backpropagation makes them require gradients, so that ROAD fails",
    ),
    ("an IndexError inside `with`", "is raised; pytorch-grad-cam prints it and continues"),
    ("in-place modules after the layer", "do not change the activations; in pytorch-grad-cam they do"),
    (
        "GradCAMPlusPlus",
        "the paper's formula; exact_peer=True: 1e-6 in the denominator, which dominates small gradients",
    ),
    ("the sign of principal components", "that of the activations' energy; exact_peer=True: that of numpy.linalg.svd"),
    (
        "RefineCAM with eigen_smooth",
        "smooths by principal components; exact_peer=True: by augmentation, as pytorch-grad-cam does",
    ),
    (
        "AblationCAM with ratio_channels_to_ablate above 0.5",
        "all selected channels count; pytorch-grad-cam ignores those after the first that is selected twice",
    ),
    (
        "AblationCAM with negative activations",
        "the channel becomes 0; in pytorch-grad-cam the batch's minimum minus 1e7",
    ),
)
"""Pairs of a case and its difference in maps or behaviour from pytorch-grad-cam 1.5.7."""
