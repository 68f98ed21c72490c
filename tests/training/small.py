"""Runs that take a moment, for the tests of training."""

from dataclasses import replace

from statemix.models import MixerConfig, ModelConfig
from statemix.tasks import Counting
from statemix.training import RunConfig, TaskData


def small(**changes) -> RunConfig:
    """Parity with blocks of two: a few milliseconds a step."""
    config = RunConfig(
        name="small",
        model=ModelConfig(
            d_model=16, mixer=MixerConfig(block_size=2, num_blocks=4, initial_state="learned"), mlp_ratio=1.0
        ),
        data=TaskData(task=Counting(length=8), test_lengths=(8, 16), test_examples=32),
        steps=12,
        batch_size=8,
        log_every=1,
        checkpoint_every=4,
        tensorboard=False,
    )
    return replace(config, **changes)


def numbers(rows: list[dict]) -> list[dict]:
    """Rows without what time it took."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in rows]
