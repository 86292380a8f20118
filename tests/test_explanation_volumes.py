"""Slices of volumes, frames of videos, and NIfTI files."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastcam import render
from tests.test_explanation_pictures import blended, explanation_of

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (6, 8, 7)


def of_volumes(*shape, channels=1):
    torch.manual_seed(0)
    native = 0.2 * torch.rand(*shape, *SIZE)
    for index in np.ndindex(shape):
        native[(*index, sum(index), 2 + sum(index), 5 - sum(index))] = 9
    return explanation_of(native, torch.randn(shape[0], channels, *SIZE))


def coloured(explanation, index, pixels=None):
    """The coloured volume (D, H, W, 3) by the definition."""
    voxels = explanation.images[index[0]].double()
    if pixels is None:
        voxels = 255 * ((voxels - voxels.min()) / (voxels.max() - voxels.min()))
        voxels = voxels if len(voxels) == 3 else voxels.mean(0, keepdim=True)
        pixels = np.floor(voxels.expand(3, *SIZE).movedim(0, -1).numpy() + 0.5)
    return blended(pixels, explanation.numpy()[index])


def at(sheet, row, column, cell):
    """The cell of a sheet with gaps of two pixels."""
    height, width = cell
    return sheet[(height + 2) * row :, (width + 2) * column :][:height, :width].astype(float)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("shape", [(2,), (2, 2)], ids=["one", "K"])
def test_slices_of_volumes(shape, channels, tmp_path):
    explanation = of_volumes(*shape, channels=channels)
    files = explanation.save(tmp_path / "volume.png")
    for file, index in zip(files, np.ndindex(shape), strict=True):
        sheet, volume = np.asarray(Image.open(file)), coloured(explanation, index)
        k = sum(index)  # where the evidence was put
        strongest = [volume[k], volume[:, 2 + k], volume[:, :, 5 - k]]
        for column, plane in enumerate(strongest):
            found = at(sheet, 0, column, (8, 8))[: plane.shape[0], : plane.shape[1]]
            assert np.abs(found - plane).max() <= 1
        montage = sheet[10:]  # under the row of three
        for d in range(6):
            assert np.abs(at(montage, d // 4, d % 4, (8, 7)) - volume[d]).max() <= 1


def test_long_videos_are_drawn_at_equal_distances():
    native = torch.rand(1, 61, 3, 2)
    explanation = explanation_of(native, torch.rand(1, 3, 61, 3, 2))
    frames = torch.randint(0, 256, (1, 3, 61, 3, 2), dtype=torch.uint8)
    (sheet,) = explanation._drawings(frames, "jet", 0, None)
    assert sheet.shape == (4 * 5 - 2, 4 * 4 - 2, 3)
    for position in range(16):
        expected = frames[0, :, 4 * position].movedim(0, -1).numpy()
        assert np.array_equal(at(sheet, position // 4, position % 4, (3, 2)), expected)


@pytest.mark.parametrize("shape", [(2,), (2, 2)], ids=["one", "K"])
def test_frames_of_videos(shape):
    pytest.importorskip("matplotlib")
    explanation = of_volumes(*shape, channels=3)
    for axes, index in zip(explanation.plot().axes, np.ndindex(shape), strict=True):
        sheet, video = axes.images[0].get_array(), coloured(explanation, index)
        assert axes.get_title() == "1.00"
        for t in range(6):
            assert np.abs(at(sheet, t // 4, t % 4, (8, 7)) - video[t]).max() <= 1


def test_view_and_units():
    """Frames have the range of pictures, volumes their own; `view` chooses."""
    explanation = of_volumes(1, channels=3)
    hounsfield = 1000 * torch.randn(1, 1, *SIZE)
    low, high = hounsfield.min(), hounsfield.max()
    grey = np.floor(255 * ((hounsfield - low) / (high - low))[0, 0].double().numpy() + 0.5)
    (sheet,) = explanation._drawings(hounsfield.numpy(), "jet", 0, None)
    assert np.abs(at(sheet, 0, 0, (8, 7)) - grey[0][..., None]).max() <= 1
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        explanation.plot(hounsfield, view="frames")
    (slices,), (frames,) = (explanation._drawings(None, "jet", 0.5, view) for view in ("slices", "frames"))
    assert slices.shape == (10 + 18, 34, 3)
    assert frames.shape == (18, 34, 3)
    with pytest.raises(ValueError, match="`view` must be 'slices', 'frames' or None, got 'planes'"):
        explanation.plot(view="planes")
    with pytest.raises(ValueError, match="frames must have 1 or 3 channels to be drawn, got 2"):
        of_volumes(1, channels=2).plot(view="frames")
    with pytest.raises(ValueError, match=r"must have shape \(1, C, 6, 8, 7\), the input's, got \(1, 1, 6, 8, 6\)"):
        explanation.plot(hounsfield[..., 1:])
    with pytest.raises(TypeError, match="must be a tensor or an array"):
        explanation.plot([1])


def test_notebooks_show_volumes():
    explanation = of_volumes(2)
    sheet = Image.open(io.BytesIO(explanation._repr_png_()))
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(sheet), (28, 34, 3)).squeeze(2)
    for picture in explanation._drawings(None, "jet", 0.5, None):
        assert (windows == picture).all((-3, -2, -1)).sum() == 1


def test_grid():
    first, second = np.full((2, 3, 3), 7, np.uint8), np.full((1, 4, 3), 9, np.uint8)
    sheet = render.grid([first, second, first], 2, gap=1)
    expected = np.full((5, 9), 255)
    expected[:2, :3], expected[:1, 5:9], expected[3:5, :3] = 7, 9, 7
    assert np.array_equal(sheet, np.repeat(expected[..., None], 3, -1))
    assert np.array_equal(render.grid([first], 4), first)


# --- NIfTI ------------------------------------------------------------------------------------------------------------


def test_what_is_written_as_nifti(tmp_path, monkeypatch):
    written = []
    library = SimpleNamespace(Nifti1Image=lambda data, affine: (data, affine), save=lambda *call: written.append(call))
    monkeypatch.setitem(sys.modules, "nibabel", library)
    explanation, affine = of_volumes(2), np.diag([2.0, 2, 3, 1])
    files = explanation.save(tmp_path / "map.v1.nii.gz", affine=affine)
    assert [file.name for file in files] == ["map.v1-0.nii.gz", "map.v1-1.nii.gz"]
    for n, ((data, matrix), file) in enumerate(written):
        assert file == files[n]
        assert data.dtype == np.float32
        assert np.array_equal(data, explanation.numpy()[n])
        assert np.array_equal(matrix, affine)
    written.clear()
    assert [file.name for file in of_volumes(1).save(tmp_path / "one.nii")] == ["one.nii"]
    assert np.array_equal(written[0][0][1], np.eye(4))
    with pytest.raises(ValueError, match=r"`affine` must have shape \(4, 4\), got \(3, 3\)"):
        explanation.save(tmp_path / "a.nii", affine=np.eye(3))
    flat = explanation_of(torch.rand(1, 4, 3), torch.rand(1, 3, 8, 6))
    with pytest.raises(ValueError, match="hold maps of volumes, got a map with 2 spatial axes"):
        flat.save(tmp_path / "flat.nii.gz")


def test_nifti_without_nibabel(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ImportError, match=r"a.nii.gz needs nibabel \(pip install fastcam\[nifti\]\)"):
        of_volumes(1).save(tmp_path / "a.nii.gz")


def test_nifti_read_back(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    explanation, affine = of_volumes(1), np.diag([2.0, 2, 3, 1])
    (file,) = explanation.save(tmp_path / "a.nii.gz", affine=affine)
    read = nibabel.load(file)
    assert np.array_equal(read.get_fdata(dtype=np.float32), explanation.numpy()[0])
    assert np.array_equal(read.affine, affine)
