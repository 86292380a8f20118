"""Image sources: folders, lists, tar shards, Parquet files and PyTorch datasets, each in a fixed order."""

from fastcam.dataset.sources.base import Item, Source, is_remote
from fastcam.dataset.sources.resolve import SourceLike, source_of
from fastcam.dataset.sources.selection import select

__all__ = ["Item", "Source", "SourceLike", "is_remote", "select", "source_of"]
