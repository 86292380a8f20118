"""The model that :func:`fastcam.prepare` returns: an instance of its own class, with faster weights and a report."""

import functools
import weakref
from collections.abc import Hashable
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fastcam.model.inputs import Inputs
from fastcam.model.memory import all_modules
from fastcam.model.split_model import SplitModel
from fastcam.preparation.batch_norm import FoldReport
from fastcam.preparation.compiled_parts import Arguments, ModelOutput, Parts
from fastcam.preparation.compute_settings import ComputeSettings
from fastcam.preparation.report import PreparationReport

Signature: TypeAlias = tuple[Hashable, ...]


class Prepared(SplitModel):
    """A faster copy of a model, returned by :func:`fastcam.prepare` and accepted wherever a model is.

    It is also an instance of the model's own class, with the same names for its layers.
    """

    batch_size: int | None
    _compute_settings: ComputeSettings
    _fold_report: FoldReport
    _parts: Parts | None
    _report: PreparationReport
    _position: int  # of the images among the arguments
    _example_signature: Signature | None
    _names: "_Names"

    @staticmethod
    def of(
        copied: nn.Module, model: nn.Module, settings: ComputeSettings, fold_report: FoldReport, inputs: Inputs
    ) -> "Prepared":
        """Turn a copy of a model, its weights already converted to the settings, into a prepared model."""
        copied.__class__ = _prepared_class(type(copied))
        prepared = cast("Prepared", copied)
        prepared._compute_settings, prepared._fold_report, prepared._parts = settings, fold_report, None
        prepared.batch_size = None
        prepared._position = inputs.position
        prepared._example_signature = prepared._signature(inputs.arguments)
        prepared._names = _Names({module: name for name, module in model.named_modules()})
        return prepared

    def report(self) -> PreparationReport:
        """Return the steps, kept or refused and why, the speedup, and the difference from the untouched model."""
        return self._report

    def forward(self, *arguments: Any, **keywords: Any) -> ModelOutput:
        """Return the model's output, in the precision of its first floating point argument."""
        parts = None if keywords or torch.is_grad_enabled() else self._matching_parts(arguments)
        if parts is not None and not self._is_watched():
            with torch.inference_mode(False), torch.no_grad():
                return _in_precision_of(arguments, parts(self._compute_settings.convert(arguments)))
        all_arguments = (*arguments, *keywords.values())
        converted = dict(zip(keywords, self._compute_settings.convert(tuple(keywords.values())), strict=True))
        with self._compute_settings.autocast_context(_first_floating(all_arguments).device):
            output = super().forward(*self._compute_settings.convert(arguments), **converted)
            return _in_precision_of(all_arguments, output)

    def run_split(self, arguments: Arguments, layer: str, with_graph: bool) -> tuple[Tensor, ModelOutput] | None:
        """Return the layer's activation and the output by the compiled parts; None where they do not apply."""
        parts = self._matching_parts(arguments)
        if parts is None or parts.layer != layer or self._is_watched():
            return None
        with torch.inference_mode(False), torch.no_grad():
            activation, *others = parts.run_trunk(self._compute_settings.convert(arguments))
            activation = activation.clone()  # compiled code may reuse its memory
            with torch.set_grad_enabled(with_graph):
                start = activation.requires_grad_(with_graph).clone()
                return activation, _in_precision_of(arguments, parts.run_head([start, *others], with_graph))

    def train(self, mode: bool = True) -> "Prepared":
        """Refuse to leave evaluation mode.

        Raises:
            RuntimeError: for training mode.
        """
        if mode:
            raise RuntimeError("a prepared model stays in evaluation mode; train the one it was made from")
        return super().train(mode)

    def __reduce__(self) -> tuple[object, ...]:
        """Return what copies are made of, and other processes: all but the compiled code, which belongs to this one."""
        state = {**super().__getstate__(), "_parts": None}
        state.pop("_observed_modules", None)
        return _new_prepared, (type(self).__bases__[1],), state

    def name_of(self, module: nn.Module) -> str | None:
        """Return the name, the same in both, of a module of the untouched model."""
        return self._names.get(module)

    def check_layer(self, name: str) -> None:
        """Refuse a layer whose output is not that of the same layer of the untouched model.

        Raises:
            ValueError: for a layer into which a batch norm was folded.
        """
        if name in self._fold_report.changed:
            raise ValueError(
                f"layer {name!r} returns something else since the batch norm after it was folded into it: "
                f"prepare the model with target_layer={name!r}"
            )

    def check_biases(self) -> None:
        """Refuse access to every single bias where several were merged.

        Raises:
            ValueError: where batch norms were folded into convolutions that had a bias of their own.
        """
        merged = self._fold_report.merged_biases
        if merged:
            raise ValueError(
                f"the biases of {merged[0]!r} and of its batch norm are one in the prepared model: "
                "full_grad, which uses each of them, needs the model it was made from"
            )

    def _matching_parts(self, arguments: Arguments) -> Parts | None:
        """Return the compiled parts if they were compiled for such arguments."""
        if self._parts is None:  # before sizes are looked at, which export leaves open
            return None
        signature = self._signature(arguments)
        if signature is None or signature != self._example_signature:
            return None
        return self._parts if len(arguments[self._position]) in self._parts.sizes else None

    def _signature(self, arguments: Arguments) -> Signature | None:
        """Return the properties of the arguments that compiled code depends on, besides the number of images."""
        images = arguments[self._position] if self._position < len(arguments) else None
        if not isinstance(images, Tensor):
            return None
        count = len(images)
        return tuple(
            (leaf.shape[1:] if leaf.dim() and len(leaf) == count else (leaf.shape,), leaf.dtype, leaf.device)
            if isinstance(leaf, Tensor)
            else repr(leaf)
            for leaf in tree_leaves(arguments)
        )

    def _is_watched(self) -> bool:
        """Whether hooks or torch modes observe modules or functions that compiled code bypasses."""
        modes = torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack()
        return bool(modes) or any(
            module._forward_hooks or module._forward_pre_hooks for module in self._observed_modules
        )

    @functools.cached_property
    def _observed_modules(self) -> list[nn.Module]:
        return [module for module in all_modules(self) if module is not self]


class _Names(weakref.WeakKeyDictionary[nn.Module, str]):
    """Names of the untouched model's modules, which mean nothing in another process."""

    def __reduce__(self) -> tuple[object, ...]:
        return _Names, ()


def _prepared_class(original: type[nn.Module]) -> type[Prepared]:
    @functools.wraps(original.forward)  # arguments by name, too
    def forward(self: Prepared, *arguments: Any, **keywords: Any) -> ModelOutput:
        return Prepared.forward(self, *arguments, **keywords)

    own = {"__doc__": original.__doc__, "forward": forward}
    return type(f"Prepared{original.__name__}", (Prepared, original), own)


def _new_prepared(original: type[nn.Module]) -> Prepared:
    """Return an empty prepared model of a class of models, for pickle and copies."""
    return object.__new__(_prepared_class(original))


def _in_precision_of(arguments: Arguments, output: ModelOutput) -> ModelOutput:
    """Return the output with its floating point tensors in the precision of the first such argument."""
    dtype = _first_floating(arguments).dtype
    return tree_map_only(Tensor, lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, output)


def _first_floating(arguments: Arguments) -> Tensor:
    """Return the first floating point tensor among the arguments.

    Raises:
        TypeError: where there is none.
    """
    for leaf in tree_leaves(arguments):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise TypeError("a prepared model needs a floating point tensor among its arguments, got none")
