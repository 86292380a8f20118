"""What datasets cost, and what is found in them."""

from benchmarks.tables.common import load, markdown, shortened
from fastcam.bench.hardware import describe


def dataset() -> str:
    """A folder of JPEGs to committed maps, beside the model alone, decoding alone, and both one after the other."""
    result = load("dataset")
    times = {row["what"]: row["milliseconds"] for row in result["rows"]}
    decoding, lines = times["decoding alone"], []
    for name, time in times.items():
        model = times["model alone, bf16" if "bf16" in name else "model alone"]
        shares = ["", ""]
        if "alone" not in name:
            shares = [shortened(max(model, decoding) / time), shortened((model + decoding) / time)]
        lines.append([name, shortened(time / times["model alone"]), *shares])
    header = ["what", "time an image", "share of the slower one alone", "share of both, one after the other"]
    first, last = result["megabytes"][0], result["megabytes"][-1]
    note = f"{result['images']} JPEGs; the most memory held was {last / first:.2f} times that after the first shard."
    return markdown(header, lines) + f"\n\n{note} " + describe(result["hardware"])


def dataset_costs() -> str:
    """What a run costs beside the network and the pictures."""
    result = load("dataset_costs")
    rows = [[row["what"], f"{row['value']:.2g}"] for row in result["rows"]]
    return markdown(["what", "value"], rows) + "\n\n" + describe(result["hardware"])


def object_store() -> str:
    """What a run over an object store takes, beside one over the disk."""
    result = load("object_store")
    rows = [
        [str(row["delay_ms"]), *(f"{row[name]:.1f}" for name in ("ahead", "without", "alone"))]
        for row in result["rows"]
    ]
    header = ["milliseconds a request", "the run", "the run without reading ahead", "reading the files, no run"]
    return markdown(header, rows) + "\n\n" + describe(result["hardware"])


def large_photographs() -> str:
    """What decoding twelve megapixels costs, and changes."""
    result = load("large_photographs")
    rows = [
        [
            f"`{row['decoder']}`",
            f"{row['times_torchcodec']:.2f}",
            f"{row['levels']:.2f}",
            f"{row['rank_correlation']:.4f}",
        ]
        for row in result["rows"]
    ]
    header = [
        "decoder",
        "time over torchcodec's",
        "difference of the input, of 255 steps",
        "rank correlation of the maps",
    ]
    return markdown(header, rows) + "\n\n" + describe(result["hardware"])


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


def looking() -> str:
    """What the page to look at maps costs."""
    result = load("view")
    lines = [
        [row["what"], f"{row['seconds']:.2f} s" if "seconds" in row else f"{row['gigabytes']:.2f} GB"]
        for row in result["rows"]
    ]
    return markdown(["what", ""], lines)
