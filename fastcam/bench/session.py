"""One run of ``fastcam bench``: the cases, their order, and the JSON file of the results."""

import difflib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

import fastcam
from fastcam import ops
from fastcam.bench import methods, peers
from fastcam.bench import ops as op_measuring
from fastcam.bench.contest import Case, Reshape, Setting, randomize_zeros
from fastcam.bench.hardware import hardware
from fastcam.bench.op_cases import OpCase, op_cases
from fastcam.bench.rows import MethodRow, OpRow
from fastcam.bench.timing import Patience
from fastcam.classifiers.models import Classifier


def check_names(only: Sequence[str]) -> None:
    """Refuse names that are neither an op nor a method.

    Raises:
        ValueError: with similar names.
    """
    known = list(dict.fromkeys([*ops.__all__, *(method.name for method in fastcam.list_methods())]))
    for name in only:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise ValueError(f"`only` must be the name of an op or of a method, got {name!r}{hint}")


def setting_of(
    name: str,
    classifier: Classifier,
    batch: int,
    device: torch.device,
    layer: str | None = None,
    reshape: Reshape | None = None,
) -> Setting:
    """Return a setting with random images; random weights get batch-norm statistics that are not all zeros.

    Raises:
        ValueError, TypeError: for a model that is no classifier, an unknown layer, and where none can be found.
    """
    torch.manual_seed(0)
    model = randomize_zeros(classifier.model) if classifier.random_weights else classifier.model
    colors = len(classifier.preprocessing.mean)
    images = torch.randn(batch, colors, *classifier.preprocessing.size)
    return Setting.of(name, model.to(device), images.to(device), layer, reshape)


@dataclass
class Session:
    """The cases to measure, and the rows measured so far.

    Attributes:
        at: the model and its images.
        patience: the number of samples of a contestant.
        only: names of ops and methods; empty for all.
        op_rows: one per op and batch.
        method_rows: one per method and contestant.
        disagreements: messages about contestants that were not timed since their results differ.
        unable: messages about methods and tools that do not work on this model.
    """

    at: Setting
    patience: Patience
    only: tuple[str, ...] = ()
    op_rows: list[OpRow] = field(default_factory=list)
    method_rows: list[MethodRow] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)
    unable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        op_names = [name for name in self.only if name in ops.__all__]
        self._ops: list[OpCase] = []
        if op_names or not self.only:
            self._ops = op_cases(self.at.images.device, batches=1, only=op_names)
        self._methods: list[Case] = methods.every_case(self.at.size, self.only)

    def __len__(self) -> int:
        """The number of steps of :meth:`run`."""
        return len(self._ops) + len(self._methods)

    def run(self) -> Iterator[str]:
        """Measure step by step, and yield the name of each op or method before it is measured."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other tools about their own internals
            for op in self._ops:
                yield op.op
                self._measure_op(op)
            self._ops.clear()  # its tensors are large
            for method in self._methods:
                yield method.method
                self._measure_method(method)

    def _measure_op(self, case: OpCase) -> None:
        try:
            self.op_rows.append(op_measuring.measure(case, self.patience))
        except op_measuring.DisagreementError as error:
            self.disagreements.append(str(error))

    def _measure_method(self, case: Case) -> None:
        rows = methods.measure(case, self.at, self.patience)
        self.method_rows += rows
        for row in rows:
            if row["refused"]:
                messages = self.unable if row["difference"] is None else self.disagreements
                messages.append(f"{row['method']} by {row['tool']}: {row['refused']}")

    def write(self, file: Path) -> None:
        """Write the rows with the hardware and the tools' versions as JSON."""
        result = {
            "hardware": hardware() | {"device": str(self.at.images.device)},
            "tools": {tool.name: tool.version for tool in peers.installed()},
            "model": self.at.name,
            "layer": self.at.layer,
            "batch": len(self.at.images),
            "ops": self.op_rows,
            "methods": self.method_rows,
        }
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
