"""Compiles what a table of cases will run, on all cores, before anything is timed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from .cases import Case


def compile_ahead(cases: Iterable[Case], device: torch.device) -> int:
    """Compile the CUDA kernels of these cases into the cache; returns how many there are."""
    from statemix.kernels.cuda import compiler, launch, scan

    index = torch.cuda.current_device() if device.index is None else device.index
    sources = set()
    for case in cases:
        logits = torch.empty(case.logits_shape, dtype=case.dtype, device="meta")
        values = torch.empty(case.values_shape, dtype=case.dtype, device="meta")
        rows = "packed" if case.N * case.dtype.itemsize % 16 == 0 else "unaligned"
        for direction in ("forward", "backward"):
            chosen = scan.configuration(
                case.family, direction, logits, values, case.states, case.normalization, rows, index
            )
            sources.add(chosen.source())
    target = compiler.target(launch.device_properties(index).capability)
    driver = launch.driver_version()

    def compile_one(source: str) -> None:
        compiler.compile(source, target, driver_version=driver)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources))
    return len(sources)
