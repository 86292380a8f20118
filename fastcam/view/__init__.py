"""A page to look at the maps of whole datasets: ``fastcam view maps/ --source photos/``."""

from fastcam.view.pictures import Photographs
from fastcam.view.server import application
from fastcam.view.table import Table
from fastcam.view.tags import Tags

__all__ = ["Photographs", "Table", "Tags", "application"]
