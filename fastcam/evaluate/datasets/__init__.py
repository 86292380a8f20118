"""Measures over whole datasets: resumable runs in crash-safe shards, means with intervals, reports.

>>> annotations = fastcam.evaluate.annotations.open_annotations("VOC/Annotations")
>>> datasets.run("VOC/JPEGImages", model, "scores/", ["insertion", "pointing_game"], annotations=annotations)
>>> for mean in datasets.open("scores/").means():
...     print(mean)
>>> datasets.write_report(datasets.open("scores/"), "report.html")
"""

from fastcam.evaluate.datasets.api import run, run_on_maps
from fastcam.evaluate.datasets.reader import Evaluations, Mean
from fastcam.evaluate.datasets.report import table, write_report

open = Evaluations  # for calls like fastcam.evaluate.datasets.open(folder)

__all__ = ["Evaluations", "Mean", "open", "run", "run_on_maps", "table", "write_report"]
