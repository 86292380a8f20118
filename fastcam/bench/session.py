"""One run of ``fastcam bench``: what is measured, in which order, and what is kept of it."""

import difflib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import fastcam
from fastcam import ops
from fastcam.bench import methods, peers
from fastcam.bench import ops as op_measuring
from fastcam.bench.contest import Case, Setting, enlivened
from fastcam.bench.hardware import hardware
from fastcam.bench.op_cases import OpCase, op_cases
from fastcam.bench.timing import Patience
from fastcam.classifiers.models import Classifier


def check_names(only: Sequence[str]) -> None:
    """Refuses what is neither an op nor a method.

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
    name: str, classifier: Classifier, batch: int, device: torch.device, layer: str | None = None, reshape: Any = None
) -> Setting:
    """Random images for the classifier; where its weights are random too, with statistics that are not all zeros.

    Raises:
        ValueError, TypeError: for what is no classifier, and for a layer that is not there or cannot be found.
    """
    torch.manual_seed(0)
    model = enlivened(classifier.model) if classifier.random_weights else classifier.model
    colors = len(classifier.preprocessing.mean)
    images = torch.randn(batch, colors, *classifier.preprocessing.size)
    return Setting.of(name, model.to(device), images.to(device), layer, reshape)


@dataclass
class Session:
    """What is measured, and the rows found so far.

    Attributes:
        at: the model and its images.
        patience: how long for each contestant.
        only: names of ops and methods; empty for all.
        op_rows: one for each op and batch.
        method_rows: one for each method and contestant.
        disagreements: who was not timed, since it does not return the same, in sentences.
        unable: which method or tool does not work on this model, and why.
    """

    at: Setting
    patience: Patience
    only: tuple[str, ...] = ()
    op_rows: list[dict[str, Any]] = field(default_factory=list)
    method_rows: list[dict[str, Any]] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)
    unable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        wanted = [name for name in self.only if name in ops.__all__]
        self._ops: list[OpCase] = []
        if wanted or not self.only:
            self._ops = op_cases(self.at.images.device, batches=1, only=wanted)
        self._methods: list[Case] = methods.every_case(self.at.size, self.only)

    def __len__(self) -> int:
        """How many steps :meth:`run` takes."""
        return len(self._ops) + len(self._methods)

    def run(self) -> Iterator[str]:
        """Measures step by step; says before each what comes."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tools' about their own workings
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
        found = methods.measure(case, self.at, self.patience)
        self.method_rows += found
        for row in found:
            if row["refused"]:
                listed = self.unable if row["difference"] is None else self.disagreements
                listed.append(f"{row['method']} by {row['tool']}: {row['refused']}")

    def write(self, file: Path) -> None:
        """Keeps the rows with the hardware and the tools' versions as JSON."""
        kept = {
            "hardware": hardware() | {"device": str(self.at.images.device)},
            "tools": {tool.name: tool.version for tool in peers.installed()},
            "model": self.at.name,
            "layer": self.at.layer,
            "batch": len(self.at.images),
            "ops": self.op_rows,
            "methods": self.method_rows,
        }
        file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
