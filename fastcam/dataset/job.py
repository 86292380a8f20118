"""The settings of a run, independent of the machine: used on this one, or sent to the nodes of a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastcam.classifiers.class_choice import ClassChoice
from fastcam.classifiers.models import Classifier
from fastcam.dataset.loading import Loader
from fastcam.dataset.records import JsonObject, Span
from fastcam.dataset.rows import BatchRows
from fastcam.dataset.runner import Report, Runner, default_workers
from fastcam.dataset.sources import Source
from fastcam.dataset.store import Store
from fastcam.explainer import Explainer


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        source: the images.
        classifier: the model, its preprocessing and class names.
        explainer_options: keyword arguments of :class:`fastcam.Explainer`.
        classes: the classes to explain for each image.
        loader: converts an image to the model's input.
        rows: what is written of each batch.
        folder: output folder.
        identity: all settings that determine the maps, see :func:`fastcam.dataset.identity.identity`.
        batch_size: images per batch.
        shard_size: images per shard.
        workers: threads that read and decode; None takes the default of the machine.
    """

    source: Source
    classifier: Classifier
    explainer_options: Mapping[str, Any]
    classes: ClassChoice
    loader: Loader
    rows: BatchRows
    folder: Path
    identity: JsonObject
    batch_size: int
    shard_size: int
    workers: int | None

    def open_store(self) -> Store:
        """Return the store of the output folder, created if necessary.

        Raises:
            ValueError: if the folder holds the maps of another run.
            OSError: if the folder cannot be written.
        """
        return Store(self.folder, self.identity)

    def spans(self) -> list[Span]:
        """Return the spans of all shards."""
        count = len(self.source)
        return [Span(start, min(start + self.shard_size, count)) for start in range(0, count, self.shard_size)]

    def missing_spans(self, store: Store) -> list[Span]:
        """Return the spans of the shards that are not committed."""
        return [span for span in self.spans() if not store.is_done(span)]

    def make_explainer(self) -> "Explainer[Any]":
        """Return the explainer of the model.

        Raises:
            ValueError, TypeError: for an invalid model, method or option.
        """
        return Explainer(self.classifier.model, batch_size=self.batch_size, **self.explainer_options)

    def make_runner(
        self, explainer: "Explainer[Any]", store: Store, report: Report, workers: int | None = None
    ) -> Runner:
        """Return the runner that makes shards in this process.

        Args:
            explainer: of the model.
            store: folder of the run.
            report: called after every batch and every commit.
            workers: threads that read and decode; None takes the job's.
        """
        return Runner(
            source=self.source,
            loader=self.loader,
            explainer=explainer,
            target=self.classes.target(self.classifier),
            rows=self.rows,
            store=store,
            device=device_of(self.classifier.model),
            batch_size=self.batch_size,
            workers=workers or self.workers or default_workers(),
            report=report,
            class_names=self.classifier.known_names,
        )

    def with_model(self, model: nn.Module) -> "Job":
        """Return the job with another copy of the model."""
        return replace(self, classifier=replace(self.classifier, model=model))


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU for a model without any."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
