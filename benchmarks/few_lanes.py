"""Times every kernel beside each other where lanes are few: relays, maps round a ring, maps conducted.

    python benchmarks/few_lanes.py --csv conducted_maps.csv

Each kernel has the tile and the thread blocks that the rule would give it, and ``rule`` marks the one that
the rule takes. Results are compared with those of the rule's choice, so that what is fast and wrong is seen.
Share is the floor of bytes over the time, in parts of a device copy in the same run (bfloat16, softmax).
"""

from __future__ import annotations

import argparse
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tiles
import torch

from statemix.bench.cases import Case
from statemix.bench.environment import describe, write_csv
from statemix.kernels.cuda import launch
from statemix.kernels.cuda.configurations import Configuration, candidates

SIZES = (*(("bdlru", m) for m in (2, 3, 4)), *(("hlru", m) for m in (1, 2, 4, 6)))
#: (B, T, N)
PROBLEMS = (
    *((1, 65_536, width) for width in (64, 128, 256, 512, 1024)),
    *((2, 65_536, 256), (1, 16_384, 384), (1, 4096, 256), (2, 4096, 256), (4, 2048, 256), (8, 4096, 128)),
)


def name(tile: Configuration) -> str:
    """What a table calls the kernel of a configuration."""
    if not tile.composes:
        return "relay" if tile.tile * tile.element_bytes < 128 else "relay of whole lines"
    if not tile.conducted:
        return "ring"
    return "conducted" if tile.chunks == 1 else "conducted halves"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.02, help="of timing, for each")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("kernels need a CUDA device, and there is none here")
    index = torch.cuda.current_device()
    limits, rows = launch.device_properties(index), []
    for (family, m), direction in itertools.product(SIZES, ("forward", "backward")):
        ranked = {
            (batch, steps, width): [
                tile
                for _, tile in candidates(
                    family, direction, m, "bfloat16", "softmax", batch, steps, width, limits
                )
            ]
            for batch, steps, width in PROBLEMS
        }
        with ThreadPoolExecutor() as pool:
            every = dict.fromkeys(tile for found in ranked.values() for tile in found)
            list(pool.map(lambda tile: launch.scan_kernel(tile, index), every))
        for (batch, steps, width), found in ranked.items():
            case = Case(family=family, B=batch, T=steps, M=m, N=width, dtype=torch.bfloat16)
            problem = {"family": family, "direction": direction, "m": m, "B": batch, "T": steps, "N": width}
            for tile in found:
                sizes = {
                    "kernel": name(tile), "steps": tile.steps, "warps": tile.warps, "stages": tile.stages,
                    "thread_blocks_of_a_tile": tile.thread_blocks(1), "rule": tile == found[0],
                }  # fmt: skip
                rows.append({**problem, **sizes, **tiles.measured(case, direction, tile, options.seconds)})
                print(*rows[-1].values(), flush=True)
            torch.cuda.empty_cache()
    if options.csv is not None:
        write_csv(options.csv, rows, describe(torch.device("cuda", index), "python benchmarks/few_lanes.py"))


if __name__ == "__main__":
    main()
