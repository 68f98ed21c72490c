"""How the trials of claims are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from statemix.training import RunConfig

from ..sweep import Trial
from .claim import Budget

SEEDS: dict[Budget, int] = {"minutes": 3, "hour": 3, "paper": 5}
"""Seeds of each setting."""


def trials_of(
    config: RunConfig,
    model: str,
    *,
    seeds: int,
    case: str = "",
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
