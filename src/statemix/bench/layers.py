"""Whole layers at equal parameters: projections and recurrence, beside peers and their floors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import nan

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.nn import BDLRU, HLRU

from .cases import Case
from .gate import LENGTH, check_layer
from .peers import LAYERS, Sizes, isolated, side_by_side
from .timing import copy_gb_s, milliseconds, warm_up


@dataclass(frozen=True)
class Row:
    """One layer: times in ms, floors of its matrix products and of its scan, memory at the peak."""

    layer: str
    B: int
    T: int
    d: int
    parameters: int
    forward_ms: float
    forward_backward_ms: float
    gemm_floor_ms: float
    scan_floor_ms: float
    peak_gib: float
    note: str = ""


def sizes_for(device: torch.device) -> Sizes:
    """4.2 M parameters at width 1024 on a GPU, 0.26 M at width 256 on a CPU."""
    if device.type == "cuda":
        return Sizes(8, 4096, 1024, 4 * 1024**2, torch.bfloat16)
    return Sizes(4, 1024, 256, 4 * 256**2, torch.float32)


def measure(
    device: torch.device,
    *,
    budget_s: float = 1.0,
    orders: tuple[int, ...] = (),
    peers: tuple[str, ...] = tuple(LAYERS),
    peer_s: float = 120.0,
) -> Iterator[Row]:
    """Check and time BD-LRU and H-LRU layers, then time every peer that can run; others say why they cannot.

    A peer has ``peer_s`` seconds. Those that compile kernels first do so side by side, as long again.

    Raises:
        WrongResult: outputs or gradients of a layer of ours are not those of its copy in float64.
    """
    sizes = sizes_for(device)
    for m in orders or (1, 2, 4, 8):
        yield _ours("BDLRU", m, sizes, device, budget_s)
        yield _ours("HLRU", m, sizes, device, budget_s)
    compiling = [name for name in peers if name.startswith("fla ")]
    if device.type == "cuda":
        side_by_side([(measure_peer, (name, sizes, device, 0.0)) for name in compiling], peer_s)
    for name in peers:
        try:
            yield isolated(measure_peer, (name, sizes, device, budget_s), peer_s)
        except RuntimeError as reason:
            yield Row(name, sizes.B, sizes.T, sizes.d, 0, nan, nan, nan, nan, nan, f"not run: {reason}")


def measure_peer(name: str, sizes: Sizes, device: torch.device, budget_s: float) -> Row:
    """The row of one peer."""
    layer = LAYERS[name](sizes).to(device=device, dtype=sizes.dtype)
    warm_up(device, 0.2)
    return _measured(name, layer, sizes, device, budget_s)


def _ours(name: str, m: int, sizes: Sizes, device: torch.device, budget_s: float) -> Row:
    family = name.lower()
    # Parameters of one block or channel: gates with their bias, values, readout.
    each = m * (m + 1) * (sizes.d + 1) + 2 * m * sizes.d
    if family == "hlru":
        each = (m + 1) * (sizes.d + 1) + sizes.d + m * sizes.d
    # Sizes that kernels and products like, as near to the budget as they come.
    multiple = 32 if sizes.budget / each > 100 else 8
    N = max(multiple, round(sizes.budget / each / multiple) * multiple)
    layer: nn.Module
    if family == "bdlru":
        layer = BDLRU(sizes.d, num_blocks=N, block_size=m, device=device, dtype=sizes.dtype)
    else:
        layer = HLRU(sizes.d, num_channels=N, order=m, device=device, dtype=sizes.dtype)
    title = f"{name} m={m} N={N}"
    check_layer(title, layer, torch.randn(2, LENGTH, sizes.d, device=device, dtype=sizes.dtype))
    case = Case(family=family, B=sizes.B, T=sizes.T, M=m, N=N, dtype=sizes.dtype)
    row = _measured(title, layer, sizes, device, budget_s)
    floor = case.floor_bytes("forward+backward")
    scan_ms = floor / copy_gb_s(device) / 1e6
    gemm_ms = _products_ms(layer, sizes, device, budget_s)
    ratio = row.forward_backward_ms / (gemm_ms + scan_ms)
    miss = row.parameters / sizes.budget - 1
    note = f"{ratio:.2f} x (products + scan floor); parameters {miss:+.1%} of the budget"
    return replace(row, gemm_floor_ms=gemm_ms, scan_floor_ms=scan_ms, note=note)


def _products_ms(layer: nn.Module, sizes: Sizes, device: torch.device, budget_s: float) -> float:
    """Forward and backward of the layer's three matrix products and nothing else."""
    weights = [p for name, p in layer.named_parameters() if name.endswith("weight")]
    inputs = [
        torch.randn(sizes.B * sizes.T, w.shape[1], device=device, dtype=sizes.dtype, requires_grad=True)
        for w in weights
    ]
    grads = [torch.randn(sizes.B * sizes.T, w.shape[0], device=device, dtype=sizes.dtype) for w in weights]

    def run() -> object:
        outputs = [F.linear(x, w) for x, w in zip(inputs, weights, strict=True)]
        return torch.autograd.grad(outputs, [*inputs, *weights], grads)

    return milliseconds(run, device, budget_s=budget_s)


def _measured(name: str, layer: nn.Module, sizes: Sizes, device: torch.device, budget_s: float) -> Row:
    x = torch.randn(sizes.B, sizes.T, sizes.d, device=device, dtype=sizes.dtype, requires_grad=True)
    gradient = torch.randn_like(x)
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]

    def output() -> Tensor:
        y = layer(x)
        return y[0] if isinstance(y, tuple) else y

    def forward() -> Tensor:
        with torch.no_grad():
            return output()

    def both() -> object:
        return torch.autograd.grad(output(), wanted, gradient, allow_unused=True)

    both()
    peak = nan
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats(device)
        both()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated(device) / 2**30
    return Row(
        layer=name,
        B=sizes.B,
        T=sizes.T,
        d=sizes.d,
        parameters=sum(p.numel() for p in layer.parameters()),
        forward_ms=milliseconds(forward, device, budget_s=budget_s),
        forward_backward_ms=milliseconds(both, device, budget_s=budget_s),
        gemm_floor_ms=nan,
        scan_floor_ms=nan,
        peak_gib=peak,
    )
