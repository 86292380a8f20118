"""The part of a forward function after its layers, run on other values there."""

from typing import Any

import torch
from torch import Tensor

from fastcam.compat.captum.attr._at_layers import LayerRun, Values, as_list, at_layers
from fastcam.compat.captum.attr._bases import Layer
from fastcam.compat.captum.attr._calls import Call, recording
from fastcam.model import capture
from fastcam.model.batching import Block
from fastcam.model.inputs import Inputs
from fastcam.model.out_of_memory import is_out_of_memory
from fastcam.model.resume import NotResumableError, Resumed


class AfterLayer:
    """The function from values of layers to gradients of the scores there.

    After one layer that returns one tensor, the part before it is not run again, provided that the model can be resumed
    there and then returns the scores of the whole run.

    Args:
        call: the function, its inputs and arguments.
        layer: a module or several.
        at_input: the values are what the layers take.
        run: the run on the call's inputs.
    """

    def __init__(self, call: Call, layer: Layer, at_input: bool, run: LayerRun) -> None:
        self.call, self.layers, self.at_input, self.run = call, as_list(layer), at_input, run
        self.resumed = None if at_input or len(run.flat) != 1 else self._resume()

    def gradients(self, values: Values, block: Block, grad_kwargs: dict[str, Any]) -> Values:
        """Return the gradients with respect to the values, (M, ...) each, for a block of copies.

        Args:
            values: of all layers, M rows.
            block: the examples of the rows.
            grad_kwargs: options of :func:`torch.autograd.grad`.
        """
        leaves = self.call.leaves(values)
        with recording():
            scores = self.call.single_scores(self._output(leaves, block), block.rows)
            return torch.autograd.grad(torch.unbind(scores), leaves, **grad_kwargs)

    def _output(self, values: Values, block: Block) -> Any:
        if self.resumed is not None:
            try:
                return self.resumed(values[0].clone(), block)
            except NotResumableError:  # with a graph the model runs differently
                self.resumed = None
        by_layer = self.run.by_layer(values)

        def exchange(index: int, tensors: Values) -> list[Tensor]:
            torch.set_grad_enabled(True)  # until the surrounding mode ends
            return [tensor.clone() for tensor in by_layer[index]]

        rows = block.rows
        inputs = tuple(tensor[rows.to(tensor.device)] for tensor in self.call.inputs)
        with at_layers(self.layers, self.at_input, exchange):
            return self.call.output(inputs, rows)

    def _resume(self) -> Resumed | None:
        """Return the model after the layer, or None where it does not reproduce the scores of the whole run."""
        images, *others = self.call.inputs
        inputs = Inputs(images, (*others, *self.call.others))

        def forward(inputs: Inputs) -> Any:
            return capture.forward(self.call.model, inputs.arguments, from_start=torch.is_grad_enabled()).output

        block = Block(range(self.call.count), range(2))
        try:
            with torch.no_grad():
                resumed = Resumed(forward, inputs, capture.Layer(type(self.layers[0]).__name__, self.layers[0]))
                output = resumed(self.run.flat[0].repeat_interleave(2, 0), block)
            scores, expected = self.call.select(output, block.rows), self.call.select(self.run.output)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            return None  # the whole run reports the actual error
        expected = expected.repeat_interleave(2, 0)
        scale, rounding = float(expected.abs().max()), torch.finfo(expected.dtype).eps ** 0.5
        return resumed if torch.allclose(scores, expected, rtol=rounding, atol=rounding * scale) else None
