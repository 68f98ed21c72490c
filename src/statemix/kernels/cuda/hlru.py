"""H-LRU on NVIDIA GPUs; the recurrence is stated in ``hlru_forward.cuh`` and ``hlru_backward.cuh``."""

from __future__ import annotations

from torch import Tensor

from statemix.kernels.cuda import scan


def forward(
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    """h_t = sum_i a_{i,t} h_{t-i} + a_{0,t} v_t, i = 1..M (arXiv 2602.12021, section 3).

    gate_logits (B|1, T|1, M+1, N), values (B, T, N), initial_state (S, M, N) float32, newest first, or None;
    returns hidden (B, T, N) and final_state (S, M, N) float32; S is B or the number of packed sequences.
    """
    return scan.forward("hlru", gate_logits, values, initial_state, cu_seqlens, normalization)


def backward(
    gate_logits: Tensor,
    values: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    hidden: Tensor,
    grad_hidden: Tensor | None,
    grad_final_state: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of gate_logits (in their own shape), values and initial_state, from forward's hidden."""
    return scan.backward(
        "hlru",
        gate_logits,
        values,
        initial_state,
        cu_seqlens,
        hidden,
        grad_hidden,
        grad_final_state,
        normalization,
    )
