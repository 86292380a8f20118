"""Specifications of models and weights, checked without importing torch."""

from pathlib import Path

_PICKLES = (".pth", ".ckpt", ".pkl", ".bin", ".safetensors")


def split_specification(specification: str) -> tuple[str, str]:
    """Split "torchvision:NAME", "timm:NAME" or "package.module:factory" into its two parts.

    Raises:
        ValueError: for anything else.
    """
    kind, separator, name = specification.partition(":")
    if not separator or not kind or not name:
        known = "a model is torchvision:NAME, timm:NAME or package.module:factory"
        hint = "" if separator else f": write torchvision:{specification} or timm:{specification}"
        raise ValueError(f"{known}, got {specification!r}{hint}")
    return kind, name


def check_specification(specification: str) -> None:
    """Raise unless the specification names a model or a file.

    Raises:
        ValueError: for a name without a colon or a suffix, and for a file of weights.
    """
    suffix = Path(specification).suffix.lower()
    if suffix in _PICKLES:
        raise ValueError(
            f"{specification!r} holds weights or a pickled module, and no architecture that can be loaded without "
            "running any code: save model.state_dict(), and pass it as weights of a model such as torchvision:resnet50"
        )
    if not suffix:
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
