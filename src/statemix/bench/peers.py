"""What others offer for the same job, each measured in a process of its own with a limit on its time.

A peer that cannot run here, or whose tuning does not end, is a row that says so; it stops nothing else.
"""

from __future__ import annotations

import importlib
import multiprocessing
import queue
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Where layers are compared; the budget is the number of parameters that each may have."""

    B: int
    T: int
    d: int
    budget: int
    dtype: torch.dtype


class Attention(nn.Module):
    """Causal softmax attention by scaled_dot_product_attention, head width 64."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.heads = d // 64
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, 64)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


def _from_fla(name: str, **options: object) -> Callable[[Sizes], nn.Module]:
    def make(sizes: Sizes) -> nn.Module:
        layer = getattr(importlib.import_module("fla.layers"), name)
        return layer(hidden_size=sizes.d, **options)

    return make


LAYERS: dict[str, Callable[[Sizes], nn.Module]] = {
    "attention (SDPA)": lambda sizes: Attention(sizes.d),
    "nn.LSTM": lambda sizes: nn.LSTM(sizes.d, sizes.d, batch_first=True),
    "fla HGRN": _from_fla("HGRNAttention", expand_ratio=1, use_short_conv=False),
    "fla DeltaNet": _from_fla("DeltaNet", num_heads=8),
    "fla Gated DeltaNet": _from_fla("GatedDeltaNet", num_heads=6, head_dim=128, expand_v=1),
    "fla GatedDeltaProduct": _from_fla("GatedDeltaProduct", num_heads=4, head_dim=128, expand_v=1),
    "fla Mamba-2": _from_fla("Mamba2", expand=1, num_heads=16, head_dim=64),
}


def linear_scan(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A peer's h_t = a_t h_{t-1} + b_t over (B, T, N), imported now.

    Raises:
        ImportError: it is not installed.
    """
    if name == "accelerated-scan":
        scan = importlib.import_module("accelerated_scan.scalar").scan
        # It scans the last dimension and wants it contiguous: the layout that it is made for.
        return lambda gates, tokens: scan(gates, tokens)
    module = importlib.import_module("torch._higher_order_ops.associative_scan")

    def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return left[0] * right[0], left[1] * right[0] + right[1]

    def scan_all(gates: Tensor, tokens: Tensor) -> Tensor:
        return module.associative_scan(combine, (gates, tokens), dim=1)[1]

    return torch.compile(scan_all, fullgraph=True)


LINEAR_SCANS = ("accelerated-scan", "torch associative_scan, compiled")


def isolated(function: Callable[..., Any], arguments: tuple, seconds: float) -> Any:
    """What ``function(*arguments)`` returns in a fresh process.

    Raises:
        RuntimeError: it failed there, with the first line of why, or took longer than ``seconds``.
    """
    (result,) = side_by_side([(function, arguments)], seconds)
    if isinstance(result, Exception):
        raise RuntimeError(str(result))
    return result


def side_by_side(calls: Iterable[tuple[Callable[..., Any], tuple]], seconds: float) -> list[Any]:
    """Results of several calls in processes that run at once, an exception where one failed or was late."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    processes = []
    for place, (function, arguments) in enumerate(calls):
        process = context.Process(target=_answer, args=(answers, place, function, arguments), daemon=True)
        process.start()
        processes.append(process)
    results: list[Any] = [RuntimeError(f"stopped after {seconds:.0f} s")] * len(processes)
    end = time.monotonic() + seconds
    open_places = set(range(len(processes)))
    while open_places and time.monotonic() < end:
        try:
            place, results[place] = answers.get(timeout=0.5)
            open_places.discard(place)
        except queue.Empty:
            for place in [p for p in open_places if processes[p].exitcode not in (None, 0)]:
                results[place] = RuntimeError(f"its process ended with code {processes[place].exitcode}")
                open_places.discard(place)
    for process in processes:
        process.kill()
        process.join()
    return results


def _answer(answers: Any, place: int, function: Callable[..., Any], arguments: tuple) -> None:
    try:
        result = function(*arguments)
    except BaseException as reason:
        # A peer may fail with anything at all: the row says with what.
        text = (str(reason).splitlines() or [""])[0]
        result = RuntimeError(f"{type(reason).__name__}: {text}"[:160])
    answers.put((place, result))
