"""Compiles what the configuration rule can choose; holds it against devices' limits and a committed table.

    python -m statemix.kernels.cuda.check            every configuration of the covering list; no GPU needed
    python -m statemix.kernels.cuda.check --write    and writes the table anew

Only compute capability 9.0 has been run; the others are compiled, not run.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from itertools import product
from pathlib import Path

from statemix.kernels.cuda import compiler
from statemix.kernels.cuda.configurations import NORMALIZATIONS, Configuration, Device
from statemix.kernels.cuda.rule import choose

TABLE = Path(__file__).parent / "resources.csv"
REGISTERS_OF_A_MULTIPROCESSOR = 65536

#: A device of each compute capability that the kernels are compiled for.
DEVICES = {
    "sm_80": Device((8, 0), 108, 166_912, memory_gb_s=2039),
    "sm_86": Device((8, 6), 84, 101_376, memory_gb_s=768),
    "sm_89": Device((8, 9), 128, 101_376, memory_gb_s=1008),
    "sm_90": Device((9, 0), 132, 232_448),
    "sm_100": Device((10, 0), 148, 232_448, memory_gb_s=8000),
    "sm_120": Device((12, 0), 170, 101_376, memory_gb_s=1792),
}

#: Devices of the same compute capability for which the rule chooses otherwise: an H200.
OTHERS = {"sm_90": (Device((9, 0), 132, 232_448, memory_gb_s=4815),)}

_SIZES = {"bdlru": (1, 2, 3, 4, 6, 8, 12, 16), "hlru": (1, 2, 4, 8, 16, 32)}
# Many lanes to few: (B, T, N).
_PROBLEMS = ((64, 2048, 1024), (8, 4096, 128), (1, 65536, 512), (1, 65536, 256), (1, 65536, 64))
# Rows that begin inside lines and sectors.
_BETWEEN_LINES = ((8, 4096, 1000), (64, 512, 1000), (8, 4096, 200))


def covering(target: str) -> list[Configuration]:
    """What the rule chooses for a covering list of problems; shorter for targets that are only compiled."""
    found: dict[Configuration, None] = {}
    for family, sizes in _SIZES.items():
        shapes = [(problem, False) for problem in _PROBLEMS] + [(problem, True) for problem in _BETWEEN_LINES]
        places = [(m, *rest) for m in sizes for rest in product(shapes, ("forward", "backward"))]
        for m, (problem, between_lines), direction in places:
            for dtype, normalization, options in _variants(target, m):
                if between_lines and (dtype, normalization) != ("bfloat16", "softmax"):
                    continue
                if "time_broadcast" in options:
                    options["gate_gradient"] = direction == "forward"
                for device in (DEVICES[target], *OTHERS.get(target, ())):
                    chosen = choose(family, direction, m, dtype, normalization, *problem, device, **options)
                    found[chosen] = None
    return list(found)


def _variants(target: str, m: int) -> Iterator[tuple[str, str, dict]]:
    yield "bfloat16", "softmax", {}
    if target != "sm_90":
        return
    yield "float32", "softmax", {}
    if m in (4, 8):
        yield "float16", "softmax", {}
        for normalization in NORMALIZATIONS[1:]:
            yield "bfloat16", normalization, {}
        for rows in ("stepped", "strided", "unaligned"):
            yield "bfloat16", "softmax", {"rows": rows}
        yield "bfloat16", "softmax", {"time_broadcast": True}


def measure(configuration: Configuration, target: str) -> compiler.Resources:
    """Compiles a configuration and reads the assembler's report."""
    _, log = compiler.compile_with_log(configuration.source(), target)
    return compiler.resources(log)


def problems(
    configuration: Configuration, target: str, resources: compiler.Resources, allowed_spill: int
) -> list[str]:
    """What is wrong with a compiled configuration, as sentences."""
    device, found = DEVICES[target], []
    registers = -(-resources.registers // 8) * 8 * 32 * configuration.warps
    if registers > REGISTERS_OF_A_MULTIPROCESSOR:
        found.append(f"{registers} registers of a thread block exceed {REGISTERS_OF_A_MULTIPROCESSOR}")
    if configuration.shared_bytes > device.shared_memory:
        found.append(f"{configuration.shared_bytes} bytes of shared memory exceed {device.shared_memory}")
    if resources.spill_bytes > allowed_spill:
        found.append(f"{resources.spill_bytes} bytes are spilled, {allowed_spill} allowed")
    if configuration.cluster > 1 and not configuration.conducted and not device.clusters:
        found.append("clusters are not available")
    return found


def key(configuration: Configuration, target: str) -> tuple[str, ...]:
    return (target, *(str(getattr(configuration, field.name)) for field in fields(configuration)))


def read_table() -> dict[tuple[str, ...], tuple[int, int, int]]:
    """The committed registers, spilled bytes and shared memory, by target and configuration."""
    with TABLE.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {tuple(row[:-3]): (int(row[-3]), int(row[-2]), int(row[-1])) for row in rows}


def _write_table(measured: dict[tuple[str, ...], tuple[int, int, int]]) -> None:
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [field.name for field in fields(Configuration)]
        writer.writerow(["target", *names, "registers", "spill_bytes", "shared_bytes"])
        writer.writerows([*key, *values] for key, values in sorted(measured.items()))


def main() -> int:
    """Checks everything; returns the number of failures, at most 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table anew from what is measured")
    options = parser.parse_args()
    jobs = [(configuration, target) for target in DEVICES for configuration in covering(target)]
    table = {} if options.write else read_table()
    measured, failures = {}, []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (configuration, target), resources in zip(
            jobs, pool.map(lambda job: measure(*job), jobs), strict=True
        ):
            name = key(configuration, target)
            values = (resources.registers, resources.spill_bytes, configuration.shared_bytes)
            measured[name] = values
            allowed = resources.spill_bytes if options.write else table.get(name, (0, 0, 0))[1]
            wrong = problems(configuration, target, resources, allowed)
            if not options.write and name not in table:
                wrong.append("it is not in the table: run with --write")
            failures += [f"{' '.join(name)}: {sentence}" for sentence in wrong]
    if options.write:
        _write_table(measured)
    print("\n".join(failures), file=sys.stderr)
    spilling = sum(values[1] > 0 for values in measured.values())
    print(f"{len(jobs)} kernels for {', '.join(DEVICES)}: {len(failures)} failures, {spilling} spill")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
