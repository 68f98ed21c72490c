"""Matrix states that decay by channel and are corrected by rank one: the recurrence of RWKV-7, in chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from statemix.kernels.precision import wide

from ..transforms import without_autocast
from ._fla import kernel, takes_fla
from ._linear_attention import chunks, steps

# exp(-sum of log decays) must stay in range within a chunk: RWKV-7's are at least -0.607, so e^19 at most.
CHUNK = 32


def diagonal_plus_low_rank(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    left: Tensor,
    right: Tensor,
    log_decay: Tensor,
    state: Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """S_t = (diag(w_t) + b_t a_t^T) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t in every head.

    Args:
        query, key: (B, T, H, K). value: (B, T, H, V).
        left: b, (B, T, H, K). right: a, (B, T, H, K).
        log_decay: log w, (B, T, H, K), at most 0 and at least -2, or a chunk overflows float32.
        state: (B, H, K, V).

    Returns:
        o (B, T, H, V) in the dtype of the values, and the state after the last step.

    Source: Peng et al. 2025, arXiv 2503.14456, section 4; Yang et al. 2024, arXiv 2406.06484 for chunks.
    """
    if takes_fla("diagonal_plus_low_rank", backend, value, gated=False):
        half = value.dtype
        return kernel("generalized_delta_rule", "chunk_dplr_delta_rule")(
            query.to(half), key.to(half), value, right.to(half), left.to(half), log_decay.float(),
            scale=1.0, initial_state=state, output_final_state=True,
        )  # fmt: skip
    with without_autocast(value):
        return _in_chunks(query, key, value, left, right, log_decay, state)


def _in_chunks(
    query: Tensor, key: Tensor, value: Tensor, left: Tensor, right: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    time, size = query.shape[1], min(CHUNK, query.shape[1])
    q, k, v, b, a, log_w = (chunks(wide(x), size) for x in (query, key, value, left, right, log_decay))
    total = log_w.cumsum(-2)
    grown = (-total).exp()
    # Everything as it were had nothing decayed since the chunk began.
    q, a = q * total.exp(), a * (total - log_w).exp()
    k_left, b_left = k * grown, b * grown
    whole = total[..., -1:, :]
    k_end, b_end = k * (whole - total).exp(), b * (whole - total).exp()
    # u_t = S_{t-1}^T a_t: alone + through S_0, both from one solve.
    system = -(a @ b_left.mT)
    solved = torch.linalg.solve_triangular(
        system, torch.cat([(a @ k_left.mT).tril(-1) @ v, a], -1), upper=False, unitriangular=True
    )
    alone, through = solved.split([v.shape[-1], a.shape[-1]], -1)
    transition = torch.diag_embed(whole[..., 0, :].exp()) + b_end.mT @ through
    entering = b_end.mT @ alone + k_end.mT @ v
    starts = []
    for turn, enter in zip(transition.unbind(2), entering.unbind(2), strict=True):
        starts.append(state)
        state = turn @ state + enter
    before = torch.stack(starts, 2)
    u = alone + through @ before
    o = q @ before + (q @ b_left.mT).tril() @ u + (q @ k_left.mT).tril() @ v
    return steps(o, time).to(value.dtype), state
