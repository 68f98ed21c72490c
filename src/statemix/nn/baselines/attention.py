"""Causal attention: the ceiling for recall, with a state that grows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.kernels.precision import state_dtype

from ..transforms import is_transformed
from ._heads import heads_for
from ._room import appended
from .base import Baseline, check_switches


class CausalAttention(Baseline):
    """Multi-head softmax attention over the past, without positional code unless ``rotary``.

    Its state is the cache (keys, values, real), with keys and values (B, heads, T, head_dim) and
    ``real`` (B, T) telling padded places: it grows by one place a step, unlike a recurrence's. Without
    gradients it has room behind it, so that a step writes its place and copies nothing else; the states of
    steps before stay as they are, and share their memory.

    Args:
        d_model: D.
        num_heads: heads, a divisor of D unless ``head_dim`` is given.
        head_dim: width of a head. Default: D / num_heads.
        initial_state: "learned" puts one learned key and value a head before every sequence.
        rotary: rotate queries and keys by their places, so that scores depend on distances.

    Raises:
        ValueError: heads that do not divide D, or ``rotary`` with an odd width of a head.

    Examples:
        >>> layer = CausalAttention(8, num_heads=2)
        >>> y, (keys, values, real) = layer(torch.randn(2, 5, 8), return_state=True)
        >>> y.shape, keys.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 2, 5, 4]))

    Source: Vaswani et al. 2017, arXiv 1706.03762; rotary places: Su et al. 2021, arXiv 2104.09864.
    """

    state_grows = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        head_dim: int | None = None,
        initial_state: str = "zeros",
        rotary: bool = False,
    ) -> None:
        super().__init__(d_model, initial_state=initial_state)
        check_switches("CausalAttention", rotary=rotary)
        self.num_heads, self.head_dim = heads_for("CausalAttention", d_model, num_heads, head_dim)
        if rotary and self.head_dim % 2:
            raise ValueError(
                f"CausalAttention: rotary needs an even head_dim; got {self.head_dim}: change num_heads, or "
                f"give head_dim"
            )
        self.rotary = rotary
        inner = self.num_heads * self.head_dim
        if initial_state == "learned":
            self.recurrent_shapes = ((num_heads, 1, self.head_dim),) * 2
        self.query_key_value = nn.Linear(d_model, 3 * inner, bias=False)
        self.output = nn.Linear(inner, d_model, bias=False)
        self._complete()

    def _start(self, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        """The empty cache, or the learned place that stands before every sequence."""
        if self.initial_state is not None:
            learned = super()._start(batch, like)
            return (*learned, torch.ones(batch, 1, dtype=torch.bool, device=like.device))
        empty = like.new_zeros(batch, self.num_heads, 0, self.head_dim)
        return empty, empty, torch.zeros(batch, 0, dtype=torch.bool, device=like.device)

    def _checked_state(self, state: Any, x: Tensor) -> tuple[Tensor, ...]:
        keys, values, real = self._tensors_of(state, 3)
        shape = (x.shape[0], self.num_heads, real.shape[-1], self.head_dim)
        # A cache is kept as keys and values came, which under autocast is not the layer's dtype.
        for tensor in (keys, values):
            self._check_state(tensor, shape, x, keys.dtype)
        self._check_state(real, (x.shape[0], real.shape[-1]), x, torch.bool)
        return keys, values, real

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        batch, time, _ = x.shape
        heads = (batch, time, 3, self.num_heads, self.head_dim)
        query, key, value = self.query_key_value(x).reshape(heads).permute(2, 0, 3, 1, 4)
        past = state[0].shape[2]
        plain = real is None and past == 0
        if real is None:
            real = torch.ones(batch, time, dtype=torch.bool, device=x.device)
        if self.rotary:
            place = state[2].sum(1, keepdim=True) + real.cumsum(1) - 1
            query, key = _rotated(query, place), _rotated(key, place)
        key, value, real = appended((state[0], state[1], state[2]), (key, value, real))
        if plain and not is_transformed():
            y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            y = _attend(query, key, value, real)
        y = self.output(y.transpose(1, 2).flatten(2))
        return y, (key, value, real)


def _rotated(x: Tensor, place: Tensor) -> Tensor:
    """x (B, heads, T, C) with each pair of numbers turned by its own speed times ``place`` (B, T)."""
    half = x.shape[3] // 2
    speed = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=state_dtype(x.dtype)) / half)
    angle = place[:, None, :, None] * speed
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], 3)


def _attend(query: Tensor, key: Tensor, value: Tensor, real: Tensor) -> Tensor:
    """Attention over real places that are not in the future."""
    time, places = query.shape[2], torch.arange(key.shape[2], device=query.device)
    now = places[places.shape[0] - time :, None]
    # A place always sees itself: a row that sees nothing would be 0/0.
    allowed = ((now >= places) & real[:, None, None, :]) | (now == places)
    if not is_transformed():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    return scores.masked_fill(~allowed, float("-inf")).softmax(3) @ value
