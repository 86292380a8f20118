"""Maps of whole datasets: resumable runs, stored as crash-safe Parquet shards.

>>> fastcam.dataset.run("photos/", model, "maps/", method=["grad_cam", "layer_cam"], target=["top3"])
>>> fastcam.dataset.run("photos/", {"small": small, "large": large}, "both/")  # in one pass, a folder each
>>> maps = fastcam.dataset.open("maps/")
>>> maps.maps("cats/1.jpg")  # full-size, in [0, 1]
"""

try:
    import fsspec  # noqa: F401
    import pyarrow  # noqa: F401
except ImportError as error:
    raise ImportError(f'fastcam.dataset needs {error.name}: pip install "fastcam[dataset]"') from error

from fastcam.dataset.api import plan, run, verify
from fastcam.dataset.cluster import Cluster
from fastcam.dataset.decode import Limits
from fastcam.dataset.devices import Devices
from fastcam.dataset.export import to_datasets, to_overlays, to_webdataset, to_zarr
from fastcam.dataset.fiftyone_format import to_fiftyone
from fastcam.dataset.reader import Maps, Stats
from fastcam.dataset.records import Commit, DamagedError, Span
from fastcam.dataset.runner import Progress
from fastcam.dataset.signals import InterruptedRunError
from fastcam.dataset.sources import select
from fastcam.dataset.stages import Stages

open = Maps  # for calls like fastcam.dataset.open(folder)

__all__ = [
    "Cluster",
    "Commit",
    "DamagedError",
    "Devices",
    "InterruptedRunError",
    "Limits",
    "Maps",
    "Progress",
    "Span",
    "Stages",
    "Stats",
    "open",
    "plan",
    "run",
    "select",
    "to_datasets",
    "to_fiftyone",
    "to_overlays",
    "to_webdataset",
    "to_zarr",
    "verify",
]
