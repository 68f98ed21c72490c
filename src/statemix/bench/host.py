"""What a call costs the host, and what the first call of a process costs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from statemix.ops import bdlru_scan

from .peers import isolated


@dataclass(frozen=True)
class Row:
    """Host time of one kind of call, beside PyTorch's ``add`` of small tensors in the same run."""

    call: str
    host_us: float
    add_us: float
    over_add: float
    note: str = ""


def measure(device: torch.device, *, budget_s: float = 1.0) -> Iterator[Row]:
    """Calls on tensors so small that the host is all that is seen, then first calls in new processes."""
    logits = torch.randn(2, 8, 4, 5, 64, device=device)
    values = torch.randn(2, 8, 4, 64, device=device)
    add_us = _microseconds(lambda: values + values, device, budget_s)
    leaves = [t.clone().requires_grad_() for t in (logits, values)]

    def both() -> object:
        hidden, _ = bdlru_scan(leaves[0], leaves[1])
        return torch.autograd.grad(hidden, leaves, values)

    calls: dict[str, Callable[[], object]] = {
        "forward": lambda: bdlru_scan(logits, values),
        "forward, to be differentiated": lambda: bdlru_scan(leaves[0], leaves[1]),
        "forward and backward": both,
    }
    for name, run in calls.items():
        us = _microseconds(run, device, budget_s)
        yield Row(name, us, add_us, us / add_us)
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("STATEMIX_CACHE_DIR")
        os.environ["STATEMIX_CACHE_DIR"] = folder
        try:
            for state in ("cold", "warm"):
                ms, add_ms = isolated(first_call, (device,), 120.0)
                name = f"first forward and backward of a process, {state} cache"
                yield Row(name, 1e3 * ms, 1e3 * add_ms, ms / add_ms, "after a first linear layer's")
        finally:
            os.environ.pop("STATEMIX_CACHE_DIR")
            if before is not None:
                os.environ["STATEMIX_CACHE_DIR"] = before


def first_call(device: torch.device) -> tuple[float, float]:
    """Milliseconds of the first scan of this process, and of the first addition before it.

    PyTorch itself has run a layer forward and backward by then, as any program has.
    """
    layer = torch.nn.Linear(64, 64, device=device)
    layer(torch.randn(8, 64, device=device)).sum().backward()
    logits = torch.randn(2, 8, 4, 5, 64, device=device, requires_grad=True)
    values = torch.randn(2, 8, 4, 64, device=device, requires_grad=True)

    def add() -> object:
        return torch.autograd.grad(values.add(values), values, values.detach())

    def scan() -> object:
        hidden, _ = bdlru_scan(logits, values)
        return torch.autograd.grad(hidden, (logits, values), hidden.detach())

    add_ms = _once(add, device)
    return _once(scan, device), add_ms


def _once(run: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return (time.perf_counter() - start) * 1e3


def _microseconds(run: Callable[[], object], device: torch.device, budget_s: float) -> float:
    """Mean host time of a call; the device is waited for now and then, so that its queue never fills."""
    for _ in range(100):
        run()
    total, calls, batch = 0.0, 0, 200
    while not calls or total < budget_s:
        _synchronize(device)
        start = time.perf_counter()
        for _ in range(batch):
            run()
        total += time.perf_counter() - start
        calls += batch
    return total / calls * 1e6


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
