"""Tables that can be made again: every variant of a recipe with several seeds, a row a run.

python -m statemix.experiments.reproduce s3-composition --seeds 5 --out table.csv
"""

from __future__ import annotations

import argparse
import csv
import datetime
import difflib
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

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


def conditions(command: str) -> list[str]:
    """What a reader must know to make a table again: command, date, versions, device."""
    from statemix import __version__

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return [
        f"command: {command}",
        f"date: {datetime.date.today().isoformat()}",
        f"statemix {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.system()}",
        f"device: {device}",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


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
    with open(arguments.out, "w", newline="") as file:
        for line in conditions(f"{written} --out {arguments.out.name}"):
            file.write(f"# {line}\n")
        writer = None
        for row in rows(TABLES[arguments.table](), arguments.seeds):
            if writer is None:
                writer = csv.DictWriter(file, list(row), extrasaction="ignore")
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
