"""A tape made faster: batch norms folded into the convolutions in front of them, weights packed."""

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fastcam.incremental.convolving import packed
from fastcam.incremental.tape import Operation, Tape, UnrecordableError

_NORMS = {"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit_no_training"}


def is_norm(operation: Operation) -> bool:
    """Whether an operation is a batch norm with statistics that are constants.

    Raises:
        UnrecordableError: for one that computes statistics of the batch.
    """
    if operation.name not in _NORMS:
        return False
    if not operation.name.endswith("no_training") and operation.arguments[5]:
        raise UnrecordableError("a batch norm computes statistics of the batch")
    return operation.read == [operation.arguments[0]]


def folded(tape: Tape) -> Tape:
    """The same with one convolution where a batch norm in evaluation follows one, the weights packed."""
    readers = Counter([*(slot for each in tape.operations for slot in each.read), tape.output])
    made = {each.returned[0]: each for each in tape.operations if _is_plain(each)}
    replaced: dict[int, Operation | None] = {}
    for norm in tape.operations:
        convolution = made.get(norm.arguments[0]) if is_norm(norm) else None
        if convolution is not None and readers[convolution.returned[0]] == 1:
            replaced |= {id(convolution): _packed(tape, _joined(convolution, norm)), id(norm): None}
    found = [replaced.get(id(each), each) for each in tape.operations]
    return replace(tape, operations=[_packed(tape, each) for each in found if each is not None])


def _packed(tape: Tape, operation: Operation) -> Operation:
    is_of_maps = operation.name == "convolution" and operation.read == [operation.arguments[0]]
    return packed(operation, tape.values[operation.read[0].number]) if is_of_maps else operation


def _is_plain(operation: Operation) -> bool:
    """Whether an operation is a convolution with a weight that does not depend on the images, of full precision."""
    weight: Any = operation.arguments[1] if operation.name == "convolution" else None
    is_constant = isinstance(weight, Tensor) and operation.read == [operation.arguments[0]]
    return is_constant and weight.dtype in (torch.float32, torch.float64)


def _joined(convolution: Operation, norm: Operation) -> Operation:
    images, weight, bias, *rest = convolution.arguments
    _, scale, shift, mean, variance, *others = norm.arguments
    is_transposed, epsilon = bool(rest[3]), others[-1]
    fused = fuse_conv_bn_weights(weight, bias, mean, variance, epsilon, scale, shift, is_transposed)
    return replace(
        convolution, arguments=(images, *(each.detach() for each in fused), *rest), returned=norm.returned[:1]
    )
