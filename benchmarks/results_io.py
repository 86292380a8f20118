"""Where results are kept."""

import json
from pathlib import Path
from typing import Any

from fastcam.bench.hardware import hardware

RESULTS = Path(__file__).parent / "results"


def write(name: str, rows: list[dict[str, Any]], **more: Any) -> Path:
    """Keeps the rows, the hardware and what else there is as results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"hardware": hardware(), "rows": rows} | more, indent=1) + "\n")
    return path
