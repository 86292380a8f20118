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


# What the engine's parts may use of fastcam.
ALLOWED = {
    "_extension": set(),
    "registry": set(),
    "reshape": set(),
    "ops": {"_extension", "ops"},
    "methods": {"registry", "ops", "methods"},
    "capture": set(),
    "artefacts": {"artefacts"},
    "layers": {"artefacts", "capture", "inputs"},
    "targets": {"capture", "targets"},
    "head": set(),
    "successor": {"capture"},
    "inputs": set(),
    "progress": set(),
    "batching": {"progress"},
    "relu_rules": set(),
    "full_gradients": {"capture"},
    "resume": {"batching", "capture", "inputs"},
    "incremental": {"batching", "incremental", "ops"},
    "scorer": {"batching", "capture", "incremental", "inputs", "relu_rules", "targets"},
    "ablation": {"batching", "capture", "head", "resume", "scorer", "successor"},
    "postprocess": {"ops"},
    "render": {"_extension"},
    "evidence": {"ablation", "capture", "full_gradients", "head", "registry", "scorer"},
    "explanation": {"postprocess", "render"},
    "pace": {"batching", "inputs"},
    "folding": {"inputs"},
    "compiling": {"inputs"},
    "agreement": {"capture", "inputs", "ops", "targets"},
    "prepared": {"agreement", "capture", "compiling", "folding", "inputs"},
    "prepare": {"agreement", "artefacts", "capture", "compiling", "folding", "inputs", "layers", "pace", "prepared"},
    "grouping": {"explanation", "inputs", "targets"},
    "assembly": {"capture", "evidence", "explanation", "ops", "postprocess", "registry"},
    "occlusion_plan": {"capture", "incremental", "methods", "targets"},
    "explainer": {
        *("artefacts", "assembly", "batching", "capture", "evidence", "grouping", "inputs", "layers", "methods"),
        *("explanation", "full_gradients", "prepare", "prepared", "progress", "registry", "scorer", "targets"),
        *("occlusion", "postprocess"),
    },
}
LOWER = [name for name in MODULES if part(name) in ALLOWED and part(name) != "__init__"]


def test_every_part_of_the_engine_is_there():
    assert set(ALLOWED) == {part(name) for name in LOWER}


@pytest.mark.parametrize("name", LOWER)
def test_only_what_stands_below(name):
    assert {part(each) for each in own(name)} <= ALLOWED[part(name)]


@pytest.mark.parametrize("name", [name for name in LOWER if part(name) == "methods"])
def test_methods_know_torch_the_registry_and_the_ops(name):
    others = {each.split(".")[0] for each in imports(name)} - set(sys.stdlib_module_names)
    assert others <= {"torch", "numpy", "fastcam"}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_tests_or_benchmarks(name):
    assert not {each.split(".")[0] for each in imports(name)} & {"tests", "benchmarks"}


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__init__"])
def test_nothing_below_knows_the_command_line_and_its_kind(name):
    above = {
        "asked",
        "bench",
        "cli",
        "compat",
        "dataset",
        "demo",
        "doctor",
        "models",
        "photographs",
        "pictures",
        "weights",
    }
    if part(name) not in above:
        assert not {part(each) for each in own(name)} & above


def test_no_import_goes_in_a_circle():
    graph = {name: own(name) & set(MODULES) for name in MODULES}
    while graph:
        free = [name for name, needs in graph.items() if not needs & set(graph) - {name}]
        assert free, f"these import each other: {sorted(graph)}"
        for name in free:
            del graph[name]


def test_import_loads_nothing_heavy():
    program = "import sys, fastcam; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"fastcam", "torch", "numpy", "PIL"} <= loaded
    assert not loaded & {"typer", "rich", "torchvision", "timm", "matplotlib", "safetensors", "skimage", "tests"}


def test_public_names_exist():
    assert len(fastcam.__all__) == len(set(fastcam.__all__))
    assert all(hasattr(fastcam, name) for name in fastcam.__all__)
