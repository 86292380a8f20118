"""Finding photographs in files, folders and globs."""

import glob
from collections.abc import Sequence
from pathlib import Path

import typer

from fastcam.cli.console import print_error


def find(inputs: Sequence[str], excluded: Path) -> list[Path]:
    """Find the photographs named by files, folders and globs, without duplicates, folders and globs sorted.

    Args:
        inputs: files; folders, searched recursively for images and broken links to some; or globs, including ``**``.
            Missing paths stay in the list, so that they can be reported.
        excluded: a folder that is not searched: earlier overlays are not photographs.
    """
    photographs: dict[Path, Path] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            matches = _search(path, excluded)
        elif not path.exists() and glob.has_magic(text):
            paths = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
            matches = [match for match in paths if match.is_file()] or [path]
        else:
            matches = [path]
        for file in matches:
            photographs.setdefault(file.resolve(), file)
    return list(photographs.values())


def check(paths: list[Path]) -> list[Path]:
    """Return the photographs; exit before a model is loaded if none of them exists."""
    if not paths:
        print_error("no pictures were found")
    elif any(path.exists() for path in paths):
        return paths
    for path in paths:
        print_error(f"{path}: there is no such file")
    raise typer.Exit(2)


def _search(folder: Path, excluded: Path) -> list[Path]:
    from PIL import Image  # not needed for --help

    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    excluded = excluded.resolve()
    contains_excluded = folder.resolve() in excluded.parents
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in suffixes
        and (file.is_file() or (file.is_symlink() and not file.exists()))
        and not (contains_excluded and excluded in file.resolve().parents)
    ]
