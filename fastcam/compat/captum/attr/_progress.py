"""Progress of the methods that have ``show_progress``."""

import sys
from importlib.util import find_spec

from fastcam.model.progress import ProgressReporter


def progress_reporter(show: bool) -> ProgressReporter:
    """Return reports of the progress: a bar, or a line of text where rich is not installed, as Captum needs neither."""
    return ProgressReporter(_write_line if show and find_spec("rich") is None else show)


def _write_line(done: int, total: int) -> None:
    print(f"\rexplaining: {done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True)
