"""Makes the site's pages: those of the repository with links that fit, a page for every method, the reference."""

import posixpath
import re
import sys
from pathlib import Path

import latex2mathml.converter
import mkdocs_gen_files
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import method_pages  # noqa: E402

import fastcam  # noqa: E402
from benchmarks import gallery  # noqa: E402
from benchmarks.tables.explaining import NEEDS  # noqa: E402

# Where the pages of the repository lie in the site; those of docs/ keep their names.
PLACES = {
    "README.md": "index.md",
    "CHANGELOG.md": "releases.md",
    "CONTRIBUTING.md": "house.md",
    "fastcam/compat/README.md": "moving.md",
    "fastcam/dataset/README.md": "ten-million.md",
    "fastcam/evaluate/README.md": "measures.md",
    "fastcam/features/README.md": "features.md",
    "fastcam/inspect/README.md": "neurons.md",
    "tests/cuda_sim/README.md": "simulator.md",
    **{f"docs/{page.name}": page.name for page in (ROOT / "docs").glob("*.md")},
}
MODULES = {
    "fastcam": "Explanations",
    "fastcam.targets": "Targets",
    "fastcam.dataset": "Datasets",
    "fastcam.evaluate": "Measures",
    "fastcam.inspect": "Looking inside",
    "fastcam.features": "Features",
    "fastcam.ops": "Ops",
}
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def main() -> None:
    for path, place in PLACES.items():
        with mkdocs_gen_files.open(place, "w") as page:
            page.write(linked((ROOT / path).read_text(), path, place))
    for method in fastcam.list_methods():
        with mkdocs_gen_files.open(f"methods/{method.name}.md", "w") as page:
            page.write(page_of(method))
    for module, title in MODULES.items():
        with mkdocs_gen_files.open(f"reference/{module}.md", "w") as page:
            page.write(f"# {title}\n\n::: {module}\n")


def linked(text: str, path: str, place: str) -> str:
    """A page whose links lead to where the site has what they name; other files come along, folders are named only."""

    def exchange(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        if target.startswith(("http", "mailto")):
            return match[0]
        named = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if named in PLACES:
            found = PLACES[named]
        else:
            found = "files/" + (named if (ROOT / named).is_file() else f"{named}.txt")
            with mkdocs_gen_files.open(found, "wb") as file:
                source = ROOT / named
                names = "\n".join(sorted(each.name for each in source.iterdir())) if source.is_dir() else ""
                file.write(names.encode() if source.is_dir() else source.read_bytes())
        return before + posixpath.relpath(found, posixpath.dirname(place) or ".") + after

    # Of the methods' table every name leads to its page.
    text = LINK.sub(exchange, text)
    if place == "methods.md":
        for method in fastcam.list_methods():
            text = text.replace(f"| `{method.name}` |", f"| [`{method.name}`](methods/{method.name}.md) |")
    return text


def page_of(method: fastcam.Method) -> str:
    """The page of a method."""
    formula = latex2mathml.converter.convert(method_pages.FORMULAS[method.name], display="block")
    lines = [
        f"# {method.name}",
        method.summary,
        formula,
        "In formulas, A~c~ is channel c of the layer's map, y the explained score, x the image; P counts the positions p.",
        "```python",
        f'fastcam.explain(model, images, "{method.name}")',
        "```",
        f"**Needs** {', '.join(NEEDS.get(need, need) for need in method.needs)}. **Costs**, in forward passes of one image, {method.cost}.",
        f"**Paper** {link_of(method.paper)}.",
        f"**Misleads where**: {method_pages.MISLEADS[method.name]}",
    ]
    if method.options:
        lines += ["## Options", options_of(method)]
    if method.name != "gmp_cam":  # the network of the gallery has no global max pooling
        with mkdocs_gen_files.open(f"files/methods/{method.name}.jpg", "wb") as file:
            tile_of(method).save(file, format="JPEG", quality=88)
        lines.insert(2, f"![The map of {method.name} over a photograph of a cat](../files/methods/{method.name}.jpg)")
    lines += ["## Definition", f"::: {method.rule.__module__}.{method.rule.__name__}"]
    return "\n\n".join(lines).replace("```python\n\n", "```python\n").replace("\n\n```\n", "\n```\n") + "\n"


def tile_of(method: fastcam.Method) -> Image.Image:
    """The method's tile of the gallery, whose first one is the photograph."""
    place = 1 + [each.name for each in fastcam.list_methods()].index(method.name)
    x = gallery.MARGIN + place % gallery.COLUMNS * (gallery.TILE + gallery.GAP)
    y = gallery.MARGIN + place // gallery.COLUMNS * (gallery.TITLE + gallery.TILE + gallery.GAP) + gallery.TITLE
    with Image.open(gallery.PICTURE) as picture:
        return picture.crop((x, y, x + gallery.TILE, y + gallery.TILE))


def options_of(method: fastcam.Method) -> str:
    """The options with their defaults; what they mean stands in the definition."""
    rows = [f"| `{name}` | `{default!r}` |" for name, default in method.options.items()]
    return "\n".join(["| option | default |", "| --- | --- |", *rows])


def link_of(paper: str) -> str:
    kind, _, number = paper.partition(":")
    address = f"https://arxiv.org/abs/{number}" if kind == "arXiv" else f"https://doi.org/{number}"
    return f"[{paper}]({address})"


main()
