"""What DeltaNet, Gated DeltaNet and DeltaProduct share as layers: projections, convolution, read, gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.ops.checks import check_choice

from ..convolution import ShortConvolution, convolved_or_activated
from ._delta_rule import delta_rule
from ._fla import BACKENDS
from ._heads import HeadNorm, decay_parameters, heads_for, log_decay, reset_decay
from .base import Baseline, check_sizes, check_switches


class DeltaRuleLayer(Baseline):
    """S_t = a_t (product of I - b k k^T) S_{t-1} + what these factors write; the output reads S_t^T q_t.

    Queries, keys and values are projections of x, each through a short convolution and SiLU; queries and
    keys have length one; b = sigmoid(w x). What is read is normed in every head and projected.

    Args:
        d_model: D.
        num_heads, head_dim: H and K. Default: heads of at most 64 that fill the width.
        householder_steps: factors in one transition, each with a key, a value and a b of its own.
        decays: whether a_t = exp(-A softplus(w x + c)) in every head, or 1.
        negative_eigenvalues: b in (0, 2) rather than (0, 1), so that the eigenvalue along k reaches -1.
        convolution: whether there is the convolution, over 4 steps.
        output_gate: whether SiLU of a further projection of x multiplies what is read.
        initial_state: "zeros" or "learned".
        backend: "auto" takes fla's kernels for half precision on a GPU where the package is installed,
            else "torch"; "fla" raises where they cannot run.

    State: S (B, H, K, K), and with a convolution its past inputs (B, 3, (1 + 2 factors) H K).
    """

    no_weight_decay = (*Baseline.no_weight_decay, "decay_rate", "decay_bias")

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int | None,
        head_dim: int | None,
        householder_steps: int,
        decays: bool,
        negative_eigenvalues: bool,
        convolution: bool,
        output_gate: bool,
        initial_state: str,
        backend: str,
    ) -> None:
        name = type(self).__name__
        super().__init__(d_model, initial_state=initial_state)
        check_choice(name, "backend", backend, BACKENDS)
        check_sizes(name, householder_steps=householder_steps)
        check_switches(
            name,
            negative_eigenvalues=negative_eigenvalues, convolution=convolution, output_gate=output_gate,
        )  # fmt: skip
        self.num_heads, self.head_dim = heads_for(name, d_model, num_heads, head_dim)
        self.householder_steps = householder_steps
        self.strongest = 2.0 if negative_eigenvalues else 1.0
        self.backend = backend
        inner = self.num_heads * self.head_dim
        # Queries once a token, keys and values once a Householder factor.
        self._widths = (inner, inner * householder_steps, inner * householder_steps)
        self.query_key_value = nn.Linear(d_model, sum(self._widths), bias=False)
        self.convolution = ShortConvolution(sum(self._widths)) if convolution else None
        self.strength = nn.Linear(d_model, self.num_heads * householder_steps, bias=False)
        self.decay = None
        if decays:
            self.decay = nn.Linear(d_model, self.num_heads, bias=False)
            self.decay_rate, self.decay_bias = decay_parameters(self.num_heads)
        self.gate = nn.Linear(d_model, inner, bias=False) if output_gate else None
        self.norm = HeadNorm(self.head_dim)
        self.output = nn.Linear(inner, d_model, bias=False)
        self.recurrent_shapes = ((self.num_heads, self.head_dim, self.head_dim),)
        if self.convolution is not None:
            self.window_shapes = (self.convolution.past_shape,)
        self._complete()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.decay is not None:
            reset_decay(self.decay_rate, self.decay_bias)

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        mixed, windows = convolved_or_activated(self.convolution, self.query_key_value(x), state[1:], real)
        query, key, value = mixed.split(self._widths, -1)
        query = _unit(query.unflatten(-1, (self.num_heads, -1))) * self.head_dim**-0.5
        key, value = _unit(self._factors(key)), self._factors(value)
        strength = self.strongest * self._factors(self.strength(x))[..., 0].sigmoid()
        if real is not None:
            strength = torch.where(
                real.repeat_interleave(self.householder_steps, 1)[..., None], strength, 0.0
            )
        read, end = delta_rule(
            self._last(query), key, value, strength, self._log_decay(x, real), state[0], backend=self.backend
        )
        read = read[:, self.householder_steps - 1 :: self.householder_steps]
        gate = None if self.gate is None else self.gate(x).unflatten(-1, (self.num_heads, -1))
        return self.output(self.norm(read, gate).flatten(2)), (end, *windows)

    def _log_decay(self, x: Tensor, real: Tensor | None) -> Tensor | None:
        """Of every factor, (B, T factors, H): a token decays before its first one. None if nothing does."""
        if self.decay is None:
            return None
        decay = log_decay(self.decay(x), self.decay_rate, self.decay_bias)
        if real is not None:
            decay = torch.where(real[..., None], decay, 0.0)
        if self.householder_steps == 1:
            return decay
        return F.pad(decay[:, :, None], (0, 0, 0, self.householder_steps - 1)).flatten(1, 2)

    def _factors(self, x: Tensor) -> Tensor:
        """(B, T, factors H C) -> (B, T factors, H, C): the factors of a token are steps of their own."""
        return x.unflatten(-1, (self.householder_steps, self.num_heads, -1)).flatten(1, 2)

    def _last(self, x: Tensor) -> Tensor:
        """A token is read after its last factor: (B, T, H, K) -> (B, T factors, H, K)."""
        return x.repeat_interleave(self.householder_steps, 1) if self.householder_steps > 1 else x


def _unit(x: Tensor) -> Tensor:
    """Vectors of length one."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
