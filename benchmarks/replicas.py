"""What K runs trained as one cost against one run: python benchmarks/replicas.py [--out FILE.csv]

Timings of one config, each over the same steps after a warm-up that compiles and captures:

    train             one run by statemix.training.train
    replicas, K = 1   one run on the path of groups (captured as a CUDA graph on a GPU)
    replicas, K = 6   six runs: two seeds and three learning rates; and K = 24
    compiled          the same two with the whole step compiled

The promise is that six cost less than twice one run. Each is set against one by train(), which is what a
single run costs, and against the fastest way there is to make one.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from statemix.bench.environment import describe, write_csv
from statemix.experiments import recipe
from statemix.models import MixerConfig, ModelConfig
from statemix.tasks import Permutation
from statemix.training import Observer, RunConfig, TaskData, train, train_replicas


def cases(steps: int) -> dict[str, RunConfig]:
    """The S3 recipe, and a run of the size of the MAD protocol."""
    small = replace(recipe("s3-composition"), steps=steps)
    task = Permutation(group="S4", length=128)
    mad = replace(
        small,
        model=ModelConfig(
            d_model=128, num_layers=2, mixer=MixerConfig(block_size=4, num_blocks=32, initial_state="learned")
        ),
        data=TaskData(task=task, examples=12_800),
        batch_size=128,
    )
    return {
        name: replace(
            config,
            data=replace(config.data, test_lengths=(8,), test_examples=1),
            log_every=WARM_UP,
            threads=0,
        )
        for name, config in {"s3-composition": small, "two blocks, width 128, batch 128 x 128": mad}.items()
    }


WARM_UP = 50
PATHS = (
    ("train", 1), ("replicas", 1), ("replicas", 6), ("replicas", 24), ("compiled", 1), ("compiled", 6),
)  # fmt: skip


class Clock(Observer):
    """The time between the first row, after the warm-up, and the last."""

    def __init__(self) -> None:
        self.times: list[tuple[int, float]] = []

    def logged(self, row: dict) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append((row["step"], time.perf_counter()))

    @property
    def milliseconds(self) -> float:
        (first, began), (last, ended) = self.times[0], self.times[-1]
        return 1e3 * (ended - began) / (last - first)


def measure(config: RunConfig, kind: str, replicas: int) -> float:
    """Milliseconds of a step."""
    clock = Clock()
    config = replace(config, compile=kind == "compiled")
    if kind == "train":
        train(config, observers=[clock], progress=False)
    else:
        rates = [factor * config.optimizer.learning_rate for factor in (1.0, 0.5, 0.25)]
        configs = [
            replace(
                config, seed=i // 3, optimizer=replace(config.optimizer, learning_rate=rates[i % len(rates)])
            )
            for i in range(replicas)
        ]
        train_replicas(configs, observers=[clock], progress=False)
    return clock.milliseconds


def main() -> int:
    parser = argparse.ArgumentParser(description="Time K runs trained as one.")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    rows = []
    for name, config in cases(arguments.steps).items():
        times = {}
        for kind, count in PATHS:
            times[kind, count] = measure(config, kind, count)
            print(f"{name}: {kind}, {count} runs: {times[kind, count]:.3g} ms a step", flush=True)
        one = min(time for (_, count), time in times.items() if count == 1)
        for (kind, count), milliseconds in times.items():
            rows.append(
                {
                    "config": name,
                    "path": kind,
                    "runs": count,
                    "ms_per_step": milliseconds,
                    "over_train": milliseconds / times["train", 1],
                    "over_fastest_single": milliseconds / one,
                }
            )
        six = min(time for (_, count), time in times.items() if count == 6)
        print(
            f"{name}: six runs cost {six / times['train', 1]:.2f} x one by train(), {six / one:.2f} x the "
            f"fastest single one",
            flush=True,
        )
        if arguments.out is not None:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            write_csv(arguments.out, rows, describe(device, " ".join(["python", *sys.argv])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
