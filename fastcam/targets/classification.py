"""Scores of classifiers and regressors beyond the logit."""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from fastcam.devices import take_rows
from fastcam.model.elements import ModelOutput
from fastcam.targets.binding import Bound, Logit, Score
from fastcam.targets.class_indices import Classes, ClassIndices, class_indices, class_scores


class Probability(Logit):
    """Softmax probability of a class; the argument is that of :class:`Logit`."""

    def bind_to(self, indices: ClassIndices) -> Bound:
        """Return the score of these classes, which is no entry of the output."""
        return replace(super().bind_to(indices), is_logit=False)

    def scale(self, logits: Tensor) -> Tensor:
        """Return the softmax over the classes."""
        return logits.softmax(1)


class LogProbability(Probability):
    """Logarithm of the softmax probability of a class; the argument is that of :class:`Logit`."""

    def scale(self, logits: Tensor) -> Tensor:
        """Return the log-softmax over the classes."""
        return logits.log_softmax(1)


class Difference(Score):
    """Logit of one class minus that of another: the reason for the first and not the second.

    Args:
        first: as in :class:`Logit`.
        second: as ``first``; None for the highest class other than the first.
    """

    def __init__(self, first: Classes | None = None, second: Classes | None = None) -> None:
        self.first, self.second = first, second

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Find both classes of every image."""
        first = class_indices(output, self.first, count)
        second = self._runner_up(output, first) if self.second is None else class_indices(output, self.second, count)
        shapes = tuple(first.values.shape), tuple(second.values.shape)
        if shapes[0] != shapes[1]:
            raise ValueError(f"`second` must have as many classes as `first`, {shapes[0]}, got {shapes[1]}")

        def difference(out: ModelOutput, rows: Tensor) -> Tensor:
            logits = class_scores(out, len(rows))
            return Logit.pick(logits, first, rows) - Logit.pick(logits, second, rows)

        return Bound(difference, first)

    @staticmethod
    def _runner_up(output: ModelOutput, first: ClassIndices) -> ClassIndices:
        logits = class_scores(output, len(output)).detach()
        if logits.shape[1] < 2:
            raise ValueError("a difference of classes needs an output of at least two classes, got one")
        classes = first.values
        highest = logits.topk(2, 1).indices  # (N, 2)
        highest = highest.reshape(len(classes), *([1] * (classes.dim() - 1)), 2).expand(*classes.shape, 2)
        return ClassIndices(highest[..., 1].where(highest[..., 0] == classes, highest[..., 0]))


class Binary(Score):
    """The one output of a two-class model, (N,) or (N, 1).

    Args:
        positive: True explains the positive class, y; False the negative one, -y; None the predicted class.
        probability: take the sigmoid of the score.
    """

    def __init__(self, positive: bool | None = True, *, probability: bool = False) -> None:
        self.positive, self.probability = positive, probability

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Find the sign for every image."""
        logits = class_scores(output, count)
        if logits.shape[1] != 1:
            raise ValueError(f"a binary score needs an output of shape (N,) or (N, 1), got {tuple(output.shape)}")
        if self.positive is None:
            signs = (logits.detach()[:, 0] >= 0) * 2.0 - 1.0
        else:
            signs = logits.new_full((count,), 1.0 if self.positive else -1.0)

        def signed(out: ModelOutput, rows: Tensor) -> Tensor:
            values = class_scores(out, len(rows))[:, 0] * take_rows(signs, rows).to(out.dtype)
            return values.sigmoid() if self.probability else values

        return Bound(signed)


class Regression(Score):
    """One of the outputs of a regressor, (N,) or (N, D).

    Args:
        index: of the output, in [-D, D).
    """

    def __init__(self, index: int = 0) -> None:
        self.index = index

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Check the index."""
        values = class_scores(output, count)
        if not -values.shape[1] <= self.index < values.shape[1]:
            raise ValueError(f"`index` must lie in [0, {values.shape[1]}), got {self.index}")
        return Bound(lambda out, rows: class_scores(out, len(rows))[:, self.index])


class Similarity(Score):
    """Similarity of an embedding (N, D) to a reference.

    Args:
        reference: (D,) or (1, D), or one per image, (N, D).
        metric: "cosine" or "dot".
    """

    def __init__(self, reference: Tensor, metric: str = "cosine") -> None:
        if metric not in ("cosine", "dot"):
            raise ValueError(f'`metric` must be "cosine" or "dot", got {metric!r}')
        self.reference, self.metric = reference, metric

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Check that the embedding has the reference's length."""
        embeddings = class_scores(output, count)
        fits = self.reference.dim() == 1 or (self.reference.dim() == 2 and len(self.reference) in (1, count))
        if not fits or self.reference.shape[-1] != embeddings.shape[1]:
            raise ValueError(
                f"`reference` must have shape ({embeddings.shape[1]},) or ({count}, {embeddings.shape[1]}), "
                f"got {tuple(self.reference.shape)}"
            )
        references = self.reference.detach().to(embeddings).expand(count, -1)

        def similarity(out: Tensor, rows: Tensor) -> Tensor:
            expected = take_rows(references, rows)
            return F.cosine_similarity(out, expected) if self.metric == "cosine" else (out * expected).sum(1)

        return Bound(similarity)
