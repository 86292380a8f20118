"""What a run is to do, apart from where: one machine does it itself, a cluster's nodes are sent it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastcam.classifiers.class_choice import Asked
from fastcam.classifiers.models import Classifier
from fastcam.dataset.loading import Loader
from fastcam.dataset.runner import Report, Runner, usual_workers
from fastcam.dataset.sources import Source
from fastcam.dataset.store import Span, Store
from fastcam.dataset.table import Maps
from fastcam.explainer import Explainer


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        source: the images.
        classifier: the model and what one must know of it.
        explainer: keyword arguments of :class:`fastcam.Explainer`.
        asked: what to explain of every image.
        loader: from an image to the model's input.
        maps: how maps are kept.
        folder: where to.
        identity: what the maps are of, see :func:`fastcam.dataset.identity.identity`.
        batch_size: images at a time.
        shard_size: images per shard.
        workers: threads that read and decode; None takes what is usual where it runs.
    """

    source: Source
    classifier: Classifier
    explainer: Mapping[str, Any]
    asked: Asked
    loader: Loader
    maps: Maps
    folder: Path
    identity: Mapping[str, Any]
    batch_size: int
    shard_size: int
    workers: int | None

    def store(self) -> Store:
        """The folder, begun if need be.

        Raises:
            ValueError: where it holds the maps of another run.
            OSError: where it cannot be written.
        """
        return Store(self.folder, self.identity)

    def spans(self) -> list[Span]:
        """All shards."""
        count = len(self.source)
        return [Span(start, min(start + self.shard_size, count)) for start in range(0, count, self.shard_size)]

    def todo(self, store: Store) -> list[Span]:
        """The shards that are still to be made."""
        return [each for each in self.spans() if not store.is_done(each)]

    def engine(self) -> Explainer:
        """What explains the images.

        Raises:
            ValueError, TypeError: for a model, a method or an option that cannot be.
        """
        return Explainer(self.classifier.model, batch_size=self.batch_size, **self.explainer)

    def runner(self, engine: Explainer, store: Store, report: Report, **changes: Any) -> Runner:
        """What makes the shards in this process."""
        settings: dict[str, Any] = {
            "source": self.source,
            "loader": self.loader,
            "explainer": engine,
            "target": self.asked.target(self.classifier),
            "maps": self.maps,
            "store": store,
            "device": device_of(self.classifier.model),
            "batch_size": self.batch_size,
            "workers": self.workers or usual_workers(),
            "report": report,
        }
        return Runner(**{**settings, **changes})

    def with_model(self, model: nn.Module) -> "Job":
        """The same with a copy of the model."""
        return replace(self, classifier=replace(self.classifier, model=model))


def device_of(model: nn.Module) -> torch.device:
    """Where a model is."""
    return next((each.device for each in (*model.parameters(), *model.buffers())), torch.device("cpu"))
