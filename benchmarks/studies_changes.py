"""What studies.py changes in a recipe, and the trials that are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from statemix.experiments.changes import with_data, with_mixer
from statemix.experiments.sweep import Trial
from statemix.training import RunConfig


def over(
    config: RunConfig, model: str, *, seeds: int, rates: Sequence[float] = (), decays: Sequence[float] = ()
) -> list[Trial]:
    """Trials of one model: seeds x learning rates x weight decays, which are trained as one."""
    optimizer = config.optimizer
    return [
        Trial(
            model=model,
            config=replace(
                config,
                seed=seed,
                tensorboard=False,
                log_every=100,
                optimizer=replace(optimizer, learning_rate=rate, weight_decay=decay),
            ),
            settings={"rate": rate, "decay": decay},
        )
        for rate in rates or (optimizer.learning_rate,)
        for decay in decays or (optimizer.weight_decay,)
        for seed in range(seeds)
    ]


def with_options(config: RunConfig, **changes: Any) -> RunConfig:
    """The same mixer with other options."""
    return with_mixer(config, replace(config.model.mixer, **changes))


def with_model(config: RunConfig, **changes: Any) -> RunConfig:
    """The same mixer in another backbone."""
    return replace(config, model=replace(config.model, **changes))


def started(config: RunConfig) -> RunConfig:
    """A start token before every sequence: what a mixer without a learned initial state gets instead."""
    return with_data(config, task=replace(config.data.task, start_token=True))


def exactly(config: RunConfig, **changes: Any) -> RunConfig:
    """In float32 throughout, which shows what bfloat16 rounds off, and with the gates that training found."""
    return replace(config, precision="float32", threads=0, sharpen_gates=(), **changes)


def fan_in(config: RunConfig) -> RunConfig:
    """Weights start with N(0, 1/sqrt(inputs)) in place of N(0, 0.02)."""
    return with_model(with_options(config, weight_init="fan-in"), mlp_init="fan-in")


def sharpened(config: RunConfig, noise: float = 0.0, *, closed: bool = False) -> RunConfig:
    """Noise on the gates in training, and gates that let nothing in at first."""
    return with_options(config, gate_noise=noise, gate_init="closed" if closed else "paper")


def rising(config: RunConfig, noise: float, first: float, last: float) -> RunConfig:
    """Noise on the gates that rises between two shares of the steps, when the rule has been found."""
    return replace(sharpened(config, noise), gate_noise_rise=(first, last))


def validated(config: RunConfig) -> RunConfig:
    """Gates times what validation calls for when training is over."""
    return replace(config, sharpen_gates=(1.25, 1.5, 2.0, 3.0))


def sharpenings(config: RunConfig) -> dict[str, RunConfig]:
    """What makes gates sharp, or rules whole, by name."""
    return {
        "gate noise 0.5": sharpened(config, 0.5),
        "gate noise 1": sharpened(config, 1.0),
        "gate noise 2": sharpened(config, 2.0),
        "gate noise rising to 0.5": rising(config, 0.5, 0.4, 0.6),
        "gate noise rising to 1": rising(config, 1.0, 0.4, 0.6),
        "gate noise rising to 2": rising(config, 2.0, 0.4, 0.8),
        "sharpened gates": validated(config),
        "gate noise rising to 1, sharpened gates": validated(rising(config, 1.0, 0.4, 0.6)),
        "block dropout 0.3": with_options(config, block_dropout=0.3),
        "block dropout 0.5": with_options(config, block_dropout=0.5),
        "closed": sharpened(config, closed=True),
        "closed, gate noise 1": sharpened(config, 1.0, closed=True),
        "closed, gate noise 2": sharpened(config, 2.0, closed=True),
    }
