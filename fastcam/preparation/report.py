"""The report on preparing a model: what was done, what was refused, and the measured effect."""

from dataclasses import dataclass

from fastcam.preparation.agreement import Difference


@dataclass(frozen=True)
class PreparationStep:
    """One step of the preparation.

    Attributes:
        name: the name in the report.
        done: whether the step was kept.
        detail: what was done, or why it was refused.
        gain: speedup of a forward pass of the example by this step; None where it was not measured.
        difference: from the untouched model, with all steps kept so far and this one; None where not measured.
    """

    name: str
    done: bool
    detail: str
    gain: float | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class PreparationReport:
    """The steps and the overall result of preparing a model.

    Attributes:
        steps: in order.
        gain: speedup of a forward pass of the example over the untouched model.
        difference: from the untouched model, on the example.
        batch_size: the fastest batch size on this machine.
    """

    steps: tuple[PreparationStep, ...]
    gain: float
    difference: Difference
    batch_size: int

    def __str__(self) -> str:
        """Up to two lines per step, and two for the overall result."""
        overall = PreparationStep(
            "in all", True, f"fastest with {self.batch_size} images at a time", self.gain, self.difference
        )
        return "\n".join(_lines(step) for step in (*self.steps, overall))


def _lines(step: PreparationStep) -> str:
    measurements = [] if step.gain is None else [f"{step.gain:.2f} times faster"]
    measurements += [] if step.difference is None else [str(step.difference)]
    first = f"{step.name:<15}{'' if step.done else 'refused: '}{step.detail}"
    return first if not measurements else f"{first}\n{'':15}{', '.join(measurements)}"
