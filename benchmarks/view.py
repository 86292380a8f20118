"""What the page to look at maps costs with a million of them: ``python -m benchmarks.view``.

A folder of a million rows with maps of 7 x 7 is written, served by ``fastcam view``, and looked at in Chromium (with
its driver): the time from the address to the first screen, from a filter to its rows, from a jump to the maps there,
the longest blank while it is scrolled, and the memory of the server. Absolute times, of this machine beside whatever
else runs on it.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import fastcam.dataset
from benchmarks.results_io import write
from fastcam.dataset.records import Span
from fastcam.dataset.rows import table_of
from fastcam.dataset.store import Store
from tests.view.served import NAMES, maps_of, photographs

SHARD = 10_000
FILTERS = (
    ("label", "is", "lime"),
    ("score", "at least", "1.5"),
    ("image_id", "contains", "99"),
    ("is_right", "is", "true"),
    ("predicted", "at most", "0"),
    ("score", "at most", "-2"),
)
SCREENS = (2, 5, 10)  # that are scrolled in a second
READY = "return document.body.dataset.ready === 'yes' && document.querySelectorAll('#grid figure').length > 0"
PAINTED = """
const figures = [...document.querySelectorAll('#grid figure')];
const box = document.querySelector('#grid').getBoundingClientRect();
const at = (figure) => figure.getBoundingClientRect();
const seen = figures.filter((each) => at(each).bottom > box.top && at(each).top < box.bottom);
return seen.length > 8 && seen.every((f) => f.map !== undefined);
"""


# Scrolls so many screens a second, and finds the longest time in which any of 20 places of the grid had no map.
SCROLLED = """
const [screens, seconds, rows, done] = arguments;
const grid = document.querySelector('#grid');
const box = grid.getBoundingClientRect();
const tops = [...document.querySelectorAll('#grid figure')].map((each) => each.offsetTop);
const rowsTop = [...new Set(tops)].sort((a, b) => a - b);
const columns = tops.filter((top) => top === rowsTop[0]).length;
const scale = Math.max(1, ((rows / columns) * (rowsTop[1] - rowsTop[0])) / grid.scrollHeight); // of the grid to its bar
const places = [];
for (const x of [0.1, 0.3, 0.5, 0.7, 0.9]) {
  for (const y of [0.1, 0.4, 0.6, 0.9]) places.push([box.left + x * (box.width - 40), box.top + y * box.height]);
}
const hasMap = ([x, y]) => document.elementFromPoint(x, y)?.closest('figure')?.map !== undefined;
const start = performance.now();
let [before, whole, longest] = [start, start, 0];
function frame(now) {
  if (places.every(hasMap)) whole = now; else longest = Math.max(longest, now - whole);
  if (now - start > seconds * 1000) return done(longest / 1000);
  grid.scrollTop += (screens * box.height * (now - before)) / 1000 / scale;
  before = now;
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
"""


def fill(folder: Path, rows: int) -> None:
    """Write a folder of so many maps, whose identity is that of a small run."""
    small = folder.parent / "small"
    maps_of(photographs(folder.parent / "photos"), small, ("grad_cam",))
    identity = {**fastcam.dataset.open(small).identity, "images": rows}
    generator = np.random.default_rng(0)
    store = Store(folder, identity)
    for start in range(0, rows, SHARD):
        values = generator.random((SHARD, 7, 7)).astype(np.float16)
        classes = generator.integers(0, len(NAMES), SHARD).astype(np.int32)
        names = [f"{NAMES[label]}/{start + number:07d}.jpg" for number, label in enumerate(classes)]
        columns: dict[str, Any] = {
            "image_id": pa.array(names),
            "path": pa.array(names),
            "sha256": pa.array(["0" * 64] * SHARD),
            "label": pa.array([NAMES[label] for label in classes]),
            "target": pa.array(classes),
            "predicted": pa.array(generator.integers(0, len(NAMES), SHARD).astype(np.int32)),
            "score": pa.array(generator.normal(size=SHARD).astype(np.float32)),
            "method": pa.array(["grad_cam"] * SHARD),
            "layer": pa.array(["1"] * SHARD),
            "status": pa.array(["ok"] * SHARD),
            "map": pa.array([each.tobytes() for each in values], pa.binary()),
            "map_shape": pa.array([[7, 7]] * SHARD, pa.list_(pa.int32())),
            "map_dtype": pa.array(["float16"] * SHARD),
            "map_scale": pa.array(np.ones(SHARD, np.float32)),
            "number": pa.array(np.arange(SHARD)),
            "cause": pa.array([""] * SHARD),
        }
        store.commit(Span(start, start + SHARD), [table_of(columns, SHARD)], {"size": [32, 32], "classes": list(NAMES)})
    store.close()


def browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    for each in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"):
        options.add_argument(each)
    options.binary_location = "/usr/bin/chromium"
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def until(driver: webdriver.Chrome, script: str, *values: Any) -> float:
    """Seconds until a script holds."""
    start = time.perf_counter()
    while not driver.execute_script(script, *values):
        if time.perf_counter() - start > 60:
            raise SystemExit(f"this did not come true in a minute: {script}")
        time.sleep(0.005)
    return time.perf_counter() - start


def filtered(driver: webdriver.Chrome, column: str, operator: str, value: str) -> float:
    """Seconds from a condition to its rows."""
    before = driver.execute_script("return document.querySelector('#count').textContent")
    driver.execute_script(
        """
        document.querySelectorAll('fieldset').forEach((each) => each.remove());
        document.querySelector('#add-filter').click();
        const [columns, operators] = document.querySelectorAll('fieldset select');
        columns.value = arguments[0];
        operators.replaceChildren(new Option(arguments[1]));
        const value = document.querySelector('fieldset input');
        value.value = arguments[2];
        value.dispatchEvent(new Event('change'));
        """,
        *(column, operator, value),
    )
    return until(driver, "return document.querySelector('#count').textContent !== arguments[0]", before)


def jumped(driver: webdriver.Chrome, share: float) -> float:
    """Seconds from a jump of the bar to the maps there."""
    driver.execute_script(
        "const g = document.querySelector('#grid'); g.scrollTop = g.scrollHeight * arguments[0]", share
    )
    return until(driver, PAINTED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "maps"
        fill(folder, options.rows)
        command = [sys.executable, "-c", "from fastcam.cli import main; main()", "view", str(folder), "--no-browser"]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = re.search(r"http://\S+", server.stdout.readline())
            assert address is not None
            started = time.perf_counter() - start
            driver = browser()
            try:
                start = time.perf_counter()
                driver.get(address[0])
                until(driver, READY)
                until(driver, PAINTED)
                first = time.perf_counter() - start
                filters = [filtered(driver, *each) for each in FILTERS]
                driver.refresh()
                until(driver, READY)
                jumps = [jumped(driver, share) for share in (0.5, 0.1, 0.9, 0.3, 0.7)]
                driver.execute_script("document.querySelector('#grid').scrollTop = 0")
                until(driver, PAINTED)
                blanks = [float(driver.execute_async_script(SCROLLED, screens, 6, options.rows)) for screens in SCREENS]
                memory = psutil.Process(server.pid).memory_info().rss
            finally:
                driver.quit()
                server.terminate()
    rows = [
        {"what": "from the command to the address", "seconds": started},
        {"what": "from the address to the first screen", "seconds": first},
        {"what": "from a filter to its rows, median", "seconds": statistics.median(filters)},
        {"what": "from a jump to the maps there, median", "seconds": statistics.median(jumps)},
        *(
            {"what": f"longest blank at {screens} screens a second", "seconds": blank}
            for screens, blank in zip(SCREENS, blanks, strict=True)
        ),
        {"what": "memory of the server", "gigabytes": memory / 1e9},
    ]
    write("view", rows)
    table = Table("what", "")
    for row in rows:
        table.add_row(row["what"], f"{row['seconds']:.2f} s" if "seconds" in row else f"{row['gigabytes']:.2f} GB")
    Console().print(table)


if __name__ == "__main__":
    main()
