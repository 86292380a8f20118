"""What ``fastcam neurons`` writes: a table of the highest activations, and a sheet for every layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
from torch import Tensor

from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import Preprocessing, write_png
from fastcam.dataset.decode import Limits, decode_image
from fastcam.dataset.sources import Item, SourceLike
from fastcam.features.neurons import Neurons
from fastcam.features.thumbnails import items_of, read_item
from fastcam.inspect import ChannelStatistics, LayerSurvey, ReceptiveField, receptive_field, sheet
from fastcam.render import Bytes

MOST = 16  # channels of a sheet, if the user names none


@dataclass
class NeuronSheets:
    """The sheets of a run.

    Attributes:
        found: the highest activations.
        classifier: the model.
        preprocessing: that made its inputs.
        source: the images.
        projection: what is drawn below the parts of the images; None for nothing.
    """

    found: Neurons
    classifier: Classifier
    preprocessing: Preprocessing
    source: SourceLike
    projection: str | None
    _fields: dict[str, ReceptiveField] = field(init=False, default_factory=dict)

    def write_rows(self, folder: Path) -> None:
        """Write neurons.csv and neurons.parquet."""
        table = self.found.table({name: self._field(name).box for name in self.found.top})
        pyarrow.csv.write_csv(table, folder / "neurons.csv")
        pyarrow.parquet.write_table(table, folder / "neurons.parquet", compression="zstd")

    def write(self, layer: str, channels: Sequence[int] | None, file: Path) -> int:
        """Write the sheet of a layer; return how many channels are on it.

        Args:
            layer: its name.
            channels: to draw, where the layer has them; None for the first ones, or those that a class uses most.
            file: PNG.
        """
        top, added = self.found.top[layer], self.found.contributions.get(layer)
        highest = range(MOST) if added is None else np.argsort(-added, kind="stable")[:MOST].tolist()
        chosen = [channel for channel in (highest if channels is None else channels) if channel < len(top)]
        if not chosen:
            return 0
        titles = None if added is None else [f"channel {each}\nadds {added[each]:.3g}" for each in chosen]
        seen = LayerSurvey(layer, ChannelStatistics(), top)
        picture = sheet(
            self.classifier.model, seen, self._load, chosen, self.preprocessing.size, self.projection, titles
        )
        write_png(picture, file)
        return len(chosen)

    def _field(self, layer: str) -> ReceptiveField:
        if layer not in self._fields:
            size, colours = self.preprocessing.size, len(self.preprocessing.mean)
            self._fields[layer] = receptive_field(self.classifier.model, layer, size, colours)
        return self._fields[layer]

    @cached_property
    def _items(self) -> dict[str, Item]:
        return items_of(self.source, [image["image_id"] for image in self.found.images])

    def _load(self, place: int) -> tuple[Tensor, Bytes]:
        """Return the input of an image, and what the model sees of it."""
        data = read_item(self._items[self.found.images[place]["image_id"]], Limits())
        crop = self.preprocessing.crop(decode_image(data, Limits()))
        return self.preprocessing.tensor(crop), np.asarray(crop.convert("RGB"))
