"""Who may import whom, read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastcam

PACKAGE = Path(fastcam.__file__).parent
MODULES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}


def imports(name):
    """Every module that a module imports, absolute, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = inner.removeprefix("fastcam.") in MODULES or inner == "fastcam._host"
                found.add(inner if is_module else node.module)
    return found


def own(name):
    """The modules of fastcam that a module imports, without the package's name."""
    return {
        each.removeprefix("fastcam.") if each != "fastcam" else "__init__"
        for each in imports(name)
        if each.split(".")[0] == "fastcam"
    }


def part(module):
    """The folder or file at the top of the package."""
    return module.split(".")[0]


# Which packages and modules at the top of fastcam may import which, from the ground up; each also imports itself.
ALLOWED = {
    "_extension": "",
    "devices": "",
    "reshape": "",
    "foreground": "",
    "scale": "",
    "nn": "",
    "artefacts": "",
    "ops": "_extension",
    "render": "_extension",
    "postprocess": "ops",
    "methods": "devices ops",
    "model": "artefacts devices",
    "targets": "devices model",
    "graph": "model",
    "incremental": "devices model ops",
    "pictures": "postprocess render",
    "explanation": "foreground pictures postprocess scale",
    "ragged": "explanation pictures postprocess scale",
    "engine": "devices explanation graph incremental methods model ops postprocess reshape targets",
    "preparation": "artefacts devices graph model ops targets",
    "explainer": "artefacts engine explanation graph methods model postprocess preparation ragged targets",
    "one_call": "engine explainer explanation methods model postprocess preparation targets",
    "exporting": "_extension engine explainer explanation model preparation targets",
    "classifiers": "artefacts devices ops targets",
    "inspect": "explainer incremental model ops render targets",
    "_public": "_extension artefacts classifiers engine explainer explanation exporting inspect methods one_call ops "
    "preparation ragged reshape scale targets",
    "__init__": "_public render",
    "bench": "__init__ classifiers explainer methods model ops render",
    "dataset": "__init__ artefacts classifiers devices explainer explanation inspect model postprocess preparation "
    "render targets",
    "evaluate": "classifiers dataset devices engine explainer explanation foreground methods model ops preparation "
    "ragged render targets",
    "features": "classifiers dataset explainer inspect model render",
    "view": "dataset pictures render",
    "compat": "evaluate explainer graph methods model ops render targets",
    "cli": "__init__ artefacts bench classifiers dataset devices evaluate explainer explanation features inspect model "
    "ops pictures render targets view",
}


def test_every_part_has_its_rule():
    assert set(ALLOWED) == {part(name) for name in MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_only_what_stands_below(name):
    assert {part(each) for each in own(name)} - {part(name)} <= set(ALLOWED[part(name)].split())


def test_the_rules_name_what_stands_below():
    """A rule lists parts of earlier lines alone: no arrow goes upwards."""
    order = list(ALLOWED)
    for name, below in ALLOWED.items():
        assert set(below.split()) <= set(order[: order.index(name)])


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) == "methods"])
def test_methods_know_torch_the_registry_and_the_ops(name):
    others = {each.split(".")[0] for each in imports(name)} - set(sys.stdlib_module_names)
    assert others <= {"torch", "numpy", "fastcam"}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_tests_or_benchmarks(name):
    assert not {each.split(".")[0] for each in imports(name)} & {"tests", "benchmarks"}


def test_no_import_goes_in_a_circle():
    graph = {name: own(name) & set(MODULES) for name in MODULES}
    while graph:
        free = [name for name, needs in graph.items() if not needs & set(graph) - {name}]
        assert free, f"these import each other: {sorted(graph)}"
        for name in free:
            del graph[name]


def loaded_by(program, *arguments):
    """The packages that a process has imported after a program."""
    program += "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.__stderr__)"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_import_loads_nothing():
    assert not loaded_by("import fastcam") & {"torch", "numpy", "PIL", "typer", "rich"}


def test_the_names_load_nothing_that_an_extra_brings():
    loaded = loaded_by("import fastcam; fastcam.explain")
    assert {"fastcam", "torch", "numpy", "PIL"} <= loaded
    extras = {"typer", "rich", "torchvision", "timm", "matplotlib", "nibabel", "safetensors", "skimage"}
    assert not loaded & (extras | {"tests"})


def test_every_part_can_be_the_first():
    """In whatever order the parts are imported, each finds what it needs."""
    program = """
import importlib, os, sys
import torch, numpy, PIL.Image, pyarrow, rich, typer
for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(f"fastcam.{name}")
        os._exit(0)
    assert os.wait()[1] == 0, name
"""
    loaded_by(program, *(name for name in ALLOWED if name != "__init__"))


def test_the_command_line_answers_without_torch(tmp_path):
    """Help and mistakes: what needs no model does not wait for one."""
    program = """
import os, sys
from fastcam.cli import app
for line in {lines!r}:
    try:
        app(line.split())
    except SystemExit:
        pass
    assert not {{"torch", "torchvision", "pyarrow"}} & set(sys.modules), line
"""
    photo = tmp_path / "photo.png"
    photo.touch()
    explain = f"explain {photo} --model a:b"
    lines = [
        *("--version", "--help", "explode", "explain", "explain --help", "map --help", "bench --help"),
        *(f"{explain} --alpha 2", f"{explain} --method gradcam", f"{explain} --option window"),
        "explain none.png --model a:b",
        *(f"{explain} --weights none.pth", f"explain {photo} --model resnet18", f"{explain} --colormap rainbows"),
        *("map x --out y --model a:b --method gradcam", "map x --out y --model resnet18", "bench --model resnet18"),
        *("evaluate --help", "evaluate x --measure insertion --out y --model resnet18", "evaluate none --report"),
        *("evaluate x --model a:b --out y", "evaluate x --model a:b --out y --measure insertions"),
        *("verify none", "stats none", "export none --out x --to zarr", "demo --nonsense"),
    ]  # fmt: skip
    assert not loaded_by(program.format(lines=lines)) & {"torch", "torchvision", "pyarrow"}


def test_public_names_exist():
    assert len(fastcam.__all__) == len(set(fastcam.__all__))
    assert all(hasattr(fastcam, name) for name in fastcam.__all__)
