"""Answers what measures ask for: all of them together, each copy of the images made and scored once."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastcam.devices import send, take_rows
from fastcam.engine.scorer import Scorer
from fastcam.evaluate.case import Batch, Case
from fastcam.evaluate.copies import Copy
from fastcam.evaluate.registry import Asking, Outcome
from fastcam.evaluate.requests import Explained, Explanations, Request, ScoreKind, Scores
from fastcam.evaluate.results import wide
from fastcam.explanation import Explanation
from fastcam.model.batching import Block, join_blocks

Explain = Callable[[Tensor, Tensor], Mapping[Hashable, Explanation]]
Wanted = tuple[Hashable, Copy]  # the case whose map a copy depends on, None for none of them


@dataclass
class Question:
    """A measure of a case, while it asks.

    Attributes:
        case: the key of the case.
        asking: the measure's generator.
        score: what it has scored, where a request does not say.
        passes: forward passes and explanations that it asked for, for each map.
        request: the present one; None when it is done.
        outcome: what it returned.
    """

    case: Hashable
    asking: Asking
    score: ScoreKind
    passes: int = 0
    request: Request | None = None
    outcome: Outcome | None = None

    def tell(self, answer: Tensor | None) -> None:
        """Send the answer to the present request, None to begin, and note the next one."""
        try:
            self.request = next(self.asking) if answer is None else self.asking.send(answer)
            self.passes += len(self.request.copies)
        except StopIteration as done:
            self.request, self.outcome = None, done.value


@dataclass
class Respondent:
    """Scores and explains copies of the images of one batch.

    Attributes:
        scorer: of the model; None where no measure needs it.
        kinds: of the scores that the scorer's target returns on its last axis.
        columns: (R,) the target of every row, for K targets an image; None for one.
        batch: the images.
        cases: the maps, by key.
        explain: from copies (M, C, *S) and the row of each, (M,), to their explanations by the cases' keys.
        passes: forward passes of the model for each row, so far.
    """

    scorer: Scorer | None
    kinds: Sequence[str]
    columns: Tensor | None
    batch: Batch
    cases: Mapping[Hashable, Case]
    explain: Explain | None = None
    passes: int = 0
    _known: dict[Wanted, Tensor] = field(default_factory=dict)

    def answer(self, questions: Sequence[Question]) -> None:
        """Answer all questions, round by round, until every measure is done."""
        for question in questions:
            question.tell(None)
        while open_questions := [question for question in questions if question.request is not None]:
            answers = {**self._scores(open_questions), **self._explanations(open_questions)}
            for index, question in enumerate(open_questions):
                question.tell(answers[index])

    def _scores(self, questions: Sequence[Question]) -> dict[int, Tensor]:
        """Return the answers (R, V) to the questions for scores, by their index."""
        asked = {
            index: [_wanted(question.case, copy) for copy in question.request.copies]
            for index, question in enumerate(questions)
            if isinstance(question.request, Scores)
        }
        kinds = {
            index: question.request.kind or question.score
            for index, question in enumerate(questions)
            if isinstance(question.request, Scores)
        }
        self._score([each for wanted in asked.values() for each in wanted])
        return {
            index: torch.stack([self._known[each] for each in wanted], 1)[..., self.kinds.index(kinds[index])]
            for index, wanted in asked.items()
        }

    def _explanations(self, questions: Sequence[Question]) -> dict[int, Tensor]:
        """Return the answers (R, V) to the questions for explanations, by their index."""
        requests = {
            index: question.request
            for index, question in enumerate(questions)
            if isinstance(question.request, Explanations)
        }
        asked = {
            (index, place): _wanted(questions[index].case, copy)
            for index, request in requests.items()
            for place, copy in enumerate(request.copies)
        }
        wanted = list(dict.fromkeys(asked.values()))
        parts: dict[tuple[int, int], list[Tensor]] = {place: [] for place in asked}
        for copy in wanted:
            askers = [place for place, each in asked.items() if each == copy]
            for block, explained in self._explained(copy):
                for index, place in askers:
                    reduced = requests[index].reduce(explained[questions[index].case], block.place[0])
                    parts[index, place].append(reduced)
        self.passes += len(wanted)
        return {
            index: torch.stack([torch.cat(parts[index, place]) for place in range(len(request.copies))], 1)
            for index, request in requests.items()
        }

    def _explained(self, copy: Wanted) -> Iterator[tuple[Block, dict[Hashable, Explained]]]:
        """Yield the explanations of a copy of all images by the cases' keys, some images at a time."""
        explain = self.explain
        if explain is None or self.scorer is None:
            raise ValueError("this measure explains copies of the images: pass the explainer")

        def work(block: Block) -> dict[Hashable, Explained]:
            explained = explain(self._make([copy], block).flatten(0, 1), block.rows)
            return {key: Explained.of(each) for key, each in explained.items()}

        yield from self.scorer.batches.each(len(self.batch.rows), 1, work)

    def _score(self, copies: Sequence[Wanted]) -> None:
        """Score all copies that are not known yet."""
        wanted = [each for each in dict.fromkeys(copies) if each not in self._known]
        if not wanted:
            return
        if self.scorer is None:
            raise ValueError("this measure needs the model")

        def work(block: Block) -> Tensor:
            return self._scores_of(self._make([wanted[index] for index in block.variants], block), block)

        rows = len(self.batch.rows)
        scores = join_blocks(list(self.scorer.batches.each(rows, len(wanted), work)), rows, len(wanted))
        self.passes += len(wanted)
        self._known.update(zip(wanted, scores.unbind(1), strict=True))

    def _make(self, wanted: Sequence[Wanted], block: Block) -> Tensor:
        """Return copies (n, m, C, *S)."""
        anyone = next(iter(self.cases.values()))
        rows = block.place[0]
        return torch.stack([copy.make(self.cases.get(case, anyone), rows) for case, copy in wanted], 1)

    def _scores_of(self, copies: Tensor, block: Block) -> Tensor:
        """Return the scores (n, m, kinds) of copies (n, m, C, *S)."""
        assert self.scorer is not None
        images = self.batch.rows[block.rows]
        output = self.scorer.run(self.scorer.inputs.with_copies(copies.flatten(0, 1), images), from_start=False)
        scores = self.scorer.bound(output, images)  # (M, [K,] kinds)
        if self.columns is not None:
            columns = send(take_rows(self.columns, block.rows), scores.device)
            scores = scores[torch.arange(len(scores), device=scores.device), columns]
        return wide(scores).unflatten(0, block.shape)


def _wanted(case: Hashable, copy: Copy) -> Wanted:
    return (case if copy.depends_on_map else None), copy
