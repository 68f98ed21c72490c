"""Claim: over the synthetic tasks BD-LRU matches or exceeds Mamba, DeltaNet and LSTM."""

from __future__ import annotations

from dataclasses import replace

from statemix.models import MixerConfig
from statemix.tasks import make
from statemix.training import RunConfig

from ..changes import with_data, with_mixer
from ..mad import EPOCHS, LEARNING_RATES, TASKS, WEIGHT_DECAYS, mad_recipe
from ..sweep import Trial
from .claim import Budget, Comparison, TrainedClaim, Values, exceeds
from .trials import SEEDS, trials_of

OURS = "BD-LRU m=4"
MARGIN = 0.02
"""Accuracies that differ by less count as matching."""

_MODELS = {
    OURS: MixerConfig(name="bdlru", block_size=4, num_blocks=32),
    "LSTM": MixerConfig(name="lstm", block_size=1),
    "Mamba": MixerConfig(name="mamba"),
    "Mamba-2": MixerConfig(name="mamba2"),
    "DeltaNet": MixerConfig(name="deltanet"),
}
_QUICK = (OURS, "LSTM", "DeltaNet")


def trials(budget: Budget) -> list[Trial]:
    """The six MAD tasks at their baseline settings; smaller ones where minutes must do."""
    made = []
    for case, base in _cases(budget).items():
        for name in _QUICK if budget == "minutes" else _MODELS:
            made += trials_of(
                with_mixer(base, _MODELS[name]),
                name,
                case=case,
                seeds=SEEDS[budget],
                rates={"minutes": (), "hour": (5e-4, 1e-3), "paper": LEARNING_RATES}[budget],
                decays=WEIGHT_DECAYS if budget == "paper" else (),
            )
    return made


def _cases(budget: Budget) -> dict[str, RunConfig]:
    if budget != "minutes":
        epochs = 20 if budget == "hour" else EPOCHS
        return {
            task: mad_recipe(task, epochs=50 * epochs if task == "memorization" else epochs) for task in TASKS
        }
    cases = {}
    for task, settings in {
        "in-context-recall": {"length": 32, "vocabulary": 8},
        "selective-copying": {"length": 24, "num_copied": 4},
        "memorization": {"length": 16, "vocabulary": 32},
    }.items():
        base = mad_recipe(task, epochs=1)
        made = make(task, **settings)
        data = {"task": made, "examples": None, "test_lengths": (made.length,), "test_examples": 256}
        model = replace(base.model, d_model=48, num_layers=1)
        optimizer = replace(base.optimizer, learning_rate=3e-3, weight_decay=0.0)
        cases[task] = with_data(
            replace(base, model=model, optimizer=optimizer, steps=250, batch_size=32, threads=1), **data
        )
    return cases


def judge(values: Values) -> list[Comparison]:
    return [exceeds(values, OURS, other, by=-MARGIN) for other in values if other != OURS]


CLAIM = TrainedClaim(
    name="synthetic-parity",
    statement="Over the synthetic tasks BD-LRU matches or exceeds Mamba, DeltaNet and LSTM.",
    metric="mean share of right answers over the tasks",
    reason="The tasks of mechanistic architecture design ask for recall, copying, compression and "
    f"memorization, one at a time. To match is not to fall behind by more than {100 * MARGIN:g} "
    "points.",
    judge=judge,
    trials=trials,
)
