"""How badly an autoencoder gives an image back: the score of models that learn what is normal."""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcam.model.elements import ModelOutput
from fastcam.model.running import WithInput
from fastcam.targets.binding import Bound, Score, describe_value

Error: TypeAlias = Literal["squared", "absolute"]


class Reconstruction(Score):
    """Error of an autoencoder's reconstruction of each image, its mean over all values.

    In the copies of an image that occlusion, RISE or Score-CAM make, it is the error of the copy's own reconstruction.
    The reconstruction is the one tensor of the output in the shape of the images; leave ``select`` out.

    >>> fastcam.explain(autoencoder, images, "occlusion", fastcam.targets.Reconstruction())

    Args:
        error: "squared" or "absolute" differences.
    """

    reads_whole_output = True
    reads_input = True

    def __init__(self, error: Error = "squared") -> None:
        if error not in get_args(Error):
            raise ValueError(f"`error` must be one of {', '.join(get_args(Error))}, got {error!r}")
        self.error = error

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Find the reconstruction in the output."""
        if not isinstance(output, WithInput):
            raise TypeError("Reconstruction finds the reconstruction in the model's output itself: leave `select` out")
        found = [
            place
            for place, leaf in enumerate(tree_leaves(output.output))
            if isinstance(leaf, Tensor) and leaf.shape == output.images.shape
        ]
        if len(found) != 1:
            has = f"{len(found)} tensors" if found else "no tensor"
            raise ValueError(
                f"the model's output must hold one tensor of the images' shape {tuple(output.images.shape)}, their "
                f"reconstruction; it has {has} of it, in {describe_value(output.output)}"
            )

        def score(out: ModelOutput, rows: Tensor) -> Tensor:
            return self.errors(tree_leaves(out.output)[found[0]], out.images).flatten(1).mean(1)

        return Bound(score)

    def errors(self, reconstructions: Tensor, images: Tensor) -> Tensor:
        """Return the errors (N, *S) of every position, their mean over the channels: the model's own anomaly map."""
        difference = reconstructions - images
        values = difference.square() if self.error == "squared" else difference.abs()
        return torch.mean(values, 1)
