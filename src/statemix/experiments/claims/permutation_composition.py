"""Claim: block size m composes permutations of m things; diagonal recurrences do not."""

from __future__ import annotations

from dataclasses import replace

from statemix.models import MixerConfig

from ..changes import with_data, with_mixer
from ..recipes import recipe
from ..sweep import Trial
from .claim import Budget, Comparison, TrainedClaim, Values, at_least, at_most, exceeds
from .trials import SEEDS, trials_of

BLOCKS, DIAGONAL = "BD-LRU m=n", "BD-LRU m=1"

# Groups, and the share of a recipe's steps.
_SIZES: dict[Budget, tuple[tuple[str, ...], float]] = {
    "minutes": (("s3",), 0.75),
    "hour": (("s3", "s4", "s5"), 1.0),
    "paper": (("s3", "s4", "s5", "a5"), 2.0),
}


def trials(budget: Budget) -> list[Trial]:
    """Models on Sn with equal states, tested at four times the trained length."""
    groups, share = _SIZES[budget]
    made = []
    for group in groups:
        base = with_data(recipe(f"{group}-composition"), test_lengths=(128,), test_examples=256)
        base = replace(base, steps=int(share * base.steps))
        if budget == "minutes":
            base = replace(base, batch_size=32)
        own = base.model.mixer
        states = own.block_size * own.blocks_for(base.model.d_model)
        mixers = {
            BLOCKS: own,
            DIAGONAL: replace(own, block_size=1, num_blocks=states),
            "H-LRU m=n": replace(own, name="hlru"),
        }
        if budget != "minutes":
            mixers["LSTM"] = MixerConfig(name="lstm", block_size=1, num_blocks=states)
        for name, mixer in mixers.items():
            made += trials_of(with_mixer(base, mixer), name, case=group, seeds=SEEDS[budget])
    return made


def judge(values: Values) -> list[Comparison]:
    return [
        at_least(values, BLOCKS, 0.95),
        at_most(values, DIAGONAL, 0.5),
        exceeds(values, BLOCKS, DIAGONAL, by=0.4),
    ]


CLAIM = TrainedClaim(
    name="permutation-composition",
    statement="Blocks of n states learn to compose permutations of n things; a diagonal recurrence does not.",
    metric="share of right answers at four times the trained length",
    reason="Composing permutations needs a state that is permuted by every input and fades by none. A block "
    "of n can hold which of n things is where and permute it; states that do not mix cannot. All "
    "models have equally many states (an LSTM its cells besides), an embedding and one layer, and were "
    "trained at length 32.",
    judge=judge,
    trials=trials,
)
