"""Claim: at equal parameters H-LRU compresses best."""

from __future__ import annotations

from dataclasses import replace

from statemix.models import MixerConfig
from statemix.models.sizing import fit
from statemix.tasks import make
from statemix.training import ScheduleConfig

from ..changes import with_data
from ..mad import EPOCHS, LEARNING_RATES, WEIGHT_DECAYS, mad_recipe
from ..sweep import Trial
from .claim import Budget, Comparison, TrainedClaim, Values, exceeds
from .trials import SEEDS, trials_of

HIGHER = "H-LRU m=4"

_MODELS = {
    HIGHER: MixerConfig(name="hlru", block_size=4),
    "BD-LRU m=4": MixerConfig(name="bdlru", block_size=4),
    "BD-LRU m=1": MixerConfig(name="bdlru", block_size=1),
    "LSTM": MixerConfig(name="lstm", block_size=1),
    "Mamba-2": MixerConfig(name="mamba2", head_dim=16, state_size=32),
    "DeltaNet": MixerConfig(name="deltanet", head_dim=32),
}
_QUICK = (HIGHER, "BD-LRU m=4", "BD-LRU m=1", "LSTM")


def trials(budget: Budget) -> list[Trial]:
    """MAD's compression task at equal parameters of the mixers."""
    sizes = {"minutes": (10_000,), "hour": (66_000, 200_000), "paper": (66_000, 200_000, 600_000)}[budget]
    base = mad_recipe("compression", epochs=40 if budget == "hour" else EPOCHS)
    if budget == "minutes":
        task = make("compression", length=8, vocabulary=8)
        base = with_data(base, task=task, examples=None, test_lengths=(8,), test_examples=512)
        model = replace(base.model, d_model=32, num_layers=1, max_length=8, embedding_std=1.0)
        optimizer = replace(base.optimizer, learning_rate=1e-2, weight_decay=0.0)
        base = replace(base, model=model, optimizer=optimizer, schedule=ScheduleConfig())
        base = replace(base, steps=400, batch_size=64, threads=1)
    model = base.resolved().model
    made = []
    for size in sizes:
        for name in _QUICK if budget == "minutes" else _MODELS:
            found = fit(replace(model, mixer=_MODELS[name]), mixer_parameters=size, tolerance=0.1)
            config = replace(base, model=found.config)
            made += trials_of(
                config,
                name,
                case=f"{size // 1000} k parameters",
                seeds=SEEDS[budget],
                rates={"minutes": (), "hour": (5e-4, 1e-3), "paper": LEARNING_RATES}[budget],
                decays=WEIGHT_DECAYS if budget == "paper" else (),
            )
    return made


def judge(values: Values) -> list[Comparison]:
    return [exceeds(values, HIGHER, other) for other in values if other != HIGHER]


CLAIM = TrainedClaim(
    name="compression-efficiency",
    statement="H-LRU is the most parameter-efficient at compression.",
    metric="share of tokens read back from one vector, at equal parameters of the mixers",
    reason="A sequence goes through one vector, from which every token is read back (MAD's compression "
    "task). A window of past states holds more of it for few parameters than gates that mix all "
    "states with all.",
    judge=judge,
    trials=trials,
)
