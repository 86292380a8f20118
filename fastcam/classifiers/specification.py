"""Specifications of models and weights, checked without importing torch."""

from pathlib import Path


def split_specification(specification: str) -> tuple[str, str]:
    """Split "torchvision:NAME", "timm:NAME" or "package.module:factory" into its two parts.

    Raises:
        ValueError: for anything else.
    """
    kind, separator, name = specification.partition(":")
    if not separator or not kind or not name:
        raise ValueError(f"a model is torchvision:NAME, timm:NAME or package.module:factory, got {specification!r}")
    return kind, name


def check_specification(specification: str) -> None:
    """Raise unless the specification names a model or a file.

    Raises:
        ValueError: for a name without a colon or a suffix.
    """
    if not Path(specification).suffix:
        split_specification(specification)


def check_weights_file(path: Path) -> None:
    """Raise for a weights file that is missing or of an unknown type.

    Raises:
        ValueError: for such a file.
    """
    if not path.is_file():
        raise ValueError(f"there is no weights file {str(path)!r}")
    if path.suffix not in (".safetensors", ".pth", ".pt", ".ckpt"):
        raise ValueError(f"weights must be a .safetensors, .pth, .pt or .ckpt file, got {path.name!r}")
