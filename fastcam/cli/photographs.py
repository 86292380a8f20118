"""Which photographs files, folders and globs stand for, and names for their overlays."""

import glob
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def find(inputs: Sequence[str], leave_out: Path) -> list[Path]:
    """The photographs that files, folders and globs name, each once, folders and globs sorted.

    Args:
        inputs: files; folders, searched with all their folders for pictures; or globs, ``**`` included. What does not
            exist stays in the list as it is, so that it can be reported.
        leave_out: a folder in which nothing is looked for: earlier overlays are not photographs.
    """
    found: dict[Path, Path] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            named = _inside(path, leave_out)
        elif not path.exists() and glob.has_magic(text):
            matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
            named = [match for match in matches if match.is_file()] or [path]
        else:
            named = [path]
        for file in named:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _inside(folder: Path, leave_out: Path) -> list[Path]:
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    skipped = leave_out.resolve()
    skips = folder.resolve() in skipped.parents
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in suffixes and file.is_file() and not (skips and skipped in file.resolve().parents)
    ]


def unique_stems(photographs: Sequence[Path]) -> list[str]:
    """A name for each photograph's overlays: its stem, with -2, -3, ... where another one has it already.

    Names that differ in case only count as equal, since some file systems take them for one.
    """
    own = {path.stem.casefold() for path in photographs}
    taken: set[str] = set()
    names = []
    for path in photographs:
        name, number = path.stem, 1
        while name.casefold() in taken or (number > 1 and name.casefold() in own):
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
