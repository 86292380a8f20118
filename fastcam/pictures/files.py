"""Files of maps: their names, and NIfTI."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastcam import render

_NIFTI = (".nii.gz", ".nii")


def is_nifti(path: Path) -> bool:
    """Tell whether a file name ends as NIfTI's do."""
    return path.name.lower().endswith(_NIFTI)


def file_names(path: Path, indices: list[tuple[int, ...]]) -> list[Path]:
    """Return ``path`` for one index, with -0, -1, ... or -0-0, ... in it for several; .png if it has no suffix."""
    suffix = next((path.name[-len(end) :] for end in _NIFTI if path.name.lower().endswith(end)), path.suffix)
    stem = path.name.removesuffix(suffix) if suffix else path.name
    numbers = ["".join(f"-{i}" for i in index) if len(indices) > 1 else "" for index in indices]
    return [path.with_name(stem + number + (suffix or ".png")) for number in numbers]


def write_nifti(volume: render.Floats, file: Path, affine: npt.ArrayLike | None) -> None:
    """Write a map (D, H, W) as it is, in float32, with the affine (4, 4) from indices to space, by default identity.

    Raises:
        ImportError: without nibabel.
        ValueError: for a map that is no volume or an affine of another shape.
    """
    if volume.ndim != 3:
        raise ValueError(
            f"NIfTI files hold maps of volumes, got a map with {volume.ndim} spatial axes: save it as .png"
        )
    matrix = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(f"`affine` must have shape (4, 4), got {matrix.shape}")
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(f"{file.name} needs nibabel (pip install fastcam[nifti]); without it save a .png") from error
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), matrix), file)
