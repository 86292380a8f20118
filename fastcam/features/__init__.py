"""What a network finds alike: feature vectors of whole datasets, their neighbours, and mosaics of them.

>>> fastcam.features.run("photos/", model, "features/")  # the last hidden layer, resumable
>>> features = fastcam.features.open("features/")
>>> near = fastcam.features.nearest(features, features.vectors[:1], k=6)
>>> [features.ids[image] for image in near.indices[0]]
"""

from fastcam.dataset import Limits  # and says what is missing where pyarrow is
from fastcam.features.api import run
from fastcam.features.exact_search import Neighbours, search
from fastcam.features.layouts import layout
from fastcam.features.mosaic import cells_of, colors_of_names, colors_of_scores, filled_grid, scatter
from fastcam.features.neighbours import nearest
from fastcam.features.queries import Query, neighbours_of, query_by_id, query_of_picture
from fastcam.features.reader import Features
from fastcam.features.sheets import neighbour_sheet
from fastcam.features.thumbnails import Thumbnails
from fastcam.inspect.extraction import Extracted, Extractor

open = Features  # for calls like fastcam.features.open(folder)

__all__ = [
    "Extracted",
    "Extractor",
    "Features",
    "Limits",
    "Neighbours",
    "Query",
    "Thumbnails",
    "cells_of",
    "colors_of_names",
    "colors_of_scores",
    "filled_grid",
    "layout",
    "nearest",
    "neighbour_sheet",
    "neighbours_of",
    "open",
    "query_by_id",
    "query_of_picture",
    "run",
    "scatter",
    "search",
]
