"""The conda recipe names what the package needs; rattler-build reads it."""

import tomllib
from pathlib import Path

from rattler_build import Stage0Recipe, VariantConfig

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPILERS = VariantConfig.from_yaml("cxx_compiler: [gxx]\nc_stdlib: [sysroot]\nc_stdlib_version: ['2.34']\n")


def conda(requirements: list[str]) -> set[str]:
    """Requirements of pip as conda writes them."""
    spaced = (each.replace(">=", " >=").replace("<", ",<") for each in requirements)
    return {("py" + each if each.split()[0] == "torch" else each) for each in spaced}


def test_the_recipe():
    (variant,) = Stage0Recipe.from_file(ROOT / "recipe.yaml").render(COMPILERS)
    recipe = variant.recipe.to_dict()
    project, needs = PROJECT["project"], recipe["requirements"]
    assert recipe["package"] == {"name": project["name"], "version": project["version"]}
    python = f"python {project['requires-python']}"
    assert set(needs["run"]) == {python, *conda(project["dependencies"])}
    assert {*needs["host"], *needs["build"]} >= {python, *conda(PROJECT["build-system"]["requires"])}
    (command,) = project["scripts"].items()
    assert recipe["build"]["python"]["entry_points"] == [" = ".join(command)]
    assert recipe["about"]["summary"] == project["description"]
    assert recipe["about"]["license"] == project["license"]
    for name in (*recipe["about"]["license_file"], "tests/smoke.py"):
        assert (ROOT / name).is_file()
