"""Recipes: functions that return a whole config, by name."""

from __future__ import annotations

from collections.abc import Callable

from statemix.models import MixerConfig, ModelConfig
from statemix.names import unknown_name
from statemix.training import OptimizerConfig, RunConfig, ScheduleConfig, TextData

from .language import LANGUAGE
from .mad import MAD
from .state_tracking import STATE_TRACKING, s3_composition

__all__ = ["RECIPES", "recipe", "s3_composition", "text_bytes"]


def text_bytes() -> RunConfig:
    """Predict the bytes of Python's standard library; about a minute on a CPU."""
    return RunConfig(
        name="text-bytes",
        model=ModelConfig(
            d_model=128,
            num_layers=2,
            mixer=MixerConfig(name="bdlru", block_size=4, num_blocks=32),
        ),
        data=TextData(corpus="stdlib", length=64, evaluation_bytes=2**20),
        optimizer=OptimizerConfig(learning_rate=4e-3, weight_decay=0.1, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(name="one-cycle", warmup_share=0.1),
        steps=1500,
        batch_size=16,
        threads=1,
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {
    **STATE_TRACKING,
    **MAD,
    "text-bytes": text_bytes,
    **LANGUAGE,
}


def recipe(name: str) -> RunConfig:
    """The config of a recipe; those of language models take a mixer behind a slash.

    Raises:
        ValueError: an unknown name; the nearest are listed.

    Examples:
        >>> recipe("s3-composition").model.mixer.block_size
        3
        >>> recipe("lm-10m/hlru-2").model.mixer.name
        'hlru'
    """
    base, slash, mixer = name.partition("/")
    if slash and base in LANGUAGE:
        return LANGUAGE[base](mixer)
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
