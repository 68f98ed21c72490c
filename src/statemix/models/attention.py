"""Causal attention behind the interface of a mixer: the ceiling for recall, with a state that grows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.shapes import Boundaries, Mask, Sequence, Token


class CausalAttention(nn.Module):
    """Multi-head softmax attention over the past, without positional code.

    Its state is the cache (keys, values, real), with keys and values (B, heads, T, D / heads) and
    ``real`` (B, T) telling padded places: it grows by one place a step, unlike a recurrence's.

    Args:
        d_model: D.
        num_heads: heads, a divisor of D.

    Example:
        >>> layer = CausalAttention(8, num_heads=2)
        >>> y, (keys, values, real) = layer(torch.randn(2, 5, 8), return_state=True)
        >>> y.shape, keys.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 2, 5, 4]))

    Source: Vaswani et al. 2017, arXiv 1706.03762.
    """

    state_grows = True

    def __init__(self, d_model: int, *, num_heads: int) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"CausalAttention: num_heads must divide d_model {d_model}; got {num_heads}")
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self,
        x: Sequence,
        state: Any = None,
        *,
        return_state: bool = False,
        cu_seqlens: Boundaries | None = None,
        mask: Mask | None = None,
    ) -> Any:
        """x (B, T, D) -> y (B, T, D); with ``cu_seqlens`` no state is taken or given back."""
        if cu_seqlens is not None and (mask is not None or state is not None or return_state):
            raise ValueError("attention: cu_seqlens excludes a mask and states; split the sequences instead")
        batch, time, _ = x.shape
        heads = (batch, time, 3, self.num_heads, -1)
        query, key, value = self.query_key_value(x).reshape(heads).permute(2, 0, 3, 1, 4)
        real = x.new_ones(batch, time, dtype=torch.bool) if mask is None else mask
        if state is not None:
            key, value = torch.cat([state[0], key], 2), torch.cat([state[1], value], 2)
            real = torch.cat([state[2], real], 1)
        y = self._attend(query, key, value, real, cu_seqlens, plain=mask is None and state is None)
        y = self.output(y.transpose(1, 2).reshape(x.shape))
        if mask is not None:
            y = torch.where(mask[..., None], y, 0.0)
        return (y, (key, value, real)) if return_state else y

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, real: Tensor, cu_seqlens: Tensor | None, plain: bool
    ) -> Tensor:
        if plain and cu_seqlens is None:
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)
        time, past = query.shape[2], key.shape[2]
        places = torch.arange(past, device=query.device)
        seen = places[past - time :, None] >= places
        if cu_seqlens is not None:
            sequence = torch.searchsorted(cu_seqlens[1:].long(), places, right=True)
            seen = seen & (sequence[:, None] == sequence)
        # A place always sees itself: a row that sees nothing would be 0/0.
        itself = places[past - time :, None] == places
        allowed = (seen & real[:, None, None, :]) | itself
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)

    def step(self, x: Token, state: Any = None) -> tuple[Token, Any]:
        """One token: x (B, D) -> y (B, D) and the longer cache."""
        y, state = self(x[:, None], state, return_state=True)
        return y[:, 0], state
