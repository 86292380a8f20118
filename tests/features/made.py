"""Folders of features with chosen vectors, written as a run writes them."""

import numpy as np
import pyarrow as pa
import torch
from torch import nn

import fastcam.features
from fastcam.classifiers.preprocessing import Preprocessing


def made(folder, vectors, **options):
    """Features of "images" that are the vectors themselves: the hidden layer of the model is its input."""
    vectors = np.asarray(vectors, np.float32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(vectors.shape[1], 2)).eval()
    images = [(torch.from_numpy(vector.copy()).reshape(-1, 1, 1), index % 3) for index, vector in enumerate(vectors)]
    settings = {"dtype": "float32", "preprocessing": Preprocessing(), "shard_size": 256, **options}
    fastcam.features.run(images, model, folder, **settings)
    return fastcam.features.open(folder)


def column(features, name):
    """A column of the features."""
    values = features.images[name]
    return values.combine_chunks().to_pylist() if isinstance(values, pa.ChunkedArray) else values.to_pylist()
