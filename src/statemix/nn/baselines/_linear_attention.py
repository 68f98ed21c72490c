"""Linear attention with one decay a head: the recurrence of Mamba-2, in chunks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from statemix.kernels.precision import wide

from ..transforms import without_autocast
from ._fla import kernel, takes_fla

CHUNK = 64


def linear_attention(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, state: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """S_t = a_t S_{t-1} + k_t v_t^T, o_t = S_t^T q_t in every head, with a_t = exp(log_decay_t) <= 1.

    Within a chunk all pairs of steps meet in one product; states pass from chunk to chunk.

    Args:
        query, key: (B, T, H, K). value: (B, T, H, V). log_decay: (B, T, H). state: (B, H, K, V).

    Returns:
        o (B, T, H, V) in the dtype of the values, and the state after the last step.

    Source: Dao and Gu 2024, arXiv 2405.21060, section 6.
    """
    if takes_fla("linear_attention", backend, value):
        return kernel("simple_gla", "chunk_simple_gla")(
            query.to(value.dtype), key.to(value.dtype), value, g=log_decay.float(), scale=1.0,
            initial_state=state, output_final_state=True,
        )  # fmt: skip
    with without_autocast(value):
        return _in_chunks(query, key, value, log_decay, state)


def _in_chunks(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    time, size = query.shape[1], min(CHUNK, query.shape[1])
    q, k, v = (chunks(wide(x), size) for x in (query, key, value))
    decay = chunks(wide(log_decay)[..., None], size)
    between, since = decays(decay[..., 0]), decay.cumsum(-2).exp()
    o = (q @ k.mT * between) @ v
    entering = (k * between[..., -1, :, None]).mT @ v
    kept = since[..., -1:, :]
    starts = []
    for keep, enter in zip(kept.unbind(2), entering.unbind(2), strict=True):
        starts.append(state)
        state = keep * state + enter
    o = o + (q * since) @ torch.stack(starts, 2)
    return steps(o, time).to(value.dtype), state


def chunks(x: Tensor, size: int) -> Tensor:
    """(B, T, H, C) -> (B, H, T / size, size, C), zeros after the end."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size))
    return x.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)


def steps(x: Tensor, time: int) -> Tensor:
    """Undo :func:`chunks`: (B, H, n, size, C) -> (B, T, H, C)."""
    return x.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :time]


def decays(log_decay: Tensor) -> Tensor:
    """What is left at step i of what entered at step j <= i, 0 elsewhere: (..., C) -> (..., C, C).

    Summed from j on for each j: the difference of two sums from the start would lose digits where decays
    are steep.
    """
    size = log_decay.shape[-1]
    after = torch.ones(size, size, dtype=torch.bool, device=log_decay.device).tril(-1)
    sums = log_decay[..., :, None].expand(*log_decay.shape, size).masked_fill(~after, 0.0).cumsum(-2)
    return sums.exp().tril()
