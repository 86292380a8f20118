"""Maps of tokens in a model's layers, verified on the model with its first image."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from fastcam.model import token_maps
from fastcam.model.capture import Layer, observe
from fastcam.model.inputs import Inputs
from fastcam.model.token_maps import TokenMap


class Verification:
    """The maps that some layers may hold, verified by one forward pass per grid, which serves all the layers."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model, self._inputs = model, inputs
        self._layers: dict[TokenMap, Layer] = {}
        self._results: dict[TokenMap, tuple[TokenMap | None, float]] = {}

    def ask(self, layer: Layer, candidates: Sequence[TokenMap]) -> None:
        """Have candidates of a layer verified together with those of others."""
        self._layers |= dict.fromkeys(candidates, layer)

    def __call__(self, candidate: TokenMap) -> tuple[TokenMap | None, float]:
        """Return what :func:`~fastcam.model.token_maps.verify` does, for a candidate that was asked for."""
        if candidate not in self._results:
            self._run(candidate.grid)
        return self._results[candidate]

    def _run(self, grid: Sequence[int]) -> None:
        layers = {
            candidate: layer
            for candidate, layer in self._layers.items()
            if candidate.grid == grid and candidate not in self._results
        }
        self._results |= self._verified(layers, grid, 0)
        if math.prod(grid) >= token_maps.MIN_CELLS:
            return
        by_chance = {candidate: layer for candidate, layer in layers.items() if self._results[candidate][0] is not None}
        again = self._verified(by_chance, grid, 1) if by_chance else {}
        for candidate, (second, _) in again.items():
            first, _ = self._results[candidate]
            if first is None or not first.is_like(second):
                self._results[candidate] = None, math.inf

    def _verified(
        self, layers: dict[TokenMap, Layer], grid: Sequence[int], seed: int
    ) -> dict[TokenMap, tuple[TokenMap | None, float]]:
        """Return what the copies with some noise say of the candidates of a grid."""
        copies = token_maps.exchange_cells(self._inputs.images[:1].detach(), grid, seed)
        arguments = self._inputs.with_copies(copies, torch.zeros(len(copies), dtype=torch.int64)).arguments
        outputs = observe(self._model, arguments, only=list(layers.values())).outputs
        results: dict[TokenMap, tuple[TokenMap | None, float]] = {}
        for candidate, layer in layers.items():
            runs = [output.tensor for output in outputs if output.name == layer.name]
            run = len(runs) - 1 if layer.run is None else layer.run
            # A layer that runs less often for these copies has no map to verify.
            found = token_maps.verify(candidate, runs[run]) if 0 <= run < len(runs) else (None, math.inf)
            results[candidate] = found
        return results


def find_map(model: nn.Module, layer: Layer, candidates: Sequence[TokenMap], inputs: Inputs) -> TokenMap | None:
    """Return the map in a layer's output; None if it is none of the candidates."""
    verification = Verification(model, inputs)
    verification.ask(layer, candidates)
    return token_maps.find(candidates, verification)
