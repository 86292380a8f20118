"""The images of a dataset that excite each channel most, on the dataset runner: resumable, and on a Ray cluster."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn

from fastcam.classifiers.models import Classifier
from fastcam.dataset.api import run_job
from fastcam.dataset.cluster import Cluster
from fastcam.dataset.devices import OnDevices
from fastcam.dataset.job_arguments import Feeding, classifier_of, job_of, layer_names
from fastcam.dataset.reader import Maps
from fastcam.dataset.runner import Progress, Report
from fastcam.dataset.sources import SourceLike
from fastcam.features.neuron_work import NeuronWork
from fastcam.inspect.recording import Layers, resolve
from fastcam.inspect.top import TopActivations


def run(
    source: SourceLike,
    model: nn.Module | Classifier,
    out: str | Path,
    *,
    layers: Layers | None = None,
    k: int = 12,
    target: str | int | None = None,
    ray: Cluster | str | None = None,
    devices: OnDevices | None = None,
    report: Report | None = None,
    **feeding: Unpack[Feeding],
) -> Progress:
    """Find the k images of a dataset that excite each channel of layers most; resume a run that was interrupted.

    Memory is in proportion to the channels and k. Every shard keeps its own k images of every channel; what
    :class:`Neurons` reads from them together is what one pass over all images would find.

    Args:
        source: as for :func:`fastcam.dataset.run`.
        model: as for :func:`fastcam.dataset.run`.
        out: output folder.
        layers: modules of the model or their names; None takes the last layer of every resolution.
        k: images of a channel.
        target: a class by index or name: over the images in which the model sees it, what each channel adds to its
            score is summed.
        ray: as for :func:`fastcam.dataset.run`.
        devices: as for :func:`fastcam.dataset.run`.
        report: as for :func:`fastcam.dataset.run`.
        feeding: ``preprocessing``, ``batch_size``, ``shard_size``, ``workers``, ``limits``, ``decoder`` and
            ``decode_in``, as for :func:`fastcam.dataset.run`.

    Returns:
        The progress at the end.

    Raises:
        InterruptedRunError: after SIGINT or SIGTERM.
        OSError: if the folder cannot be written; committed shards are kept.
        ValueError, TypeError, RuntimeError: for invalid arguments or a failed run; committed shards are kept.
    """
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"`k` must be a positive whole number, got {k!r}")
    if re.fullmatch(r"top\d*|label|objects", str(target).lower()):
        raise ValueError(f"`target` must be one class for all images, by index or name, got {target!r}")
    classifier = classifier_of(model, feeding.get("preprocessing"))
    named = [layers] if isinstance(layers, str | nn.Module) else layers
    names = None if named is None else tuple(layer.name for layer in resolve(classifier.model, named))
    chosen = None if target is None else str(target)
    job = job_of(
        source,
        classifier,
        out,
        NeuronWork(names, k, chosen),
        {"neurons": {"layers": layer_names(classifier.model, names), "k": k, "target": chosen}},
        **feeding,
    )
    return run_job(job, report or (lambda progress: None), ray, devices)


class Neurons:
    """The highest activations of a dataset: the shards of a folder together.

    Args:
        folder: output folder of :func:`run`.

    Attributes:
        top: of every layer; ``images`` are places in the attribute of that name.
        images: the image_id, path, label and predicted class of each image that is among them.
        size: of the model's input.
        contributions: of every layer (C,), what its channels add to the chosen class, the mean over its images.
        class_images: so many.

    Raises:
        ValueError: for a folder that holds no neurons, or is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.maps = Maps(folder)
        if "neurons" not in self.maps.identity:
            raise ValueError(f"{str(folder)!r} holds the results of another command than `fastcam neurons`")
        self.top: dict[str, TopActivations] = {}
        self.images: list[dict[str, Any]] = []
        self.size: tuple[int, ...] = ()
        self.contributions: dict[str, npt.NDArray[np.float64]] = {}
        self.class_images = 0
        for commit in self.maps.commits:
            table, size = self.maps.read_shard(commit)
            self.size = self.size or size
            self._add_shard(table.filter(pa.compute.is_valid(table["method"])))
            self._add_contributions(json.loads(table.schema.metadata[b"fastcam"]).get("contributions"))
        self.contributions = {name: values / self.class_images for name, values in self.contributions.items()}

    @property
    def identity(self) -> dict[str, object]:
        """The identity of the run."""
        return self.maps.identity

    def _add_shard(self, rows: pa.Table) -> None:
        """Add the highest activations of a shard; images that are among the highest no more are forgotten."""
        known = {image["image_id"]: place for place, image in enumerate(self.images)}
        described = rows.select(["image_id", "path", "label", "predicted"]).to_pylist()
        for image in described:
            if image["image_id"] not in known:
                known[image["image_id"]] = len(self.images)
                self.images.append(image)
        places = np.array([known[image["image_id"]] for image in described], np.int64)
        layers = rows["layer"].to_numpy()
        for layer in dict.fromkeys(rows["layer"].to_pylist()):
            found = _top(rows.filter(pa.array(layers == layer)), places[layers == layer], self.identity["neurons"])
            self.top[layer] = self.top[layer] + found if layer in self.top else found
        self._forget()

    def _forget(self) -> None:
        if not self.top:
            return
        kept = np.unique(np.concatenate([top.images[top.images >= 0].numpy() for top in self.top.values()]))
        renumbered = np.full(len(self.images) + 1, -1, np.int64)  # the last place is that of no image
        renumbered[kept] = np.arange(len(kept))
        self.images = [self.images[int(place)] for place in kept]
        for name, top in self.top.items():
            self.top[name] = replace(top, images=torch.from_numpy(renumbered[top.images.numpy()]))

    def _add_contributions(self, stored: Mapping[str, Any] | None) -> None:
        for name, values in (stored or {}).get("sums", {}).items():
            self.contributions[name] = self.contributions.get(name, np.zeros(len(values))) + np.array(values)
        self.class_images += (stored or {}).get("images", 0)

    def table(self, boxes: Mapping[str, Callable[[int, int], tuple[int, int, int, int]]]) -> pa.Table:
        """Return a row for each of the highest activations: image, value, position, and the pixels that the unit sees.

        Args:
            boxes: by layer, from (row, column) of its map to left, top, right, bottom of the input.
        """
        rows = []
        for layer, top in self.top.items():
            for channel, rank in np.argwhere(top.images.numpy() >= 0).tolist():
                image = self.images[int(top.images[channel, rank])]
                position = top.position(channel, rank)
                row, column = position if len(position) == 2 else (0, 0)
                left, upper, right, lower = boxes[layer](row, column)
                rows.append(
                    {
                        "layer": layer,
                        "channel": channel,
                        "rank": rank,
                        "image": image["image_id"],
                        "label": image["label"],
                        "value": float(top.values[channel, rank]),
                        "row": row,
                        "column": column,
                        "left": left,
                        "top": upper,
                        "right": right,
                        "bottom": lower,
                    }
                )
        return pa.Table.from_pylist(rows)


def _top(rows: pa.Table, images: npt.NDArray[np.int64], settings: Any) -> TopActivations:
    """Return the highest activations of a layer from their rows in a shard."""
    channel, rank = rows["channel"].to_numpy(), rows["rank"].to_numpy()
    channels, *size = rows["size"][0].as_py()
    shape = (channels, settings["k"])
    values, numbers, places = np.full(shape, -np.inf), np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    values[channel, rank], numbers[channel, rank], places[channel, rank] = (
        rows["value"].to_numpy(),
        images,
        rows["place"].to_numpy(),
    )
    tensors = [torch.from_numpy(each) for each in (values, numbers, places)]
    return TopActivations(settings["k"], tensors[0], tensors[1], tensors[2], tuple(size))
