"""Times every kernel beside each other, to hold the rule's choice against the fastest one.

    python benchmarks/kernel_choice.py --csv kernel_choice.csv
    python benchmarks/kernel_choice.py --problems training --csv kernel_choice.csv
    python benchmarks/kernel_choice.py --problems between-lines --csv kernel_choice.csv
    python benchmarks/kernel_choice.py --dtype float32 --csv kernel_choice.csv

Few lanes: few sequences of many steps. Training: batches as layers get them, some with widths that fit no
line. Between lines: widths of which rows begin inside lines of 128 bytes, or sectors, or words. Benchmark:
what ``statemix bench op`` times.
Each kernel (a relay, maps round a ring, maps conducted) has the tile that the rule would give it, with every
number of thread blocks that should not take much longer than what the rule takes, which ``rule`` marks.
Results are compared with those of the rule's choice, so that what is fast and wrong is seen. Share is the
floor of bytes over the time, in parts of a device copy in the same run (softmax).
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tiles
import torch

from statemix.bench.cases import Case, cuda_cases
from statemix.bench.environment import describe, write_csv
from statemix.kernels.cuda import launch
from statemix.kernels.cuda.configurations import ELEMENT_BYTES, Configuration, Device
from statemix.kernels.cuda.rule import candidates

#: Of kernels in the order in which the rule puts them: how much longer than the first, and how many.
LONGER, AT_MOST = 1.5, 7

Problem = tuple[str, int, int, int, int]


def _every(bdlru: tuple[int, ...], hlru: tuple[int, ...], *shapes: tuple[int, int, int]) -> list[Problem]:
    """Block sizes and orders with shapes (B, T, N), each with each."""
    sizes = [*(("bdlru", m) for m in bdlru), *(("hlru", m) for m in hlru)]
    return [(*size, *shape) for size in sizes for shape in shapes]


#: (family, m, B, T, N).
PROBLEMS: dict[str, list[Problem]] = {
    "few-lanes": _every(
        (2, 3, 4),
        (1, 2, 4, 6),
        *((1, 65_536, width) for width in (64, 128, 256, 512, 1024)),
        *((2, 65_536, 256), (1, 16_384, 384), (1, 4096, 256), (2, 4096, 256), (4, 2048, 256)),
        *((8, 4096, 128), (2, 16_384, 512), (8, 4096, 256), (4, 4096, 512), (16, 2048, 256)),
    ),
    "training": _every(
        (1, 2, 3, 4, 8),
        (1, 2, 3, 4, 8),
        *((8, 4096, width) for width in (64, 112, 208, 256, 304, 512, 1024)),
        *((16, 2048, width) for width in (96, 160, 304, 512)),
        *((32, 1024, width) for width in (112, 304)),
    ),
    "between-lines": _every(
        (1, 2, 3, 4, 8),
        (1, 2, 4, 8),
        *((8, 4096, width) for width in (136, 200, 410, 600, 1000, 1008, 1023)),
        *((32, 1024, 328), (32, 1024, 1000), (64, 512, 1000), (2, 16_384, 520), (1, 65_536, 1000)),
    ),
    "benchmark": [
        (case.family, case.M, case.B, case.T, case.N) for case in cuda_cases(("targets", "few-lanes"))
    ],
}


def name(tile: Configuration) -> str:
    """What a table calls the kernel of a configuration."""
    if not tile.composes:
        row = tile.tile * tile.element_bytes
        return "relay" if row < 128 else "relay of whole lines" if row == 128 else "relay of two lines"
    return f"{'conducted' if tile.conducted else 'ring'}{' halves' if tile.chunks == 2 else ''}"


def contenders(
    family: str, direction: str, m: int, shape: tuple[int, int, int], limits: Device, dtype: str = "bfloat16"
) -> list[Configuration]:
    """What could be the fastest for a problem, the rule's choice first."""
    rows = "unaligned" if shape[2] * ELEMENT_BYTES[dtype] % 16 else "packed"
    ranked = candidates(family, direction, m, dtype, "softmax", *shape, limits, rows=rows)
    return [tile for cost, tile in ranked if cost < LONGER * ranked[0][0]][:AT_MOST]


def behind(rows: list[dict[str, Any]]) -> list[float]:
    """By how many points of a copy the rule's choice is behind the fastest kernel, for each problem."""
    problems = defaultdict(list)
    for row in rows:
        key = tuple(row[column] for column in ("family", "direction", "dtype", "m", "B", "T", "N"))
        problems[key].append(row)
    return [
        100 * max(row["share_of_copy"] - chosen["share_of_copy"] for row in found)
        for found in problems.values()
        for chosen in found
        if chosen["rule"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", choices=PROBLEMS, default="few-lanes")
    parser.add_argument("--dtype", choices=tiles.DTYPES, default="bfloat16")
    parser.add_argument("--seconds", type=float, default=0.02, help="of timing, for each")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("kernels need a CUDA device, and there is none here")
    index = torch.cuda.current_device()
    limits, dtype, rows = launch.device_properties(index), tiles.DTYPES[options.dtype], []
    shapes: dict[tuple[str, int], list[tuple[int, int, int]]] = defaultdict(list)
    for family, m, batch, steps, width in PROBLEMS[options.problems]:
        shapes[family, m].append((batch, steps, width))
    for ((family, m), of_size), direction in itertools.product(shapes.items(), ("forward", "backward")):
        ranked = {shape: contenders(family, direction, m, shape, limits, options.dtype) for shape in of_size}
        with ThreadPoolExecutor() as pool:
            every = dict.fromkeys(tile for found in ranked.values() for tile in found)
            list(pool.map(lambda tile: launch.scan_kernel(tile, index), every))
        for (batch, steps, width), found in ranked.items():
            case = Case(family=family, B=batch, T=steps, M=m, N=width, dtype=dtype)
            timer = tiles.Timer(case, direction, options.seconds)
            problem = {"family": family, "direction": direction, "dtype": options.dtype}
            problem |= {"m": m, "B": batch, "T": steps, "N": width}
            for tile in found:
                sizes_of_tile = {
                    "kernel": name(tile), "steps": tile.steps, "warps": tile.warps, "stages": tile.stages,
                    "thread_blocks_of_a_tile": tile.thread_blocks(1), "paced": tile.paced,
                    "rule": tile == found[0],
                }  # fmt: skip
                rows.append({**problem, **sizes_of_tile, **timer.measured(tile)})
                print(*rows[-1].values(), flush=True)
            del timer
            torch.cuda.empty_cache()
    points = behind(rows)
    print(
        f"the rule's choice is {sum(points) / len(points):.2f} points behind the fastest kernel on average "
        f"over {len(points)} problems, more than ten behind in {sum(point > 10 for point in points)}"
    )
    if options.csv is not None:
        command = " ".join(["python", *sys.argv])
        write_csv(options.csv, rows, describe(torch.device("cuda", index), command))


if __name__ == "__main__":
    main()
