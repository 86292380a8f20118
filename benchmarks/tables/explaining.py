"""What explanations cost."""

from typing import Any

import fastcam
from benchmarks.tables.common import load, markdown, shortened
from fastcam.bench.hardware import describe

NEEDS = {
    "mean_pool_classifier": "average pooling + linear head",
    "max_pool_classifier": "max pooling + linear head",
    "ablated_scores": "scores without each channel",
    "input_gradients": "gradients at the pixels",
    "guided_gradients": "guided gradients at the pixels",
    "deconvnet_gradients": "deconvnet gradients at the pixels",
    "scorer": "the model, again and again",
}
TOOLS = ("fastcam", "pytorch-grad-cam", "torch-cam", "captum")


def methods() -> str:
    """The registered methods."""
    rows = [
        [
            f"`{each.name}`",
            each.summary,
            ", ".join(NEEDS.get(need, need) for need in each.needs),
            each.cost,
            each.paper,
        ]
        for each in fastcam.list_methods()
    ]
    return markdown(["name", "what it is", "needs", "forwards", "paper"], rows)


def end_to_end() -> str:
    """Times a bare forward, of every tool."""
    result = load("end_to_end")
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in result["rows"]:
        tool, _, method = row["contestant"].partition(" ")
        if tool in TOOLS:
            line = cells.setdefault((f"{row['model']}, batch {row['batch']}", method), {})
            line[tool] = f"{row['times_forward']:.2f}"
    rows = [[model, f"`{method}`", *(line.get(tool, "") for tool in TOOLS)] for (model, method), line in cells.items()]
    return markdown(["model", "method", *TOOLS], rows) + "\n\n" + describe(result["hardware"])


def methods_speed() -> str:
    """Times a bare forward of fastcam and of the fastest peer, and how many times faster fastcam is."""
    result = load("methods")
    cases: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        label = f"`{row['method']}`" + (f", {row['case']}" if row["case"] else "")
        cases.setdefault((f"{row['model']}, batch {row['batch']}", label), []).append(row)
    lines = []
    for (model, label), rows in cases.items():
        own = next(row["times_forward"] for row in rows if row["tool"] == "fastcam")
        peers = [row for row in rows if row["tool"] != "fastcam"]
        best = min(peers, key=lambda row: row["times_forward"], default=None)
        theirs = ["", ""] if best is None else [_peer(best), f"{best['times_forward'] / own:.1f}"]
        lines.append([label, model, f"{own:.2f}" if own < 10 else f"{own:.0f}", *theirs])
    header = ["method", "model", "fastcam", "fastest peer", "times faster"]
    return markdown(header, lines) + "\n\n" + describe(result["hardware"])


def _peer(row: dict[str, Any]) -> str:
    """Its time and its name."""
    times = row["times_forward"]
    once = "" if row["rounds"] > 1 else ", timed once"
    return f"{times:.2f} ({row['tool']}{once})" if times < 10 else f"{times:.0f} ({row['tool']}{once})"


def prepared() -> str:
    """Times a bare forward pass of the untouched model: the peers, and fastcam on every form of the model."""
    result = load("prepared")
    forms = ("fp32", "fp32 compiled", "bf16", "bf16 compiled")
    cases: dict[str, dict[str, float]] = {}
    for row in result["rows"]:
        times = cases.setdefault(f"{row['model']}, batch {row['batch']}", {})
        times[row["contestant"]] = row["milliseconds"]
    lines = []
    for case, times in cases.items():
        best = min(TOOLS[1:], key=lambda tool: times.get(tool, float("inf")))
        shown = [times[best], times["fastcam"], *(times[f"fastcam {form}"] for form in forms)]
        units = [shortened(time / times["forward"]) for time in shown]
        units[0] += f" ({best})"
        gains = [shortened(times[best] / times[f"fastcam {form}"]) for form in ("fp32 compiled", "bf16 compiled")]
        lines.append([case, *units, " / ".join(gains)])
    header = ["model", "fastest peer", "fastcam", *forms, "times faster, compiled fp32 / bf16"]
    return markdown(header, lines) + "\n\n" + describe(result["hardware"]) + "\n\n" + _prepared_notes(result)


def _prepared_notes(result: dict[str, Any]) -> str:
    """What the table has no room for: the cost beside the own forward pass, and the agreement of real maps."""
    times = {(row["model"], row["batch"], row["contestant"]): row["milliseconds"] for row in result["rows"]}
    own = {
        what: shortened(times["resnet50", 8, f"fastcam {what}"] / times["resnet50", 8, "forward fp32"])
        for what in ("fp32", "together", "all classes")
    }
    rank = min(row["median_rank"] for row in result["ranks"] if "bf16" in row["form"])
    return (
        f"ResNet-50, in units of the prepared model's own forward pass: Grad-CAM {own['fp32']}, seven methods together "
        f"{own['together']}, Grad-CAM of all 1000 classes {own['all classes']}. EfficientNet-Lite0 on photographs: the "
        f"ranks of bfloat16 and float32 maps correlate by {rank:.4f} (median)."
    )


def occlusion() -> str:
    """Sweeps from patches beside whole forward passes and Captum's."""
    result = load("occlusion")
    rows = []
    for row in result["rows"]:
        times, memory = row["seconds"], row["peak_megabytes"]
        own = times["dense"] / times["incremental"]
        captums = [times["captum"] / times[name] for name in ("incremental", "incremental bf16") if "captum" in times]
        rows.append(
            [
                f"{row['model']}, {row['window']}/{row['stride']}",
                shortened(own),
                f"{shortened(row['limit'])} ({own / row['limit']:.0%})",
                *([shortened(each) for each in captums] or ["", ""]),
                shortened(memory["incremental"] / memory["dense"]),
            ]
        )
    header = ["network, window/stride", "times faster than the dense sweep", "limit (share reached)"]
    header += ["than Captum", "in bfloat16, than Captum", "memory, of the dense sweep's"]
    return markdown(header, rows) + "\n\n" + describe(result["hardware"])


def ops() -> str:
    """How every op compares with eager PyTorch and with reading its input."""
    result = load("ops")
    rows = [
        [
            f"`{row['op']}`",
            row["case"],
            f"{row['times_eager']:.1f}",
            "" if row["times_read"] is None else f"{row['times_read']:.2f}",
        ]
        for row in result["rows"]
    ]
    return (
        markdown(["op", "on", "times faster than eager", "times the read"], rows)
        + "\n\n"
        + describe(result["hardware"])
    )


WAYS = {
    "mobilenet_v3_small": ", with a gradient through its two linear layers"
}  # of exported explainers of last layers


def exported() -> str:
    """Times of exported explainers over those of the exported models, in every format."""
    result = load("exported")
    formats = list(dict.fromkeys(row["format"] for row in result["rows"]))
    lines: dict[str, dict[str, str]] = {}
    for row in result["rows"]:
        way = ", with a backward pass" if row["backward"] else WAYS.get(row["network"], "")
        name = f"{row['network']}, {row['layer']}{way}"
        ratio = f"{row['over_its_forward']:.2f} ({row['over_eager_explainer']:.2f})"
        lines.setdefault(name, {})[row["format"]] = ratio if row["format"] != "eager" else ratio.partition(" ")[0]
    rows = [[name, *(line[each] for each in formats)] for name, line in lines.items()]
    return markdown(["Grad-CAM", *formats], rows) + "\n\n" + describe(result["hardware"])


def detecting() -> str:
    """What maps of ten detections cost, and D-RISE in batches."""
    result = load("detectors")
    lines = []
    for row in result["rows"]:
        unit = "times_floor" if "times_floor" in row else "times_single"
        lines.append([row["what"], f"{row[unit]:.2f}", "that pass" if unit == "times_floor" else "one copy at a time"])
    return markdown(["what", "times", "of"], lines) + "\n\n" + describe(result["hardware"])
