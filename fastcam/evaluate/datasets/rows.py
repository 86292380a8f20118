"""The rows of an evaluation: those of the maps, once for every measure, with its value."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.rows import extended, kept_places, rows_of_failures, rows_of_maps
from fastcam.dataset.summary import classes_of_names
from fastcam.dataset.table import SCHEMA as MAP_SCHEMA
from fastcam.dataset.table import MapFormat
from fastcam.evaluate.annotations import Annotations
from fastcam.evaluate.api import Options, run
from fastcam.evaluate.datasets.placing import Objects, place
from fastcam.evaluate.registry import get_measure
from fastcam.evaluate.results import Evaluation, Measured
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation

OWN = [
    pa.field("measure", pa.string()),
    pa.field("value", pa.float64()),  # null where the map or the image has none
    pa.field("reason", pa.string()),  # why it has none; else null
    pa.field("details", pa.map_(pa.string(), pa.list_(pa.float64()))),
]
SCHEMA = pa.schema([*MAP_SCHEMA, *OWN])
_MAP_COLUMNS = ("map", "map_shape", "map_dtype", "map_scale")


@dataclass(frozen=True)
class MeasureRows:
    """What an evaluation writes of each batch.

    Attributes:
        measures: names of the measures.
        options: of them.
        annotations: of the images; None where no measure needs them.
        preprocessing: that made the inputs.
        class_names: the names of so many classes, empty if they are unknown.
    """

    asks_model: ClassVar[bool] = True

    measures: Sequence[str]
    options: Options = field(default_factory=dict)
    annotations: Annotations | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: Callable[[int], Sequence[str]] = lambda count: ()

    def of_batch(
        self,
        explainer: "Explainer[Any]",
        explanations: Mapping[Any, Explanation],
        images: Sequence[LoadedImage],
        numbers: Sequence[int],
    ) -> pa.Table:
        """Return a row for every image, method, layer, target and measure."""
        return self.table(explanations, images, numbers, explainer)

    def of_failures(self, images: Sequence[LoadedImage], numbers: Sequence[int], reasons: Sequence[str]) -> pa.Table:
        """Return a row for every image."""
        return extended(rows_of_failures(images, numbers, reasons), OWN, {})

    def table(
        self,
        explanations: Mapping[Any, Explanation],
        images: Sequence[LoadedImage],
        numbers: Sequence[int],
        explainer: "Explainer[Any] | None" = None,
    ) -> pa.Table:
        """Return the rows; without an explainer for measures that need no model."""
        first = next(iter(explanations.values()))
        objects = self._objects(images, first) if self.annotations is not None else None
        evaluation = self._evaluate(explanations, objects, explainer)
        tables = []
        for key, explanation in explanations.items():
            base = rows_of_maps([explanation], MapFormat(), images, numbers)
            for index, name in enumerate(self.measures):
                columns = _columns(evaluation[key, name], explanation, objects)
                tables.append(extended(base if index == 0 else _without_map(base), OWN, columns))
        return pa.concat_tables(tables)

    def classes_of_objects(self, images: Sequence[LoadedImage], names: Sequence[str]) -> list[list[int]]:
        """Return the classes of the annotated objects that count, of each image."""
        found = []
        for image in images:
            regions = self.annotations[image.item.id].regions if self.annotations is not None else ()
            labels = list(dict.fromkeys(region.label for region in regions if not region.is_difficult))
            classes = classes_of_names(labels, self.class_names(len(names)))
            found.append(list(dict.fromkeys(index for label in labels for index in sorted(classes.get(label, ())))))
        return found

    def _objects(self, images: Sequence[LoadedImage], explanation: Explanation) -> list[list[Objects]]:
        """Return the objects of every image, for each of its targets."""
        output = explanation.output
        count = output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else 0
        names = self.class_names(count)
        per_image = explanation.scores.numel() // len(explanation)
        targets = [[-1] * per_image] * len(images)  # no class
        if explanation.targets is not None:
            targets = explanation.targets.reshape(len(images), per_image).tolist()
        return [
            self._objects_of(image, classes, names, explanation.size)
            for image, classes in zip(images, targets, strict=True)
        ]

    def _objects_of(
        self, image: LoadedImage, targets: Sequence[int], names: Sequence[str], size: tuple[int, ...]
    ) -> list[Objects]:
        """Return the objects of one image for each target.

        Where all labels of its objects are names of the model's classes, those of the target count, else all.
        """
        assert self.annotations is not None
        annotation = self.annotations[image.item.id]
        labels = {region.label for region in annotation.regions}
        classes = classes_of_names(list(labels), names)
        is_known = bool(labels) and len(classes) == len(labels)

        @functools.cache
        def placed(chosen: frozenset[str] | None) -> Objects:
            shape = image.size or annotation.size
            objects = place(annotation, shape, self.preprocessing, (size[0], size[1]), chosen)
            return objects if chosen is None else replace(objects, other_classes=len(labels - chosen))

        def of_class(target: int) -> Objects:
            return placed(frozenset(label for label in labels if target in classes[label]))

        return [of_class(target) if is_known and target >= 0 else placed(None) for target in targets]

    def _evaluate(
        self,
        explanations: Mapping[Hashable, Explanation],
        objects: Sequence[Sequence[Objects]] | None,
        explainer: "Explainer[Any] | None",
    ) -> Evaluation:
        places: dict[str, Any] = {}
        if objects is not None:
            is_single = next(iter(explanations.values())).scores.dim() == 1
            masks = torch.stack([torch.stack([each.mask for each in of_image]) for of_image in objects])
            ignored = torch.stack([torch.stack([each.ignored for each in of_image]) for of_image in objects])
            places = {
                "masks": masks[:, 0] if is_single else masks,
                "ignored": ignored[:, 0] if is_single else ignored,
                "boxes": [[each.boxes for each in of_image] for of_image in objects],
            }
        model = None if explainer is None else explainer.model
        named: Any = explanations
        return run(named, self.measures, model, explainer=explainer, options=self.options, **places)


def _columns(
    result: Measured, explanation: Explanation, objects: Sequence[Sequence[Objects]] | None
) -> dict[str, pa.Array]:
    """Return the columns of one measure for the rows of one explanation."""
    kept = kept_places(explanation)
    values = _flat(result.values, explanation)[kept]
    by_row = [each for of_image in objects or () for each in of_image]
    if not {"masks", "boxes"} & set(result.measure.needs):
        by_row = []
    missing = [each.reason for each in by_row] or [""] * explanation.scores.numel()
    statuses = np.array(explanation.status, object).reshape(-1)[kept]
    reasons = [
        None if not np.isnan(value) else missing[place] or (status if status != "ok" else "the formula has no value")
        for value, place, status in zip(values, kept.tolist(), statuses, strict=True)
    ]
    details = {name: _flat(each, explanation)[kept] for name, each in result.details.items()}
    if by_row:
        details["object_share"] = np.array([by_row[place].mask.double().mean().item() for place in kept])
        details["other_classes"] = np.array([by_row[place].other_classes for place in kept], np.float64)
    lists = [[(name, np.atleast_1d(each[row])) for name, each in details.items()] for row in range(len(kept))]
    return {
        "measure": pa.array([result.measure.name] * len(kept), pa.string()),
        "value": pa.array(values, pa.float64(), mask=np.isnan(values)),
        "reason": pa.array(reasons, pa.string()),
        "details": pa.array(lists, OWN[-1].type),
    }


def _flat(values: Tensor, explanation: Explanation) -> npt.NDArray[np.float64]:
    """Return values (N, [K,] ...) as (N K, ...)."""
    flat: npt.NDArray[np.float64] = values.double().cpu().flatten(0, explanation.scores.dim() - 1).numpy()
    return flat


def _without_map(table: pa.Table) -> pa.Table:
    """Return rows without their maps, which the rows of the first measure hold."""
    for name in _MAP_COLUMNS:
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.nulls(len(table), table.schema.field(index).type))
    return table


def check_measures(measures: Sequence[str], options: Options, has_annotations: bool, has_model: bool) -> None:
    """Refuse measures that cannot be taken.

    Raises:
        ValueError, TypeError: for an unknown measure or option, and for one that needs what is not there.
    """
    if not measures:
        raise ValueError("`measures` must name at least one measure")
    for name in measures:
        if not isinstance(name, str):
            raise TypeError(f"the measures of a dataset are names, by which its rows are read again; got {name!r}")
        found = get_measure(name)
        found.check_options(options.get(name, {}))
        if {"masks", "boxes"} & set(found.needs) and not has_annotations:
            raise ValueError(f"{name} compares maps with objects, and needs annotations of the images")
        if {"scores", "explainer", "attributions"} & set(found.needs) and not has_model:
            raise ValueError(f"{name} needs the model and the images: stored maps alone do not tell")
    for name in options:
        if name not in measures:
            raise ValueError(f"`options` names the measure {name!r}, which is not measured")
