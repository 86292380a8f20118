"""Where ``fastcam explain`` writes: folders that can be made, and names that keep photographs apart."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

MOST_SHOWN = 28  # characters of a name in a title


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raise for a folder that cannot be made or written, without making it.

    Raises:
        ValueError: if a file stands in its place or above it, or the place is not writable.
    """
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not existing.is_dir():
        raise ValueError(f"{option} must be a folder, got {str(folder)!r}: {str(existing)!r} is a file")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"{option} {str(folder)!r} cannot be written: {str(existing)!r} is read-only for you")


def make_folder(folder: Path, option: str = "--out") -> None:
    """Make a folder.

    Raises:
        ValueError: if it cannot be made.
    """
    check_folder(folder, option)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option} {str(folder)!r} cannot be made: {error.strerror}") from None


def check_sheet(file: Path) -> None:
    """Raise for a contact sheet that is no .png file or cannot be written.

    Raises:
        ValueError: for such a file.
    """
    if file.suffix.lower() != ".png" or file.is_dir():
        raise ValueError(f"--sheet must be a .png file, got {str(file)!r}")
    check_folder(file.parent, "the folder of --sheet")


def names(photographs: Sequence[Path]) -> list[str]:
    """Return a unique relative path per photograph, for its overlays: its place below the folder common to all.

    The suffix is left out where that is unique; of pic.tiff and pic.webp both keep theirs. What still is equal, without
    case, as some file systems compare, gets -2, -3, ...
    """
    files = [Path(os.path.abspath(path)) for path in photographs]
    common = os.path.commonpath([file.parent for file in files]) if files else ""
    relative = [file.relative_to(common) for file in files]
    stems = Counter(_folded(path.with_suffix("")) for path in relative)
    chosen = [path if stems[_folded(path.with_suffix(""))] > 1 else path.with_suffix("") for path in relative]
    own, taken = {_folded(path) for path in chosen}, set[str]()
    found = []
    for path in chosen:
        name, number = path, 1
        while _folded(name) in taken or (number > 1 and _folded(name) in own):
            number += 1
            name = path.with_name(f"{path.name}-{number}")
        taken.add(_folded(name))
        found.append(name.as_posix())
    return found


def _folded(path: Path) -> str:
    return path.as_posix().casefold()


def shortened(name: str) -> str:
    """Return a name with its middle left out if it is too long for a title."""
    half = (MOST_SHOWN - 3) // 2
    return name if len(name) <= MOST_SHOWN else f"{name[:half]}...{name[-half:]}"
