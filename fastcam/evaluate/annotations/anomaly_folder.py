"""Datasets of sound and broken things, in folders as MVTec AD has them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fastcam.evaluate.annotations import masks

GOOD = "good"  # the folder of images without a defect
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class AnomalyImage:
    """An image of a test set.

    Attributes:
        path: the file.
        kind: of the defect, the name of its folder; "good" for none.
        mask: the file with the defect, None for a sound image.
    """

    path: Path
    kind: str
    mask: Path | None

    @property
    def is_anomaly(self) -> bool:
        """Whether there is a defect."""
        return self.kind != GOOD

    def read_mask(self) -> Tensor:
        """Return where the defect is, (H, W) bool.

        Raises:
            ValueError: for a file that is no mask, or one of another size than the image.
        """
        with Image.open(self.path) as picture:
            size = picture.height, picture.width
        if self.mask is None:
            return torch.zeros(size, dtype=torch.bool)
        return torch.from_numpy(masks.read(self.mask, self.path.stem).mask(size))


@dataclass(frozen=True)
class AnomalyFolder:
    """A category of a dataset in the layout of MVTec AD.

    Attributes:
        train: sound images to learn from.
        test: sound and broken ones.
    """

    train: tuple[Path, ...]
    test: tuple[AnomalyImage, ...]

    @classmethod
    def read(cls, folder: str | Path) -> "AnomalyFolder":
        """Return what lies in ``train/good``, ``test/KIND`` and ``ground_truth/KIND/NAME_mask.png``.

        Args:
            folder: of one category, such as ``mvtec/bottle``.

        Raises:
            ValueError: for a folder of another layout, or a broken image without a mask.
        """
        root = Path(folder)
        train, kinds = root / "train" / GOOD, root / "test"
        for needed in (train, kinds):
            if not needed.is_dir():
                raise ValueError(f"{root} is no category as MVTec AD has it: there is no folder {needed}")
        test = []
        for kind in sorted(each.name for each in kinds.iterdir() if each.is_dir()):
            for path in _pictures(kinds / kind):
                mask = None if kind == GOOD else root / "ground_truth" / kind / f"{path.stem}_mask.png"
                if mask is not None and not mask.is_file():
                    raise ValueError(f"{path} has no mask: there is no file {mask}")
                test.append(AnomalyImage(path, kind, mask))
        found = _pictures(train)
        if not found or not test:
            raise ValueError(f"{root} must hold images in {train} and in folders of {kinds}")
        return cls(found, tuple(test))


def _pictures(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES))
