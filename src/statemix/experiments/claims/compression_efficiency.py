"""Claim: at equal parameters H-LRU compresses best."""

from __future__ import annotations

from dataclasses import replace

from statemix.models.sizing import fit
from statemix.training import ScheduleConfig

from ..changes import with_data
from ..mad import mad_recipe
from ..sweep import Trial
from .claim import Budget, Comparison, TrainedClaim, Values, exceeds
from .trials import having, trials_of

HIGHER = "H-LRU m=4"

_MODELS = {
    HIGHER: ("hlru", {"block_size": 4}),
    "BD-LRU m=4": ("bdlru", {"block_size": 4}),
    "BD-LRU m=1": ("bdlru", {"block_size": 1}),
    "LSTM": ("lstm", {"block_size": 1}),
    "Mamba-2": ("mamba2", {"head_dim": 16, "state_size": 32}),
    "DeltaNet": ("deltanet", {"head_dim": 32}),
}
_QUICK = (HIGHER, "BD-LRU m=4", "BD-LRU m=1", "LSTM")


def trials(budget: Budget) -> list[Trial]:
    """MAD's compression task at equal parameters of the mixers."""
    sizes = {"minutes": (10_000,), "hour": (66_000, 200_000), "paper": (66_000, 200_000, 600_000)}[budget]
    epochs = {"minutes": 0, "hour": 40, "paper": 200}[budget]
    base = mad_recipe("compression", epochs=max(epochs, 1))
    if budget == "minutes":
        task = replace(base.data.task, length=8, vocabulary=8)  # type: ignore[union-attr]
        base = with_data(base, task=task, examples=None, test_lengths=(8,), test_examples=512)
        model = replace(base.model, d_model=32, num_layers=1, max_length=8, embedding_std=1.0)
        optimizer = replace(base.optimizer, learning_rate=1e-2, weight_decay=0.0)
        base = replace(base, model=model, optimizer=optimizer, schedule=ScheduleConfig())
        base = replace(base, steps=400, batch_size=64, threads=1)
    models = having({n: m for n, m in _MODELS.items() if budget != "minutes" or n in _QUICK})
    vocabulary = {"vocab_size": base.data.vocab_size, "output_size": base.data.output_size}
    made = []
    for size in sizes:
        for name, mixer in models.items():
            model = replace(base.model, mixer=mixer, **vocabulary)
            found = fit(model, mixer_parameters=size, tolerance=0.1)
            config = replace(base, model=found.config)
            made += trials_of(
                config,
                name,
                case=f"{size // 1000} k parameters",
                seeds=5 if budget == "paper" else 3,
                rates=() if budget == "minutes" else (5e-4, 1e-3) if budget == "hour" else (1e-4, 5e-4, 1e-3),
                decays=() if budget != "paper" else (0.0, 0.1),
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
