"""Optimization of a tape: fold batch norms into the convolutions before them, and pack convolution weights."""

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fastcam.incremental.packed_convolution import pack_weight
from fastcam.incremental.tape import Operation, Tape, UnrecordableError

_BATCH_NORMS = {"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit_no_training"}


def is_batch_norm(operation: Operation) -> bool:
    """Whether an operation is a batch norm with constant statistics.

    Raises:
        UnrecordableError: for one that computes statistics of the batch.
    """
    if operation.name not in _BATCH_NORMS:
        return False
    if not operation.name.endswith("no_training") and operation.arguments[5]:
        raise UnrecordableError("a batch norm computes statistics of the batch")
    return operation.inputs == [operation.arguments[0]]


def fold_batch_norms(tape: Tape) -> Tape:
    """Return the tape with each convolution and the batch norm after it as one convolution, and with packed weights."""
    readers = Counter([*(slot for operation in tape.operations for slot in operation.inputs), tape.output])
    convolutions = {
        operation.outputs[0]: operation for operation in tape.operations if _is_foldable_convolution(operation)
    }
    replacements: dict[int, Operation | None] = {}
    for norm in tape.operations:
        convolution = convolutions.get(norm.arguments[0]) if is_batch_norm(norm) else None
        if convolution is not None and readers[convolution.outputs[0]] == 1:
            replacements |= {id(convolution): _pack(tape, _fuse(convolution, norm)), id(norm): None}
    operations = [replacements.get(id(operation), operation) for operation in tape.operations]
    return replace(tape, operations=[_pack(tape, operation) for operation in operations if operation is not None])


def _pack(tape: Tape, operation: Operation) -> Operation:
    """Pack the weight of a convolution whose input is all that depends on the images."""
    is_of_maps = operation.name == "convolution" and operation.inputs == [operation.arguments[0]]
    return pack_weight(operation, tape.values[operation.inputs[0].number]) if is_of_maps else operation


def _is_foldable_convolution(operation: Operation) -> bool:
    """Whether an operation is a float32 or float64 convolution whose weight does not depend on the images."""
    if operation.name != "convolution" or operation.inputs != [operation.arguments[0]]:
        return False
    weight = operation.arguments[1]
    return isinstance(weight, Tensor) and weight.dtype in (torch.float32, torch.float64)


def _fuse(convolution: Operation, norm: Operation) -> Operation:
    images, weight, bias, *rest = convolution.arguments
    _, scale, shift, mean, variance, *others = norm.arguments
    is_transposed, epsilon = bool(rest[3]), others[-1]
    weights = fuse_conv_bn_weights(weight, bias, mean, variance, epsilon, scale, shift, is_transposed)
    return replace(
        convolution,
        arguments=(images, *(parameter.detach() for parameter in weights), *rest),
        outputs=norm.outputs[:1],
    )
