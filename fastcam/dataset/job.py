"""The settings of a run, independent of the machine: used on this one, or sent to the nodes of a cluster."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from fastcam.classifiers.models import Classifier
from fastcam.dataset.batch_inputs import BatchInputs
from fastcam.dataset.decoding_processes import DecodeIn
from fastcam.dataset.device_decoding import device_decoder
from fastcam.dataset.loading import Loader
from fastcam.dataset.records import JsonObject, Span
from fastcam.dataset.runner import Making, Report, Runner
from fastcam.dataset.shard_rows import ShardRows, batches_ahead
from fastcam.dataset.sources import Source
from fastcam.dataset.store import Store
from fastcam.dataset.work import Maker, Work
from fastcam.dataset.workers import Workers, usable_cores, usual_count, usual_place


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        source: the images.
        classifier: the model, its preprocessing and class names.
        work: what is made of the images.
        loader: converts an image to the model's input.
        folder: output folder.
        identity: all settings that determine the rows, see :func:`fastcam.dataset.identity.identity`.
        batch_size: images per batch.
        shard_size: images per shard.
        workers: threads that read and decode; None takes the default of the machine.
        decode_in: where these threads decode; None takes the default of the machine.
    """

    source: Source
    classifier: Classifier
    work: Work
    loader: Loader
    folder: Path
    identity: JsonObject
    batch_size: int
    shard_size: int
    workers: int | None
    decode_in: DecodeIn | None = None

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return device_of(self.classifier.model)

    def open_store(self) -> Store:
        """Return the store of the output folder, created if necessary.

        Raises:
            ValueError: if the folder holds the results of another run.
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

    def make_maker(self) -> Maker:
        """Return what makes the rows in this process.

        Raises:
            ValueError, TypeError: for an invalid model, layer or option.
        """
        return self.work.start(self.classifier, self.batch_size)

    def make_runner(self, maker: Maker, store: Store, report: Report, cores: int | None = None) -> Runner:
        """Return the runner that makes shards in this process.

        Args:
            maker: makes the rows.
            store: folder of the run.
            report: called after every batch and every commit.
            cores: of this machine that the run may use; None takes all.
        """
        loader = replace(self.loader, pixels=self.device.type != "cpu")
        makings, decoder = [self.make_making(maker, store)], device_decoder(loader, self.device)
        return Runner(self.source, loader, makings, self.workers_on(cores), report, decoder)

    def workers_on(self, cores: int | None = None) -> Workers:
        """Return what loads the images on so many cores of this machine; None takes all."""
        cores = cores or usable_cores()
        decode_in = self.decode_in or usual_place(self.device, self.loader.decoder, cores)
        return Workers(self.workers or usual_count(decode_in, cores), decode_in)

    def make_making(self, maker: Maker, store: Store, input: int = 0) -> Making:
        """Return what a runner makes for this job.

        Args:
            maker: makes the rows.
            store: folder of the run.
            input: which of the runner's inputs of an image the model sees.
        """
        inputs = BatchInputs(self.device, self.loader.preprocessing, batches_ahead(self.device))
        return Making(ShardRows(maker, inputs, self.batch_size), store, input)

    def with_model(self, model: nn.Module) -> "Job":
        """Return the job with another copy of the model."""
        return replace(self, classifier=replace(self.classifier, model=model))


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU for a model without any."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
