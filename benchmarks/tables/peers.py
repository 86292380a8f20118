"""What the other tools' interfaces gain here."""

from benchmarks.tables.common import load, markdown, shortened
from fastcam.bench.hardware import describe


def pytorch_grad_cam() -> str:
    """The classes of the package beside the tool's."""
    return _beside("pytorch_grad_cam")


def torchcam() -> str:
    """The classes of the package beside the tool's."""
    return _beside("torchcam")


def captum() -> str:
    """The classes of the package beside the tool's."""
    return _beside("captum")


def _beside(package: str) -> str:
    """How many times faster every class is than the tool's own."""
    result = load("compat")
    rows = [
        [
            f"`{row['class']}`" + (f", {row['size']} pixels" if row["size"] != 224 else ""),
            shortened(row["times_faster"]) + ("" if row["peer_rounds"] > 1 else " (the tool timed once)"),
            f"{row['difference']:.0e}",
        ]
        for row in result["rows"]
        if row["package"] == package
    ]
    header = ["class", "times faster", "largest difference, of the range"]
    return markdown(header, rows) + "\n\nResNet-18, two images. " + describe(result["hardware"])
