"""Claim: L1-normalised gates keep training stable as blocks grow."""

from __future__ import annotations

from dataclasses import replace

from statemix.kernels.reference.normalization import NORMALIZATIONS

from ..changes import with_data
from ..recipes import recipe
from ..sweep import Trial
from .claim import Budget, Comparison, TrainedClaim, Values, exceeds
from .trials import SEEDS, trials_of


def trials(budget: Budget) -> list[Trial]:
    """S3 with blocks and learning rates that grow, scored at the trained length."""
    orders = {"minutes": (3, 12), "hour": (3, 6, 12, 24), "paper": (3, 4, 6, 8, 12, 16, 24)}[budget]
    rates = {"minutes": (3e-3, 1e-2), "hour": (1e-3, 3e-3, 1e-2), "paper": (3e-4, 1e-3, 3e-3, 1e-2)}[budget]
    base = with_data(recipe("s3-composition"), test_lengths=(32,), test_examples=256)
    if budget == "minutes":
        base = replace(base, steps=200, batch_size=32)
    made = []
    for m in orders:
        for name in NORMALIZATIONS:
            mixer = replace(base.model.mixer, block_size=m, num_blocks=48 // m, normalization=name)
            config = replace(base, model=replace(base.model, mixer=mixer))
            # Every rate is a case: what is stable is so without the right rate being searched for.
            for rate in rates:
                case = f"m={m}, rate {rate:g}"
                made += trials_of(config, name, case=case, seeds=SEEDS[budget], rates=(rate,))
    return made


def judge(values: Values) -> list[Comparison]:
    return [exceeds(values, "softmax", "none"), exceeds(values, "softmax", "relu")]


CLAIM = TrainedClaim(
    name="normalization-stability",
    statement="L1-normalized gates keep training stable and let blocks grow; ReLU gates train worse than "
    "softmax.",
    metric="share of right answers at the trained length, mean over block sizes and rates; 0 if diverged",
    reason="A row whose magnitudes sum to at most one cannot make a state grow, whatever the block size. "
    "Without it states grow with the length, and gradients with them. ReLU rows can be all zero, and "
    "then pass neither state nor gradient.",
    judge=judge,
    trials=trials,
)
