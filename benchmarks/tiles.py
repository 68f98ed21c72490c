"""Times candidate tiles of one problem beside the rule's choice: what the rule's table is made of.

    python benchmarks/tiles.py --family bdlru --block-size 4 --batch 8 --steps 4096 --width 256 \
        --direction forward --candidates 4,8,1,2 6,8,1,2 --csv tiles.csv

A candidate is steps of a chunk, warps, stages, thread blocks that work on a tile, and where maps are
conducted groups of warps and the chunks that a warp computes at once; its kernel is the one that the rule
chooses or ``--kernel`` names. Without candidates every kernel runs with what the rule would give it, and with
every number of thread blocks. Each one's results are compared with those of the rule's choice, so that a fast
tile that is wrong is seen. Share is the floor of bytes over the time, in parts of a device copy in the same
run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from statemix.bench.cases import Case
from statemix.bench.environment import describe, write_csv
from statemix.bench.timing import copy_gb_s, milliseconds
from statemix.kernels.cuda import launch, scan
from statemix.kernels.cuda.configurations import Configuration
from statemix.kernels.cuda.rule import candidates, choose

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def runner(case: Case, direction: str) -> Callable[[], tuple[Tensor | None, ...]]:
    """A call of the kernel on tensors of the case."""
    logits, values = case.inputs("cuda")
    if direction == "forward":
        return lambda: scan.forward(case.family, logits, values, None, None, case.normalization)
    hidden, _ = scan.forward(case.family, logits, values, None, None, case.normalization)
    grad = torch.randn_like(values)
    return lambda: scan.backward(
        case.family, logits, values, None, None, hidden, grad, None, case.normalization
    )


def with_tile(configuration: Configuration | None, run: Callable[[], Any]) -> Any:
    """The call with one configuration in place of the rule's choice; None: with the rule's."""
    scan._plans.clear()
    scan.choose = choose if configuration is None else lambda *_, **__: configuration
    try:
        return run()
    finally:
        scan._plans.clear()
        scan.choose = choose


def _largest_difference(one: Tensor, other: Tensor) -> float:
    """Relative to the largest number; a part of the tensors at a time, which may fill half of the memory."""
    pairs = list(zip(one.flatten().split(2**26), other.flatten().split(2**26), strict=True))
    difference = max(float((a.float() - b.float()).abs().max()) for a, b in pairs)
    return difference / max(float(b.abs().max()) for _, b in pairs)


class Timer:
    """Times tiles on tensors of a case, and compares their results with those of the rule's choice."""

    def __init__(self, case: Case, direction: str, seconds: float) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.run = runner(case, direction)
        self.floor_bytes, self.seconds = case.floor_bytes(direction), seconds
        self.wanted = [x for x in with_tile(None, self.run) if x is not None]

    def measured(self, tile: Configuration) -> dict[str, Any]:
        """Time, share of a copy, and how far results are from those of the rule's choice."""
        found = [x for x in with_tile(tile, self.run) if x is not None]
        off = max(_largest_difference(one, other) for one, other in zip(found, self.wanted, strict=True))
        del found
        ms = with_tile(tile, lambda: milliseconds(self.run, self.device, budget_s=self.seconds))
        share = self.floor_bytes / ms / 1e6 / copy_gb_s(self.device)
        return {"ms": ms, "share_of_copy": share, "largest_difference": off}


def main() -> int:
    parser = argparse.ArgumentParser(description="Time candidate tiles of one problem on this GPU.")
    parser.add_argument("--family", choices=("bdlru", "hlru"), default="bdlru")
    parser.add_argument("--direction", choices=("forward", "backward"), default="forward")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--normalization", default="softmax")
    for name, size in (("block-size", 4), ("batch", 8), ("steps", 4096), ("width", 256)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--kernel", help="part of the name of the kernel that candidates are of")
    parser.add_argument(
        "--candidates", nargs="+", default=[], help="steps,warps,stages,cluster[,groups[,chunks]]"
    )
    parser.add_argument("--seconds", type=float, default=0.2, help="of timing, for each")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("tiles need a CUDA device, and there is none here")
    index = torch.cuda.current_device()
    limits = launch.device_properties(index)
    case = Case(
        family=arguments.family, B=arguments.batch, T=arguments.steps, M=arguments.block_size,
        N=arguments.width, dtype=DTYPES[arguments.dtype], normalization=arguments.normalization,
    )  # fmt: skip
    ranked = candidates(
        case.family, arguments.direction, case.M, arguments.dtype, case.normalization, case.B, case.T,
        case.N, limits,
    )  # fmt: skip
    chosen = ranked[0][1]
    of_kernels = [tile for _, tile in ranked if (arguments.kernel or "") in tile.kernel]
    if not of_kernels:
        parser.error(f"no kernel {arguments.kernel!r} runs this: {', '.join(t.kernel for _, t in ranked)}")
    tiles = [chosen] if arguments.candidates else [chosen, *of_kernels]
    for text in arguments.candidates:
        names = ("steps", "warps", "stages", "cluster", "groups", "chunks")
        sizes = dict(zip(names, map(int, text.split(",")), strict=False))
        ring = {"groups": 0, "chunks": 2 if of_kernels[0].composes else 1}
        tiles.append(replace(of_kernels[0], **{**ring, **sizes}))
    fitting = [tile for tile in dict.fromkeys(tiles) if tile.shared_bytes <= limits.shared_memory]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda tile: launch.scan_kernel(tile, index), fitting))
    rows, timer = [], Timer(case, arguments.direction, arguments.seconds)
    for tile in fitting:
        row = {
            "family": case.family, "direction": arguments.direction, "dtype": arguments.dtype, "B": case.B,
            "T": case.T, "m": case.M, "N": case.N, "kernel": tile.kernel, "steps": tile.steps,
            "warps": tile.warps, "stages": tile.stages, "cluster": tile.cluster, "groups": tile.groups,
            "chunks": tile.chunks, "rule": tile == chosen,
            **timer.measured(tile),
        }  # fmt: skip
        rows.append(row)
        print(row, flush=True)
    if arguments.csv:
        command = " ".join(["python", *sys.argv])
        write_csv(arguments.csv, rows, describe(torch.device("cuda", index), command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
