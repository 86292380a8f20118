"""The part of a forward function behind its layers, for other values there."""

from typing import Any

import torch
from torch import Tensor

from fastcam.compat.captum.attr._at_layers import Seen, as_list, at_layers
from fastcam.compat.captum.attr._bases import Layer
from fastcam.compat.captum.attr._calls import Call, check_scores, recording
from fastcam.model import capture
from fastcam.model.batching import Block, is_out_of_memory
from fastcam.model.inputs import Inputs
from fastcam.model.resume import NotResumableError, Resumed


class Behind:
    """From values of layers to gradients of the scores there.

    Behind one layer that returns one tensor, the part in front of it is not run again, if the model lets itself be
    resumed there: if it does, the scores are those of the whole run.

    Args:
        call: the function, its inputs and arguments.
        layer: a module or several.
        at_input: whether values are what they take.
        seen: what they took or returned for the inputs.
    """

    def __init__(self, call: Call, layer: Layer, at_input: bool, seen: Seen) -> None:
        self.call, self.layers, self.at_input, self.seen = call, as_list(layer), at_input, seen
        self.resumed = None if at_input or len(seen.flat) != 1 else self._resumed()

    def gradients(self, values: tuple[Tensor, ...], block: Block, options: dict[str, Any]) -> tuple[Tensor, ...]:
        """Gradients with respect to the values, (M, ...) each, for a block of copies.

        Args:
            values: of all layers, M rows.
            block: which examples they belong to.
            options: of :func:`torch.autograd.grad`.
        """
        leaves = self.call.leaves(values)
        with recording():
            scores = self.call.chosen(self._output(leaves, block), block.rows)
            check_scores(scores)
            return torch.autograd.grad(torch.unbind(scores), leaves, **options)

    def _output(self, values: tuple[Tensor, ...], block: Block) -> Any:
        if self.resumed is not None:
            try:
                return self.resumed(values[0].clone(), block)
            except NotResumableError:  # with a graph the model runs differently
                self.resumed = None
        given = self.seen.by_layer(values)

        def exchange(index: int, found: tuple[Tensor, ...]) -> list[Tensor]:
            torch.set_grad_enabled(True)  # until the surrounding mode ends
            return [each.clone() for each in given[index]]

        rows = block.rows
        inputs = tuple(each[rows.to(each.device)] for each in self.call.inputs)
        with at_layers(self.layers, self.at_input, exchange):
            return self.call.output(inputs, rows)

    def _resumed(self) -> Resumed | None:
        """The model behind the layer, where it gives the scores of the whole run back."""
        images, *others = self.call.inputs
        inputs = Inputs(images, (*others, *self.call.others))
        count = self.call.count

        def run(given: Inputs) -> Any:
            return capture.forward(self.call.model, given.arguments, from_start=torch.is_grad_enabled()).output

        block = Block(range(count), range(2))
        try:
            with torch.no_grad():
                resumed = Resumed(run, inputs, capture.Layer(type(self.layers[0]).__name__, self.layers[0]))
                again = resumed(self.seen.flat[0].repeat_interleave(2, 0), block)
            found, expected = self.call.chosen(again, block.rows), self.call.chosen(self.seen.output)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            return None  # run whole, it says what is really wrong
        expected = expected.repeat_interleave(2, 0)
        scale, rounding = float(expected.abs().max()), torch.finfo(expected.dtype).eps ** 0.5
        return resumed if torch.allclose(found, expected, rtol=rounding, atol=rounding * scale) else None
