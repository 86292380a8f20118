"""How concentrated a map is: measures that need nothing but the map."""

import torch

from fastcam.evaluate.case import Case
from fastcam.evaluate.registry import Outcome, measure


@measure(
    "sparseness",
    formula="Gini index of |a|: sum over i of (2 i - P - 1) |a|_(i) / (P sum |a|), the values in ascending order",
    higher_is_better=None,
    paper="arXiv:1810.06583",
)
def sparseness(case: Case) -> Outcome:
    """Gini index of the map before scaling: 0 for a constant map, towards 1 for a single position."""
    values = case.raw.abs().flatten(1).double().sort(1).values
    count = values.shape[1]
    places = 2 * torch.arange(1, count + 1, device=values.device) - count - 1
    total = values.sum(1)
    return (places * values).sum(1) / (count * total.masked_fill(total == 0, torch.nan))


@measure(
    "complexity",
    formula="entropy -sum p ln p of the shares p = |a| / sum |a|",
    higher_is_better=None,
    paper="arXiv:2005.00631",
)
def complexity(case: Case) -> Outcome:
    """Entropy of the map before scaling: 0 for a single position, ln P for a constant map."""
    values = case.raw.abs().flatten(1).double()
    total = values.sum(1, keepdim=True)
    shares = values / total.masked_fill(total == 0, torch.nan)
    return -torch.special.xlogy(shares, shares).sum(1)


@measure(
    "mean_intensity",
    formula="mean of the map, scaled to [0, 1]",
    higher_is_better=None,
    paper="arXiv:2104.10252",
)
def mean_intensity(case: Case) -> Outcome:
    """Mean of the scaled map, which is what ADCC calls complexity."""
    return case.maps.flatten(1).double().mean(1)
