"""Recipes: functions that return a whole config, by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from statemix.models import MixerConfig, ModelConfig
from statemix.tasks import Counting, Permutation
from statemix.training import OptimizerConfig, RunConfig, ScheduleConfig, TaskData, TextData


def s3_composition() -> RunConfig:
    """Compose permutations of three things, trained at length 32, tested up to 512; a minute on a CPU."""
    return RunConfig(
        name="s3-composition",
        model=ModelConfig(
            d_model=64,
            num_layers=1,
            mlp="gelu",
            embedding_std=1.0,
            mixer=MixerConfig(name="bdlru", block_size=3, num_blocks=16, initial_state="learned"),
        ),
        data=TaskData(task=Permutation(group="S3", length=32), test_lengths=(32, 128, 512)),
        optimizer=OptimizerConfig(learning_rate=3e-3, weight_decay=0.01),
        schedule=ScheduleConfig(name="one-cycle"),
        steps=400,
        batch_size=64,
        # So small a model gains nothing from a second thread, and waits for it where others run too.
        threads=1,
    )


def s4_composition() -> RunConfig:
    """Compose permutations of four things: twice as wide, blocks of four, 500 steps of batch 128."""
    base = s3_composition()
    return replace(
        base,
        name="s4-composition",
        model=replace(base.model, d_model=128, mixer=replace(base.model.mixer, block_size=4, num_blocks=24)),
        data=TaskData(task=Permutation(group="S4", length=32), test_lengths=(32, 128, 512)),
        optimizer=replace(base.optimizer, learning_rate=2e-3),
        steps=500,
        batch_size=128,
    )


def s5_composition() -> RunConfig:
    """Compose permutations of five things, with lengths that grow from 2 on; a run for a GPU."""
    base = s3_composition()
    return replace(
        base,
        name="s5-composition",
        model=replace(base.model, d_model=128, mixer=replace(base.model.mixer, block_size=5, num_blocks=24)),
        data=TaskData(task=Permutation(group="S5", length=32), test_lengths=(8, 32, 128), start_length=2),
        optimizer=replace(base.optimizer, learning_rate=2e-3),
        steps=20_000,
        batch_size=256,
        checkpoint_every=1000,
    )


def parity() -> RunConfig:
    """Say whether the ones so far are odd, trained at length 32: blocks of two can swap."""
    base = s3_composition()
    return replace(
        base,
        name="parity",
        model=replace(base.model, mixer=replace(base.model.mixer, block_size=2)),
        data=TaskData(task=Counting(modulus=2, length=32), test_lengths=(32, 128, 512)),
    )


def modular_counting() -> RunConfig:
    """Count modulo three, trained at length 32: blocks of three can turn."""
    base = s3_composition()
    return replace(
        base,
        name="modular-counting",
        data=TaskData(task=Counting(modulus=3, symbols=3, length=32), test_lengths=(32, 128, 512)),
    )


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
    "s3-composition": s3_composition,
    "s4-composition": s4_composition,
    "s5-composition": s5_composition,
    "parity": parity,
    "modular-counting": modular_counting,
    "text-bytes": text_bytes,
}


def recipe(name: str) -> RunConfig:
    """The config of a recipe.

    Raises:
        ValueError: an unknown name; the nearest are listed.

    Example:
        >>> recipe("s3-composition").model.mixer.block_size
        3
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.3) or list(RECIPES)
        raise ValueError(f"no recipe {name!r}; nearest: {', '.join(near)}; all: {', '.join(RECIPES)}")
    return RECIPES[name]()
