"""Where results are kept."""

import json
import re
from pathlib import Path
from typing import Any

import torch

from fastcam.bench.hardware import hardware

RESULTS = Path(__file__).parent / "results"


def gpu_name() -> str:
    """The GPU's name as a part of a file's."""
    return re.sub(r"\W+", "_", torch.cuda.get_device_name()).lower()


def write(name: str, rows: list[dict[str, Any]], **more: Any) -> Path:
    """Keeps the rows, the hardware and what else there is as results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"hardware": hardware(), "rows": rows} | more, indent=1) + "\n")
    return path
