"""The gated delta rule in chunks: one kernel for DeltaNet, Gated DeltaNet and DeltaProduct."""

from __future__ import annotations

import torch
from torch import Tensor

from statemix.kernels.precision import wide

from ..transforms import without_autocast
from ._fla import kernel, takes_fla
from ._linear_attention import CHUNK, chunks, decays, steps


def delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    strength: Tensor,
    log_decay: Tensor | None,
    state: Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T, o_t = S_t^T q_t in every head.

    Within a chunk S_t = a.. S_0 + sum_j a.. k_j u_j^T, where the corrections u solve a unit triangular
    system (the WY form of a product of Householder factors).

    Args:
        query, key: (B, T, H, K), keys of length one. value: (B, T, H, V).
        strength: b, (B, T, H): eigenvalues along k are a (1 - b).
        log_decay: log a, (B, T, H), at most 0; None where nothing decays, a = 1.
        state: (B, H, K, V).

    Returns:
        o (B, T, H, V) in the dtype of the values, and the state after the last step.

    Source: Yang et al. 2024, arXiv 2406.06484, section 3 and arXiv 2412.06464, section 3.3.
    """
    if takes_fla("delta_rule", backend, value, gated=log_decay is not None):
        name, decay = "delta_rule", {}
        if log_decay is not None:
            name, decay = "gated_delta_rule", {"g": log_decay.float()}
        return kernel(name, f"chunk_{name}")(
            query.to(value.dtype), key.to(value.dtype), value, beta=strength.to(value.dtype), scale=1.0,
            initial_state=state, output_final_state=True, **decay,
        )  # fmt: skip
    if log_decay is None:
        log_decay = torch.zeros_like(strength)
    with without_autocast(value):
        return _in_chunks(query, key, value, strength, log_decay, state)


def _in_chunks(
    query: Tensor, key: Tensor, value: Tensor, strength: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    time, size = query.shape[1], min(CHUNK, query.shape[1])
    q, k, v = (chunks(wide(x), size) for x in (query, key, value))
    b = chunks(wide(strength)[..., None], size)
    decay = chunks(wide(log_decay)[..., None], size)
    between, since = decays(decay[..., 0]), decay.cumsum(-2).exp()
    # The solver takes the diagonal for ones, and reads nothing above it.
    coupling = b * (k @ k.mT) * between
    # u = alone - through S_0: both from one solve.
    right = torch.cat([b * v, b * since * k], -1)
    solved = torch.linalg.solve_triangular(coupling, right, upper=False, unitriangular=True)
    alone, through = solved.split([v.shape[-1], k.shape[-1]], -1)
    leaving = (k * between[..., -1, :, None]).mT
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    transition = since[..., -1:, :] * identity - leaving @ through
    entering = leaving @ alone
    starts = []
    for turn, enter in zip(transition.unbind(2), entering.unbind(2), strict=True):
        starts.append(state)
        state = turn @ state + enter
    before = torch.stack(starts, 2)
    u = alone - through @ before
    o = (q @ k.mT * between) @ u + (q * since) @ before
    return steps(o, time).to(value.dtype), state
