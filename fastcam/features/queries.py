"""What neighbours are looked for: images of the dataset, or new ones, which the same model must see."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastcam.classifiers.models import Classifier
from fastcam.dataset.decode import Limits, on_processor
from fastcam.dataset.export import read_preprocessing
from fastcam.dataset.identity import weights_digest
from fastcam.dataset.job import device_of
from fastcam.dataset.loading import Loader
from fastcam.dataset.sources import Item
from fastcam.features.exact_search import Metric, Neighbours, Vectors
from fastcam.features.neighbours import nearest
from fastcam.features.reader import Features
from fastcam.inspect.extraction import Extractor


@dataclass(frozen=True)
class Query:
    """An image whose neighbours are looked for.

    Attributes:
        name: as it was given.
        vector: (D,).
        place: in the features; None for a new image.
    """

    name: str
    vector: Vectors
    place: int | None = None


def query_by_id(features: Features, image_id: str) -> Query:
    """Return the query of an image of the dataset.

    Raises:
        KeyError: for an unknown id.
    """
    place = features.index(image_id)
    return Query(image_id, features.vectors[place], place)


def query_of_picture(features: Features, name: str, data: bytes, classifier: Classifier | None = None) -> Query:
    """Return the query of an encoded image: its vector is looked up if it is one of the dataset, else made.

    Args:
        features: of the dataset.
        name: of the image, in messages.
        data: the encoded image.
        classifier: the model that the features are of; needed for a new image.

    Raises:
        ValueError: for a new image without the model or with another one, or one that cannot be read.
    """
    if classifier is not None:
        _check_model(features, classifier)
    place = features.of_content(hashlib.sha256(data).hexdigest())
    if place is not None:
        return Query(name, features.vectors[place], place)
    if classifier is None:
        raise ValueError(f"{name!r} is no image of the dataset: to make its vector, give the model as `classifier`")
    identity: dict[str, Any] = features.identity
    limits = Limits.read(identity["limits"])
    loader = Loader(read_preprocessing(identity["preprocessing"]), limits, on_processor(identity["decoder"]))
    loaded = loader(Item(name, name, None, lambda _: data))
    if loaded.tensor is None:
        raise ValueError(f"{name!r} cannot be read: {loaded.reason}")
    settings = identity["features"]
    extractor = Extractor(classifier.model, settings["layer"], settings["pool"])
    tensor = loaded.tensor.to(device_of(classifier.model))
    with torch.no_grad():
        vector = extractor(tensor.unsqueeze(0)).vectors[0].float().cpu().numpy()
    return Query(name, vector.astype(features.vectors.dtype))


def _check_model(features: Features, classifier: Classifier) -> None:
    """Refuse another model than that of the features.

    Raises:
        ValueError: for one with other weights.
    """
    if weights_digest(classifier.model) != features.identity["weights"]:
        raise ValueError("the features were made with another model or other weights: vectors do not compare")


def neighbours_of(
    features: Features, queries: Sequence[Query], k: int, metric: Metric = "cosine", approximate: bool | None = None
) -> Neighbours:
    """Return the k nearest images to each query, but for the query itself.

    Raises:
        ValueError: as :func:`fastcam.features.nearest`.
    """
    found = nearest(features, np.stack([query.vector for query in queries]), k + 1, metric, approximate)
    indices, distances = [], []
    for row, query in enumerate(queries):
        is_other = found.indices[row] != (-1 if query.place is None else query.place)
        kept = np.flatnonzero(is_other)[: min(k, len(features) - (query.place is not None))]
        indices.append(found.indices[row][kept])
        distances.append(found.distances[row][kept])
    shortest = min(map(len, indices))  # of a dataset with fewer images
    return Neighbours(
        np.stack([each[:shortest] for each in indices]),
        np.stack([each[:shortest] for each in distances]),
        found.is_exact,
    )
