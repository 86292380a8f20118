"""Maps of whole datasets: resumable, in Parquet shards that nothing tears.

>>> fastcam.dataset.run("photos/", model, "maps/", method=["grad_cam", "layer_cam"], target=["top3"])
>>> maps = fastcam.dataset.open("maps/")
>>> maps.maps("cats/1.jpg")  # full-size, in [0, 1]
"""

try:
    import fsspec  # noqa: F401
    import pyarrow  # noqa: F401
except ImportError as error:
    raise ImportError(f'fastcam.dataset needs {error.name}: pip install "fastcam[dataset]"') from error

from fastcam.dataset.api import run, verify
from fastcam.dataset.cluster import Cluster
from fastcam.dataset.decode import Limits
from fastcam.dataset.export import to_overlays, to_webdataset, to_zarr
from fastcam.dataset.reader import Maps, Stats
from fastcam.dataset.runner import InterruptedRunError, Progress
from fastcam.dataset.store import Commit, DamagedError, Span

open = Maps  # reads as files do: fastcam.dataset.open(folder)

__all__ = [
    "Cluster",
    "Commit",
    "DamagedError",
    "InterruptedRunError",
    "Limits",
    "Maps",
    "Progress",
    "Span",
    "Stats",
    "open",
    "run",
    "to_overlays",
    "to_webdataset",
    "to_zarr",
    "verify",
]
