"""The notebooks run from top to bottom, and what they are kept with is what they give."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 600_000  # bytes of one, with its pictures


def texts(notebook) -> list[list[str]]:
    """What the cells print or return as text, but for how pictures are named."""
    return [
        [text for output in cell.get("outputs", []) for text in _texts(output)]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def _texts(output) -> list[str]:
    if output.output_type == "stream" and output.name == "stdout":
        return [output.text]
    data = output.get("data", {})
    return [data["text/plain"]] if "text/plain" in data and "image/png" not in data else []


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks(file, tmp_path):
    kept = nbformat.read(file, 4)
    assert file.stat().st_size < LARGEST
    notebook = nbformat.read(file, 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    assert any("image/png" in output.get("data", {}) for cell in kept.cells for output in cell.get("outputs", []))
    for mine, other in zip(texts(kept), texts(notebook), strict=True):
        assert len(mine) == len(other)
        for one, two in zip(mine, other, strict=True):
            assert one.split()[:1] == two.split()[:1]  # the rest are numbers of this processor


def test_there_are_three():
    assert [file.stem for file in NOTEBOOKS] == ["a-dataset", "choosing-a-method", "first-steps"]
