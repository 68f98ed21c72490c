"""A layer's step on a GPU: gates and recurrence in one kernel, for a small batch with the projections too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from statemix.kernels import triton
from statemix.ops.counters import count

if TYPE_CHECKING:
    from .layer import RecurrentLayer


def fused_step(layer: RecurrentLayer, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The layer's output (B, D) and next state (B, M, N); None where these kernels do not serve."""
    if not x.is_cuda or x.shape[0] == 0 or _unfused.get() or _is_watched():
        return None
    autocast = torch.is_autocast_enabled("cuda")
    dtype = torch.get_autocast_dtype("cuda") if autocast else x.dtype
    if not can_step(layer, dtype):
        return None
    from statemix.kernels.triton.stream import streams

    if state is None:
        state = layer._initial_states(x.shape[0])
    else:
        layer._check_state(state, x.shape[0], x)
    new_state, read = buffers(layer, x.shape[0], dtype)
    if layer.selective and not autocast and streams(x.shape[0], dtype, layer._rows):
        project(layer, x.contiguous(), state, new_state, read)
    else:
        advance(layer, x, F.linear(x, layer.value.weight), state, new_state, read)
    return F.linear(read.flatten(1), layer.output.weight), new_state


@contextmanager
def unfused_steps() -> Iterator[None]:
    """Within it every step of a layer runs its projections and the scan: to compare with."""
    token = _unfused.set(True)
    try:
        yield
    finally:
        _unfused.reset(token)


_unfused: ContextVar[bool] = ContextVar("statemix_unfused_steps", default=False)


def can_step(layer: RecurrentLayer, dtype: torch.dtype) -> bool:
    """Whether a layer on a GPU was left the choice of its kernels, and they can run it."""
    weight = layer.value.weight
    reason = triton.unavailable_reason(
        weight.device, family=layer.family, order_or_block_size=layer._rows, dtype=dtype
    )
    plain = all(type(p) in (Tensor, nn.Parameter) and p.is_contiguous() for p in layer.parameters())
    chosen = layer.backend in ("auto", "triton") and reason is None
    return chosen and plain and layer.reads_weights and not layer.is_random


def buffers(layer: RecurrentLayer, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Places for a state (B, M, N) float32, and for the rows of it that are read."""
    weight, size, width = layer.value.weight, layer._rows, layer._columns
    kept = layer._read_shape[0] if len(layer._read_shape) == 2 else 1
    new_state = torch.empty(batch, size, width, dtype=torch.float32, device=weight.device)
    return new_state, torch.empty(batch, kept, width, dtype=dtype, device=weight.device)


def project(
    layer: RecurrentLayer, x: Tensor, state: Tensor | None, new_state: Tensor, read: Tensor, **options: Any
) -> None:
    """The step of a selective layer from its input, which ``options`` may norm first."""
    from statemix.kernels.triton import stream

    count(layer.family, "projected_step", "triton")
    stream.project(
        layer.family, x, layer.gate.weight, layer.gate.bias, layer.value.weight, state, layer.normalization,
        new_state=new_state, read=read, **options,
    )  # fmt: skip


def advance(
    layer: RecurrentLayer, x: Tensor, values: Tensor, state: Tensor | None, new_state: Tensor, read: Tensor
) -> None:
    """The step of a layer from its input and the values made of that."""
    from statemix.kernels.triton import step

    count(layer.family, "step", "triton")
    gate_logits = layer._gate_logits(x[:, None], values.dtype)[:, 0]
    values = values.unflatten(1, layer._value_shape)
    step.advance(
        layer.family, gate_logits, values, state, layer.normalization, new_state=new_state, read=read
    )


def _is_watched() -> bool:
    """Whether autograd, a transform or a mode wants to see operations that it knows."""
    return (
        torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )
