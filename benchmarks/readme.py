"""Renews the tables of the pages from the registry and from results/*.json: ``python -m benchmarks.readme``."""

import re
import sys
from pathlib import Path

from benchmarks.tables import datasets, explaining, judging, peers

ROOT = Path(__file__).parents[1]
README, DOCS, PACKAGE = ROOT / "README.md", ROOT / "docs", ROOT / "fastcam"
TABLES = {
    DOCS / "anomalies.md": (judging.cutpaste,),
    DOCS / "datasets.md": (datasets.large_photographs,),
    DOCS / "detectors.md": (judging.pointing, explaining.detecting),
    DOCS / "files.md": (explaining.exported,),
    DOCS / "methods.md": (explaining.methods,),
    DOCS / "view.md": (datasets.looking,),
    DOCS / "speed.md": (
        explaining.end_to_end,
        explaining.prepared,
        explaining.methods_speed,
        explaining.occlusion,
        datasets.dataset,
        explaining.ops,
    ),
    PACKAGE / "compat" / "README.md": (peers.pytorch_grad_cam, peers.torchcam, peers.captum),
    PACKAGE / "dataset" / "README.md": (datasets.dataset_costs, datasets.object_store),
    PACKAGE / "evaluate" / "README.md": (judging.measures, judging.ranking, judging.measures_speed),
    PACKAGE / "features" / "README.md": (datasets.likeness,),
    PACKAGE / "inspect" / "README.md": (datasets.inspecting,),
}


def renewed(path: Path) -> str:
    """A page with every table between its markers made again."""
    text = path.read_text()
    for make in TABLES[path]:
        name = make.__name__
        block = f"<!-- table: {name} -->\n{make()}\n<!-- end -->"
        text, count = re.subn(rf"<!-- table: {name} -->.*?<!-- end -->", lambda _, b=block: b, text, flags=re.DOTALL)
        if count != 1:
            sys.exit(f"{path} must have one table marked {name!r}, found {count}")
    return text


if __name__ == "__main__":
    for page in TABLES:
        page.write_text(renewed(page))
