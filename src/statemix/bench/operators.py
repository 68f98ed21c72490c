"""Operators at named shapes: time, bandwidth, share of copy speed, and peers of equal state."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor, nn

from .cases import Case
from .compilation import compile_ahead
from .gate import LENGTH, check
from .peers import LINEAR_SCANS, isolated, linear_scan
from .timing import capturable, copy_gb_s, milliseconds, warm_up


@dataclass(frozen=True)
class Row:
    """One measured line; bandwidths count the floor bytes of the case."""

    family: str
    direction: str
    dtype: str
    normalization: str
    B: int
    T: int
    m: int
    N: int
    ms: float
    floor_gb_s: float
    copy_gb_s: float
    share_of_copy: float
    note: str = ""


# Elements left free before each buffer: memory banks make narrow rows depend on it by a sixth.
OFFSETS = (0, 33 * 1024, 1280 * 1024)


def measure(
    cases: Iterable[Case], device: torch.device, backend: str, *, budget_s: float = 1.0
) -> Iterator[Row]:
    """Check every case, then time it: forward, and forward with backward (on a GPU backward alone).

    On a GPU each time is the median over several places of the buffers, and the best of them is noted.
    """
    on_gpu = device.type == "cuda"
    offsets = OFFSETS if on_gpu else OFFSETS[:1]
    cases = list(cases)
    if backend == "cuda":
        compile_ahead([*cases, *(case.shortened(LENGTH) for case in cases)], device)
    for case in cases:
        check(case, device, backend)
        times: dict[str, list[float]] = {"forward": [], "backward" if on_gpu else "forward+backward": []}
        for offset in offsets:
            for direction, found in times.items():
                with capturable(device):
                    run = _runner(case, direction, device, backend, offset)
                    found.append(milliseconds(run, device, budget_s=budget_s / len(offsets)))
                    del run
                if on_gpu:
                    # What is cached for these tensors serves no others, and large ones need all of the card.
                    torch.cuda.empty_cache()
        for direction, found in times.items():
            yield _row(case, direction, found, device, backend)


def _runner(
    case: Case, direction: str, device: torch.device, backend: str, offset: int
) -> Callable[[], object]:
    """A call that does just what is timed."""
    bounds = case.cu_seqlens(device)
    if direction == "forward":
        plain = case.inputs(device, offset=offset)
        return lambda: case.run(plain, bounds, backend)
    tensors = case.inputs(device, offset=offset, requires_grad=True)
    gradient = torch.randn(case.values_shape, device=device).to(case.dtype)
    if direction == "backward":
        hidden, _ = case.run(tensors, bounds, backend)
        return lambda: torch.autograd.grad(hidden, tensors, gradient, retain_graph=True)
    return lambda: torch.autograd.grad(case.run(tensors, bounds, backend)[0], tensors, gradient)


def _row(case: Case, direction: str, times: list[float], device: torch.device, backend: str) -> Row:
    ms = statistics.median(times)
    copy = copy_gb_s(device)
    speed = case.floor_bytes(direction) / ms / 1e6
    notes = [backend]
    if device.type == "cpu":
        notes.append(f"{speed / copy_gb_s(device, fresh=True):.2f} of a copy into a fresh tensor")
    if case.initial_state:
        notes.append("initial state")
    if case.sequences > 1:
        notes.append(f"{case.sequences} packed sequences")
    if len(times) > 1:
        best = case.floor_bytes(direction) / min(times) / 1e6 / copy
        notes.append(f"best of {len(times)} buffer offsets {best:.3f}")
    return Row(
        family=case.family,
        direction=direction,
        dtype=str(case.dtype).removeprefix("torch."),
        normalization=case.normalization,
        B=case.B,
        T=case.T,
        m=case.M,
        N=case.N,
        ms=ms,
        floor_gb_s=speed,
        copy_gb_s=copy,
        share_of_copy=speed / copy,
        note=", ".join(notes),
    )


def measure_peers(
    state: int, B: int, T: int, device: torch.device, *, budget_s: float = 1.0, peer_s: float = 120.0
) -> Iterator[Row]:
    """What users run today, of as many state numbers: diagonal scans on a GPU, then LSTM and GRU.

    A diagonal scan reads a coefficient and an input for each number and writes the state; that is its
    floor. LSTM and GRU have no floor of this kind: their bandwidth columns are empty.
    """
    if device.type == "cuda":
        for name in LINEAR_SCANS:
            try:
                yield from isolated(measure_linear_scan, (name, state, B, T, device, budget_s), peer_s)
            except RuntimeError as reason:
                yield _unmeasured(name, "forward", B, T, state, f"not run: {reason}")
    for name, make in (("nn.LSTM", nn.LSTM), ("nn.GRU", nn.GRU)):
        layer = make(state, state, batch_first=True, device=device)
        x = torch.randn(B, T, state, device=device)

        def forward(layer: nn.Module = layer, x: Tensor = x) -> object:
            with torch.no_grad():
                return layer(x)

        def both(layer: nn.Module = layer, x: Tensor = x) -> object:
            return torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters()))

        for direction, run in (("forward", forward), ("forward+backward", both)):
            try:
                ms = milliseconds(run, device, budget_s=budget_s)
            except RuntimeError as reason:  # cuDNN takes no sequence of 65,536 steps
                yield _unmeasured(name, direction, B, T, state, _not_run(reason))
                continue
            yield replace(_unmeasured(name, direction, B, T, state, "its projections included"), ms=ms)


def measure_linear_scan(
    name: str, state: int, B: int, T: int, device: torch.device, budget_s: float
) -> list[Row]:
    """Rows of a peer's diagonal scan, in bfloat16; forward alone where it has no gradient."""
    scan = linear_scan(name)
    shape = (B, state, T) if name.startswith("accelerated") else (B, T, state)
    gates = torch.rand(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
    tokens = torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn_like(tokens)
    warm_up(device, 0.2)

    def forward() -> object:
        with torch.no_grad():
            return scan(gates, tokens)

    rows = [_scan_row(name, "forward", B, T, state, 3, milliseconds(forward, device, budget_s=budget_s))]
    try:
        with capturable(device):
            hidden = scan(gates, tokens)

            def backward() -> object:
                return torch.autograd.grad(hidden, (gates, tokens), gradient, retain_graph=True)

            ms = milliseconds(backward, device, budget_s=budget_s)
        rows.append(_scan_row(name, "backward", B, T, state, 5, ms))
    except Exception as reason:
        rows.append(_unmeasured(name, "backward", B, T, state, _not_run(reason)))
    return rows


def _scan_row(name: str, direction: str, B: int, T: int, state: int, tensors: int, ms: float) -> Row:
    copy = copy_gb_s(torch.device("cuda"))
    speed = tensors * B * T * state * 2 / ms / 1e6
    note = "diagonal, coefficients given"
    return Row(name, direction, "bfloat16", "", B, T, 1, state, ms, speed, copy, speed / copy, note)


def _not_run(reason: Exception) -> str:
    return f"not run: {type(reason).__name__}: {reason}".splitlines()[0][:160]


def _unmeasured(name: str, direction: str, B: int, T: int, state: int, note: str) -> Row:
    return Row(name, direction, "float32", "", B, T, 1, state, nan, nan, nan, nan, note)
