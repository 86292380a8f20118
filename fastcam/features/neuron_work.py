"""What the dataset runner does with a shard for its neurons: the images that excite each channel most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from fastcam.classifiers.class_choice import ClassChoice, class_count
from fastcam.classifiers.models import Classifier
from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.rows import describe, extended, rows_of_failures, table_of
from fastcam.dataset.work import Rows
from fastcam.inspect.contributions import contributions
from fastcam.inspect.survey import Survey, Surveyor
from fastcam.inspect.top import TopActivations

METHOD = "neurons"  # in the column of the method, which is null where an image failed
FIELDS = [
    pa.field("channel", pa.int32()),
    pa.field("rank", pa.int32()),
    pa.field("value", pa.float64()),
    pa.field("place", pa.int64()),  # in the flattened map
    pa.field("size", pa.list_(pa.int32())),  # of the maps: channels, then those of the map
]


@dataclass(frozen=True)
class NeuronWork:
    """The k images of every shard that excite each channel most.

    Attributes:
        layers: their names; None for the last layer of every resolution.
        k: images of a channel.
        target: a class, as users write it, whose contributions of channels are summed; None for none.
    """

    layers: tuple[str, ...] | None
    k: int
    target: str | None = None

    def start(self, classifier: Classifier, batch_size: int) -> "NeuronMaker":
        """Return what surveys images in this process."""
        surveyor = Surveyor(classifier.model, self.layers, self.k)
        return NeuronMaker(surveyor, classifier, self.target)


@dataclass
class NeuronMaker:
    """Surveys the layers of a model, shard by shard.

    Attributes:
        surveyor: of all shards.
        classifier: the model.
        target: as of :class:`NeuronWork`.
    """

    surveyor: Surveyor
    classifier: Classifier
    target: str | None = None
    _survey: Survey = field(init=False, default_factory=Survey)
    _images: list[tuple[LoadedImage, int, int | None]] = field(init=False, default_factory=list)
    _sums: dict[str, npt.NDArray[np.float64]] = field(init=False, default_factory=dict)
    _summed: int = field(init=False, default=0)
    _size: tuple[int, ...] = field(init=False, default=())

    def begin(self) -> "NeuronMaker":
        """Return what surveys the images of one more shard."""
        return replace(self)

    def of_batch(self, inputs: Tensor, images: Sequence[LoadedImage], numbers: Sequence[int]) -> Rows:
        """Survey images; there is no row: those of the highest activations are there at the end of the shard."""
        self.surveyor.survey = self._survey
        output = self.surveyor(inputs)
        self._add_contributions(inputs, output)
        self._survey = self.surveyor.survey  # not after an error: then the images are tried again
        is_classes = isinstance(output, Tensor) and output.dim() == 2
        predicted = output.argmax(1).tolist() if is_classes else [None] * len(images)
        known = [replace(image, tensor=None) for image in images]
        self._images += zip(known, numbers, predicted, strict=True)
        self._size = tuple(inputs.shape[2:])
        return _empty

    def _add_contributions(self, inputs: Tensor, output: Tensor) -> None:
        """Sum what the channels add to the chosen class, over the images in which the model sees it."""
        if self.target is None:
            return
        names = self.classifier.class_names(class_count(output))
        (index,) = ClassChoice((self.target,)).indices(output[:1], names)[0]
        found = inputs[output.argmax(1) == index]
        if not len(found):
            return
        layers = list(self.surveyor.survey)
        sums = {
            name: contributions(self.classifier.model, found, name, index).double().sum(0).cpu().numpy()
            for name in layers
        }
        for name, values in sums.items():
            self._sums[name] = self._sums.get(name, np.zeros(len(values))) + values
        self._summed += len(found)

    def of_failures(self, images: Sequence[LoadedImage], numbers: Sequence[int], reasons: Sequence[str]) -> pa.Table:
        """Return a row for every image."""
        return extended(rows_of_failures(images, numbers, reasons), FIELDS, {})

    def finish(self) -> tuple[Sequence[pa.Table], Mapping[str, object]]:
        """Return the rows of the highest activations, and what the channels add to the class."""
        rows = [self._rows(name, seen.top) for name, seen in self._survey.items()]
        stored: dict[str, object] = {"size": list(self._size)}
        if self.target is not None:
            sums = {name: values.tolist() for name, values in self._sums.items()}
            stored["contributions"] = {"images": self._summed, "sums": sums}
        return rows, stored

    def _rows(self, layer: str, top: TopActivations) -> pa.Table:
        values, images, places = (each.cpu().numpy() for each in (top.values, top.images, top.places))
        channel, rank = np.nonzero(images >= 0)
        chosen = images[channel, rank]
        seen = [self._images[number] for number in chosen]
        count = len(seen)
        columns = {
            **describe([image for image, _, _ in seen], [number for _, number, _ in seen]),
            "predicted": pa.array([predicted for _, _, predicted in seen], pa.int32()),
            "method": pa.array([METHOD] * count, pa.string()),
            "layer": pa.array([layer] * count, pa.string()),
            "status": pa.array(["ok"] * count, pa.string()),
        }
        own = {
            "channel": pa.array(channel, pa.int32()),
            "rank": pa.array(rank, pa.int32()),
            "value": pa.array(values[channel, rank], pa.float64()),
            "place": pa.array(places[channel, rank], pa.int64()),
            "size": pa.array([[len(top), *top.size]] * count, pa.list_(pa.int32())),
        }
        return extended(table_of(columns, count), FIELDS, own)


def _empty() -> pa.Table:
    return extended(table_of({}, 0), FIELDS, {})
