"""Renews the tables of the pages from the registry and from results/*.json: ``python -m benchmarks.readme``."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import fastcam
from benchmarks.results_io import RESULTS
from fastcam import evaluate
from fastcam.bench.hardware import describe

README = Path(__file__).parents[1] / "README.md"
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


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
        units = [_short(time / times["forward"]) for time in shown]
        units[0] += f" ({best})"
        gains = [_short(times[best] / times[f"fastcam {form}"]) for form in ("fp32 compiled", "bf16 compiled")]
        lines.append([case, *units, " / ".join(gains)])
    header = ["model", "fastest peer", "fastcam", *forms, "times faster, compiled fp32 / bf16"]
    return markdown(header, lines) + "\n\n" + describe(result["hardware"]) + "\n\n" + _prepared_notes(result)


def _prepared_notes(result: dict[str, Any]) -> str:
    """What the table has no room for: the cost beside the own forward pass, and the agreement of real maps."""
    times = {(row["model"], row["batch"], row["contestant"]): row["milliseconds"] for row in result["rows"]}
    own = {
        what: _short(times["resnet50", 8, f"fastcam {what}"] / times["resnet50", 8, "forward fp32"])
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
                _short(own),
                f"{_short(row['limit'])} ({own / row['limit']:.0%})",
                *([_short(each) for each in captums] or ["", ""]),
                _short(memory["incremental"] / memory["dense"]),
            ]
        )
    header = ["network, window/stride", "times faster than the dense sweep", "limit (share reached)"]
    header += ["than Captum", "in bfloat16, than Captum", "memory, of the dense sweep's"]
    return markdown(header, rows) + "\n\n" + describe(result["hardware"])


def dataset() -> str:
    """A folder of JPEGs to committed maps, beside the model alone, decoding alone, and both one after the other."""
    result = load("dataset")
    times = {row["what"]: row["milliseconds"] for row in result["rows"]}
    decoding, lines = times["decoding alone"], []
    for name, time in times.items():
        model = times["model alone, bf16" if "bf16" in name else "model alone"]
        shares = ["", ""]
        if "alone" not in name:
            shares = [_short(max(model, decoding) / time), _short((model + decoding) / time)]
        lines.append([name, _short(time / times["model alone"]), *shares])
    header = ["what", "time an image", "share of the slower one alone", "share of both, one after the other"]
    first, last = result["megabytes"][0], result["megabytes"][-1]
    note = f"{result['images']} JPEGs; the most memory held was {last / first:.2f} times that after the first shard."
    return markdown(header, lines) + f"\n\n{note} " + describe(result["hardware"])


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


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


def load(name: str) -> dict[str, Any]:
    """What a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text())


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
            _short(row["times_faster"]) + ("" if row["peer_rounds"] > 1 else " (the tool timed once)"),
            f"{row['difference']:.0e}",
        ]
        for row in result["rows"]
        if row["package"] == package
    ]
    header = ["class", "times faster", "largest difference, of the range"]
    return markdown(header, rows) + "\n\nResNet-18, two images. " + describe(result["hardware"])


def dataset_costs() -> str:
    """What a run costs beside the network and the pictures."""
    result = load("dataset_costs")
    rows = [[row["what"], f"{row['value']:.2g}"] for row in result["rows"]]
    return markdown(["what", "value"], rows) + "\n\n" + describe(result["hardware"])


def exported() -> str:
    """Times of exported explainers over those of the exported models, in every format."""
    result = load("exported")
    formats = list(dict.fromkeys(row["format"] for row in result["rows"]))
    lines: dict[str, dict[str, str]] = {}
    for row in result["rows"]:
        name = f"{row['network']}, {row['layer']}" + (", with a backward pass" if row["backward"] else "")
        ratio = f"{row['over_its_forward']:.2f} ({row['over_eager_explainer']:.2f})"
        lines.setdefault(name, {})[row["format"]] = ratio if row["format"] != "eager" else ratio.partition(" ")[0]
    rows = [[name, *(line[each] for each in formats)] for name, line in lines.items()]
    return markdown(["Grad-CAM", *formats], rows) + "\n\n" + describe(result["hardware"])


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


def inspecting() -> str:
    """Times the forward pass that looking inside costs."""
    result = load("inspect")
    lines = [[row["tool"], f"{row['times_floor']:.2f}"] for row in result["rows"] if row["tool"] != "forward pass"]
    return markdown(["what", "times the forward pass"], lines) + "\n\n" + describe(result["hardware"])


def likeness() -> str:
    """What searches, an index, places and features cost."""
    result = load("features")
    lines = []
    for row in result["rows"]:
        if "times_floor" in row:
            memory = f", {row['megabytes']:.0f} MB more" if "megabytes" in row else ""
            name = {"floor": "the products alone, in float32", "search": "fastcam", "sort": "all products, sorted"}
            value = f"{row['times_floor']:.2f} ({row['seconds']:.2g} s{memory})"
            lines.append([f"{row['what']} vectors, {name[row['contestant']]}", value])
        elif "built" in row:
            found = f"{row['found']:.1%} of the neighbours"
            value = f"{row['built']:.0f} s to build, {row['searched_256']:.2g} s for 256 queries, {found}"
            lines.append([row["what"].replace("index", "an index of faiss"), value])
        elif "trustworthiness" in row:
            lines.append([row["what"], f"{row['seconds']:.0f} s, trustworthiness {row['trustworthiness']:.3f}"])
        else:
            lines.append([f"{row['what']}, {row['contestant']}", f"{row['images_a_second']:.1f} images a second"])
    return markdown(["what", "times the floor, or as it says"], lines) + "\n\n" + describe(result["hardware"])


def detecting() -> str:
    """What maps of ten detections cost, and D-RISE in batches."""
    result = load("detectors")
    lines = []
    for row in result["rows"]:
        unit = "times_floor" if "times_floor" in row else "times_single"
        lines.append([row["what"], f"{row[unit]:.2f}", "that pass" if unit == "times_floor" else "one copy at a time"])
    return markdown(["what", "times", "of"], lines) + "\n\n" + describe(result["hardware"])


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


def looking() -> str:
    """What the page to look at maps costs."""
    result = load("view")
    lines = [
        [row["what"], f"{row['seconds']:.2f} s" if "seconds" in row else f"{row['gigabytes']:.2f} GB"]
        for row in result["rows"]
    ]
    return markdown(["what", ""], lines)


ROOT = README.parent
DOCS, PACKAGE = ROOT / "docs", ROOT / "fastcam"
TABLES = {
    DOCS / "anomalies.md": (cutpaste,),
    DOCS / "detectors.md": (pointing, detecting),
    DOCS / "files.md": (exported,),
    DOCS / "methods.md": (methods,),
    DOCS / "view.md": (looking,),
    DOCS / "speed.md": (end_to_end, prepared, methods_speed, occlusion, dataset, ops),
    PACKAGE / "compat" / "README.md": (pytorch_grad_cam, torchcam, captum),
    PACKAGE / "dataset" / "README.md": (dataset_costs,),
    PACKAGE / "evaluate" / "README.md": (measures, ranking, measures_speed),
    PACKAGE / "features" / "README.md": (likeness,),
    PACKAGE / "inspect" / "README.md": (inspecting,),
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
