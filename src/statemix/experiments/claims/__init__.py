"""The paper's claims: one file each, with three budgets and a verdict computed from its numbers."""

from __future__ import annotations

from statemix.names import unknown_name

from . import (
    compression_efficiency,
    normalization_stability,
    permutation_composition,
    structure_over_width,
    synthetic_parity,
    throughput_over_order,
)
from .claim import BUDGETS, Budget, Claim, Comparison, Stopped, Values, verdict_of

CLAIMS: dict[str, Claim] = {
    module.CLAIM.name: module.CLAIM
    for module in (
        permutation_composition,
        compression_efficiency,
        synthetic_parity,
        normalization_stability,
        structure_over_width,
        throughput_over_order,
    )
}

__all__ = [
    "BUDGETS",
    "CLAIMS",
    "Budget",
    "Claim",
    "Comparison",
    "Stopped",
    "Values",
    "find_claim",
    "verdict_of",
]


def find_claim(name: str) -> Claim:
    """The claim of that name.

    Raises:
        ValueError: an unknown name; the nearest are listed.

    Examples:
        >>> find_claim("permutation-composition").metric
        'share of right answers at four times the trained length'
    """
    if name not in CLAIMS:
        raise unknown_name("claim", name, CLAIMS)
    return CLAIMS[name]
