"""What maps are worth."""

from benchmarks.tables.common import load, markdown
from fastcam import evaluate
from fastcam.bench.hardware import describe


def measures() -> str:
    """The registered measures."""
    better = {True: "higher", False: "lower", None: ""}
    rows = [
        [f"`{each.name}`", each.formula.replace("|", "\\|"), better[each.higher_is_better], each.paper]
        for each in evaluate.list_measures()
    ]
    return markdown(["name", "formula", "better", "source"], rows)


def ranking() -> str:
    """What the measures say of every method on scenes with known objects, and whether half of the scenes agree."""
    result = load("evaluate_ranking")
    methods = [row for row in result["rows"] if "method" in row]
    agreement = {row["measure"]: row["rank_correlation_of_halves"] for row in result["rows"] if "measure" in row}
    lines = [
        [f"`{row['method']}`", *(f"{row[name][0]:.2f} ({row[name][1]:.2f}-{row[name][2]:.2f})" for name in agreement)]
        for row in methods
    ]
    lines.append(["*halves of the scenes*", *(f"*{value:.2f}*" for value in agreement.values())])
    note = (
        f"{methods[0]['images']} scenes. The last line is the rank correlation of the methods' means on every second "
        "scene and on the others."
    )
    return markdown(["method", *agreement], lines) + f"\n\n{note} " + describe(result["hardware"])


def measures_speed() -> str:
    """Times the forward passes that measures need, and that of the peers."""
    result = load("evaluate_speed")
    cases: dict[tuple[str, str], dict[str, float]] = {}
    for row in result["rows"]:
        cases.setdefault((row["model"], row["case"]), {})[row["tool"]] = row["times_floor"]
    lines = []
    for (model, case), times in cases.items():
        peer = next((name for name in times if name not in ("floor", "fastcam")), None)
        theirs = [f"{times[peer]:.2f} ({peer})", f"{times[peer] / times['fastcam']:.1f}"] if peer else ["", ""]
        lines.append([case, model, f"{times['fastcam']:.2f}", *theirs])
    return (
        markdown(["what", "network", "fastcam", "peer", "times faster"], lines) + "\n\n" + describe(result["hardware"])
    )


def pointing() -> str:
    """Which maps of detections point at them."""
    result = load("detections")
    lines = [
        [
            f"`{row['method']}`" if row["method"] else "",
            row["layer"] or "the image",
            f"{row['pointing']:.2f}" if row["method"] else "",
            f"{row['inside']:.2f}",
        ]
        for row in result["rows"]
    ]
    return markdown(["method", "layer", "maximum in the box", "share in the box"], lines)


def cutpaste() -> str:
    """How well scores and maps of CutPaste find planted defects."""
    result = load("cutpaste")
    keys = ("image_auroc", "pixel_auroc", "pro")
    lines = [[row["what"], *(f"{row[key]:.3f}" if key in row else "" for key in keys)] for row in result["rows"]]
    return markdown(["what", "image AUROC", "pixel AUROC", "PRO up to 0.3"], lines)
