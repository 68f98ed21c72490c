"""Tables that can be made again: every variant of a recipe with several seeds, a row a run.

python -m statemix.experiments.reproduce s3-composition --seeds 5 --out table.csv
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from statemix.bench.environment import describe, write_csv
from statemix.models import MixerConfig
from statemix.training import RunConfig, train

from .recipes import s3_composition

STATE_SIZE = 48


def s3_variants() -> dict[str, RunConfig]:
    """Mixers with 48 numbers of state (an LSTM has as many again in its cells) on the S3 recipe.

    Example:
        >>> s3_variants()["BD-LRU m=2"].model.mixer.num_blocks
        24
    """
    base = s3_composition()
    mixers = {
        "BD-LRU m=3": MixerConfig(name="bdlru", block_size=3, initial_state="learned"),
        "BD-LRU m=3, zero initial state": MixerConfig(name="bdlru", block_size=3),
        "BD-LRU m=2": MixerConfig(name="bdlru", block_size=2, initial_state="learned"),
        "BD-LRU m=1": MixerConfig(name="bdlru", block_size=1, initial_state="learned"),
        "H-LRU m=3": MixerConfig(name="hlru", block_size=3, initial_state="learned"),
        "LSTM": MixerConfig(name="lstm", block_size=1),
        "GRU": MixerConfig(name="gru", block_size=1),
        "attention": MixerConfig(name="attention", block_size=1),
    }
    return {
        name: replace(
            base,
            model=replace(base.model, mixer=replace(mixer, num_blocks=STATE_SIZE // mixer.block_size)),
        )
        for name, mixer in mixers.items()
    }


TABLES: dict[str, Callable[[], dict[str, RunConfig]]] = {"s3-composition": s3_variants}


def rows(variants: dict[str, RunConfig], seeds: int) -> Iterator[dict[str, object]]:
    """Train every variant with seeds 0 .. seeds - 1, and tell of each run in a row."""
    for name, config in variants.items():
        for seed in range(seeds):
            result = train(replace(config, seed=seed), progress=False)
            yield {
                "model": name,
                "seed": seed,
                "status": result.status,
                "steps": result.step,
                "parameters": sum(p.numel() for p in result.model.parameters()),
                **{score: round(value, 4) for score, value in result.scores.items()},
                "seconds": round(result.seconds, 1),
            }


def main(argv: list[str] | None = None) -> int:
    """Write one table."""
    parser = argparse.ArgumentParser(description="Make a table of results again.")
    parser.add_argument("table", help=f"one of {', '.join(TABLES)}")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default: 3)")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    arguments = parser.parse_args(argv)
    if arguments.table not in TABLES:
        near = difflib.get_close_matches(arguments.table, TABLES, n=3, cutoff=0.3) or list(TABLES)
        print(f"reproduce: no table {arguments.table!r}; nearest: {', '.join(near)}", file=sys.stderr)
        return 2
    written = f"python -m statemix.experiments.reproduce {arguments.table} --seeds {arguments.seeds}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = describe(device, f"{written} --out {arguments.out.name}")
    found = []
    for row in rows(TABLES[arguments.table](), arguments.seeds):
        found.append(row)
        write_csv(arguments.out, found, head)  # row by row: a run that is stopped keeps what it has
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
