"""Loading of weights from a file into a model, tensors only: no code in the file is run."""

import itertools
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fastcam.classifiers.specification import check_weights_file

_CHECKPOINT_KEYS = ("state_dict", "model", "model_state_dict", "state_dict_ema")
_MAX_PREFIX_PARTS = 8
_MAX_NAME_LENGTH, _MAX_REASON_LENGTH = 80, 300  # in a message


def load_weights(model: nn.Module, file: str | Path) -> None:
    """Load a state dict into a model.

    Args:
        model: its parameters and buffers are overwritten; it is unchanged if the file does not fit.
        file: .safetensors, or .pth, .pt or .ckpt with tensors only, bare or in {"state_dict": ...} or {"model": ...}. A
            prefix that all names share is removed if the names are the model's without it.

    Raises:
        ValueError: for a file that is missing, damaged, contains code or does not fit the model.
    """
    path = Path(file)
    state = _strip_prefix(_unwrap(_read(path), path), model)
    _check_fit(model, state, path)
    model.load_state_dict(state)


def _read(path: Path) -> object:
    check_weights_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged headers, which end in an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path.name!r} is damaged or holds more than tensors, and was not unpickled, since that can run any code; "
            "save model.state_dict() instead, best as .safetensors"
        ) from None
    except Exception as error:  # the parsers raise anything for malformed bytes
        raise ValueError(f"{path.name!r} is not a readable weights file: {_first_line(error)}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        import safetensors.torch
    except ImportError:
        raise ValueError(".safetensors files need the package: pip install safetensors") from None
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # of a damaged header, or a type that torch lacks
        raise ValueError(f"{path.name!r} is not a readable safetensors file: {_first_line(error)}") from error


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """Return the state dict, extracted from a training checkpoint."""
    state = content
    for name in _CHECKPOINT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            state = content[name]
            break
    if not isinstance(state, dict):
        raise ValueError(f"{path.name!r} must hold a state dict, names with tensors, got {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kinds = f"{type(name).__name__} with {type(value).__name__}"
            raise ValueError(f"{path.name!r} must hold a state dict, names with tensors, got {kinds}")
    return state


def _strip_prefix(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict without the prefix of all its names after which most are the model's.

    Wrappers add one: nn.DataParallel, torch.compile, the attribute of a training module that holds the network.
    """
    expected = model.state_dict().keys()
    ends = (name.split(".", _MAX_PREFIX_PARTS)[:-1] for name in (min(state, default=""), max(state, default="")))
    parts = [part for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))]
    prefixes = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts) + 1)]
    best = max(prefixes, key=lambda prefix: sum(name.removeprefix(prefix) in expected for name in state))
    return {name.removeprefix(best): value for name, value in state.items()}


def _check_fit(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    expected = model.state_dict()
    # These counters are unused in evaluation mode and missing in files of other frameworks.
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    for name in counters - state.keys():
        state[name] = expected[name]
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        parts = [_list_names("missing", missing), _list_names("unexpected", unexpected)]
        raise ValueError(f"the weights in {path.name!r} do not fit the model: {'; '.join(filter(None, parts))}")
    for name, value in expected.items():
        if value.shape != state[name].shape:
            raise ValueError(
                f"the weights in {path.name!r} do not fit the model: {name} has shape {tuple(state[name].shape)} in "
                f"the file and {tuple(value.shape)} in the model"
            )
        _check_values(value, state[name], name, path)


def _check_values(value: Tensor, loaded: Tensor, name: str, path: Path) -> None:
    """Refuse values that cannot be copied into the model's: of another layout, without storage, complex, ..."""
    try:
        if loaded.is_complex() and not value.is_complex():
            raise TypeError("complex numbers for real ones")
        torch.empty_like(value, device="cpu").copy_(loaded)
    except Exception as error:  # torch has a type of its own for some layouts
        reason = _first_line(error)
        raise ValueError(f"{name} in {path.name!r} cannot be copied into the model: {reason}") from error


def _list_names(label: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    shown = (name if len(name) <= _MAX_NAME_LENGTH else f"{name[:_MAX_NAME_LENGTH]}..." for name in names[:3])
    return f"{label} {', '.join(shown)}{more}" if names else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0][:_MAX_REASON_LENGTH] or type(error).__name__
