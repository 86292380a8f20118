"""Loading of weights from a file into a model, tensors only: no code in the file is run."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fastcam.classifiers.specification import check_weights_file

_CHECKPOINT_KEYS = ("state_dict", "model", "model_state_dict", "state_dict_ema")
_PREFIXES = ("module.", "_orig_mod.")  # added to every name by nn.DataParallel and torch.compile


def load_weights(model: nn.Module, file: str | Path) -> None:
    """Load a state dict into a model.

    Args:
        model: its parameters and buffers are overwritten; it is unchanged if the file does not fit.
        file: .safetensors, or .pth or .pt with tensors only, bare or in {"state_dict": ...} or {"model": ...}.

    Raises:
        ValueError: for a file that is missing, damaged, contains code or does not fit the model.
    """
    path = Path(file)
    state = _strip_prefixes(_unwrap(_read(path), path), model)
    _check_fit(model, state, path)
    model.load_state_dict(state)


def _read(path: Path) -> object:
    check_weights_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path.name!r} is damaged or holds more than tensors, and was not unpickled, since that can run any code; "
            "save model.state_dict() instead, best as .safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path.name!r} is not a readable weights file: {_first_line(error)}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        import safetensors
        import safetensors.torch
    except ImportError:
        raise ValueError(".safetensors files need the package: pip install safetensors") from None
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path.name!r} is not a readable safetensors file: {_first_line(error)}") from error


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """Return the state dict, extracted from a training checkpoint."""
    state = content
    for name in _CHECKPOINT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            state = content[name]
            break
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path.name!r} must hold a state dict, names with tensors, got {type(state).__name__}")
    return state


def _strip_prefixes(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict under the model's names, which may have such prefixes themselves."""
    expected = model.state_dict().keys()
    while not expected & state.keys():
        prefix = next(
            (prefix for prefix in _PREFIXES if state and all(name.startswith(prefix) for name in state)), None
        )
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


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


def _list_names(label: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{label} {', '.join(names[:3])}{more}" if names else ""


def _first_line(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0] or type(error).__name__
