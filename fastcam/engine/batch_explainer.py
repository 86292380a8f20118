"""The explanation of a batch: at once or in groups, each from a recorded graph where there is one."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from fastcam import targets
from fastcam.engine import image_groups, per_image
from fastcam.engine.assembly import Explanations, explain
from fastcam.engine.first_pass import first_pass
from fastcam.engine.graph_calls import ExplanationCall
from fastcam.engine.graphs import Graphs
from fastcam.engine.notes import Notes
from fastcam.engine.settings import Settings
from fastcam.model.batching import Batches, Block
from fastcam.model.inputs import Inputs
from fastcam.model.out_of_memory import with_spare_memory
from fastcam.model.progress import ProgressReporter
from fastcam.model.running import is_training


@dataclass(frozen=True)
class BatchExplainer:
    """Explains images of one size.

    Attributes:
        model: the model, prepared if it is to be.
        settings: of the explainer.
        progress: of work on many copies.
        graphs: None records nothing.
        measured_size: images at a time with which the model was found to be fastest; None if that was not measured.
    """

    model: nn.Module
    settings: Settings
    progress: ProgressReporter
    graphs: Graphs | None
    measured_size: int | None

    def __call__(self, inputs: Inputs, target: targets.Target) -> Explanations:
        """Return the explanations of all images.

        Raises:
            ValueError, TypeError, RuntimeError: for a layer or target that does not fit the model.
        """
        if self._groups(inputs, target) is None:
            return with_spare_memory(lambda: self._replay_or(self._explain_all, inputs, target))
        return with_spare_memory(lambda: self._explain_all(inputs, target))

    def _replay_or(
        self, explain: Callable[[Inputs, targets.Target], Explanations], inputs: Inputs, target: targets.Target
    ) -> Explanations:
        """Explain images together: from a recorded graph, or by a function."""
        graphs = self.graphs
        if graphs is None or not self.settings.is_one_pass or not graphs.record_on(inputs.images.device):
            return explain(inputs, target)
        call = ExplanationCall.of(inputs, target, explain)
        return explain(inputs, target) if call is None else graphs.run(self.model, call)

    def _explain_all(self, inputs: Inputs, target: targets.Target) -> Explanations:
        """Explain all images, in groups if there are many."""
        notes = Notes(self.settings.strict)
        if self.settings.channel_axis is None and inputs.channel_axis != 1:
            notes.say(f"axis {inputs.channel_axis} of the input is taken for its channels, axis 1 for the frames")
        inputs = per_image.checked(self.model, inputs, self.settings.select, notes)
        batches = self._groups(inputs, target)
        if batches is None or (batches.limit == 1 and not image_groups.has_row_per_image(self.model, inputs, notes)):
            return self._explain(inputs, target, notes)
        return self._explain_by_groups(inputs, target, batches, notes)

    def _groups(self, inputs: Inputs, target: targets.Target) -> Batches | None:
        """Return the groups of a large batch; None for all images at once."""
        if self.settings.differentiable or not image_groups.is_divisible(target, len(inputs)):
            return None
        if not self.settings.is_one_pass:
            return None  # such methods split their work themselves
        batches = self._batches(inputs, self.measured_size or image_groups.usual_size(inputs.images))
        return None if len(inputs) <= batches.limit or is_training(self.model) else batches

    def _batches(self, inputs: Inputs, start: int | None) -> Batches:
        return Batches(self.settings.batch_size, inputs.images.device, self.progress, start)

    def _explain_by_groups(
        self, inputs: Inputs, target: targets.Target, batches: Batches, notes: Notes
    ) -> Explanations:
        """Explain all images as :meth:`_explain` does, group by group."""

        def explain_one(inputs: Inputs, target: targets.Target) -> Explanations:
            return self._explain(inputs, target, notes)

        def explain_group(block: Block) -> Explanations:
            return self._replay_or(explain_one, *image_groups.part_of(inputs, target, block.images))

        parts: list[Explanations] = []
        for block, part in batches.each(len(inputs.images), 1, explain_group):
            explanation = next(iter(part.values())) if isinstance(part, dict) else part
            if not image_groups.is_joinable(explanation.output, len(block)):
                return self._explain(inputs, target, notes)
            parts.append(part)
        return image_groups.join(parts, inputs.images.detach())

    def _explain(self, inputs: Inputs, target: targets.Target, notes: Notes) -> Explanations:
        """Explain images in one forward pass."""
        batches = self._batches(inputs, self.measured_size or image_groups.usual_copies(inputs.images))
        run = first_pass(self.model, inputs, target, self.settings, batches, notes, graphs=self.graphs)
        return explain(run, inputs.images)
