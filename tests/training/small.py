"""Runs that take a moment, and what may happen to them, for the tests of training."""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

from statemix.models import MixerConfig, ModelConfig
from statemix.tasks import Counting
from statemix.training import Observer, RunConfig, TaskData


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


class At(Observer):
    """Act when a step was logged."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def logged(self, row):
        if row["step"] == self.step:
            self.act()


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def start_workers(arguments: list[str], count: int) -> list[subprocess.Popen[str]]:
    """Python with arguments, in processes of one run, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
