"""How the trials of claims are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from statemix.models import MIXERS, MixerConfig
from statemix.training import RunConfig

from ..sweep import Trial


def trials_of(
    config: RunConfig,
    model: str,
    *,
    case: str = "",
    seeds: int = 3,
    rates: Sequence[float] = (),
    decays: Sequence[float] = (),
) -> list[Trial]:
    """Seeds x learning rates x weight decays of one model on one case; they are trained as one."""
    optimizer = config.optimizer
    return [
        Trial(
            model=f"{model}, {case}" if case else model,
            config=replace(
                config,
                seed=seed,
                tensorboard=False,
                log_every=50,
                optimizer=replace(optimizer, learning_rate=rate, weight_decay=decay),
            ),
            settings={"model": model, "case": case, "rate": rate, "decay": decay},
        )
        for rate in rates or (optimizer.learning_rate,)
        for decay in decays or (optimizer.weight_decay,)
        for seed in range(seeds)
    ]


def having(models: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, MixerConfig]:
    """The mixers, by what tables call them, whose kind of layer this version has."""
    return {
        name: MixerConfig(name=kind, **options) for name, (kind, options) in models.items() if kind in MIXERS
    }
