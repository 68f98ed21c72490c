"""mLSTM: a matrix memory with exponential input gates, in chunks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statemix.kernels.precision import wide

from ..transforms import without_autocast
from ._heads import HeadLayerNorm, heads_for
from ._linear_attention import CHUNK, chunks, steps
from .base import Baseline, check_switches

GATE_CAP = 15.0


class MLSTM(Baseline):
    """C_t = f_t C_{t-1} + i_t k_t v_t^T, n_t = f_t n_{t-1} + i_t k_t; reads C_t^T q_t / max(|n_t . q_t|, 1).

    f_t = sigmoid and i_t = exp of projections of x, one a head, both capped softly at 15. What is read is
    layer-normed in every head, times sigmoid of a further projection, then projected. C and n are kept
    divided by exp(m_t), m_t the largest exponent so far, which changes nothing but the range.

    Args:
        d_model: D.
        num_heads, head_dim: H and K. Default: heads of at most 64 that fill the width.
        output_gate: whether there is the sigmoid branch.
        initial_state: "zeros" or "learned".

    State: (C, n) as one (B, H, K, K + 1), and m (B, H).

    Examples:
        >>> MLSTM(16, num_heads=2)(torch.randn(2, 5, 16)).shape
        torch.Size([2, 5, 16])

    Source: Beck et al. 2024, arXiv 2405.04517, section 2.3; the layer around it and the cap as in Beck et
    al. 2025, arXiv 2503.13427.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        output_gate: bool = True,
        initial_state: str = "zeros",
    ) -> None:
        super().__init__(d_model, initial_state=initial_state)
        check_switches("MLSTM", output_gate=output_gate)
        self.num_heads, self.head_dim = heads_for("MLSTM", d_model, num_heads, head_dim)
        inner = self.num_heads * self.head_dim
        self.recurrent_shapes = ((self.num_heads, self.head_dim, self.head_dim + 1),)
        self.window_shapes = ((self.num_heads,),)
        self.query_key_value = nn.Linear(d_model, 3 * inner, bias=False)
        self.gates = nn.Linear(d_model, 2 * self.num_heads)
        self.output_gate = nn.Linear(d_model, inner, bias=False) if output_gate else None
        self.norm = HeadLayerNorm(self.num_heads, inner, eps=1e-6)
        self.output = nn.Linear(inner, d_model, bias=False)
        self._complete()

    def reset_parameters(self) -> None:
        """Input gates start at exp(-10), forget gates at sigmoid(3) to sigmoid(6) over the heads."""
        super().reset_parameters()
        with torch.no_grad():
            entering, keeping = self.gates.bias.chunk(2)
            entering.fill_(-10.0)
            keeping.copy_(torch.linspace(3, 6, self.num_heads, device=keeping.device))

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        heads = (3, self.num_heads, self.head_dim)
        query, key, value = self.query_key_value(x).unflatten(-1, heads).unbind(2)
        gates = GATE_CAP * (wide(self.gates(x)) / GATE_CAP).tanh()
        log_input, keeping = gates.chunk(2, -1)
        log_forget = F.logsigmoid(keeping)
        if real is not None:
            log_input = torch.where(real[..., None], log_input, float("-inf"))
            log_forget = torch.where(real[..., None], log_forget, 0.0)
        query = query * self.head_dim**-0.5
        with without_autocast(x):
            read, memory, exponent = _memory(query, key, value, log_input, log_forget, *state)
        read = self.norm(read.to(x.dtype))
        if self.output_gate is not None:
            read = read * self.output_gate(x).sigmoid()
        return self.output(read), (memory, exponent)


def _memory(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_input: Tensor,
    log_forget: Tensor,
    memory: Tensor,
    exponent: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Read h (B, T, H, K) from the memory, and its state after the last step; all in states' dtype."""
    time, size = query.shape[1], min(CHUNK, query.shape[1])
    q, k, v = (chunks(wide(x), size) for x in (query, key, value))
    # The normaliser n is the memory of a constant 1.
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    total = chunks(log_forget[..., None], size)[..., 0].cumsum(-1)
    # Steps after the end are no input.
    ends = F.pad(log_input, (0, 0, 0, -time % size), value=float("-inf"))
    entering = ends.unflatten(1, (-1, size)).permute(0, 3, 1, 2)
    seen = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
    # exponents of what each step still holds of each earlier one
    held = (total[..., :, None] - total[..., None, :] + entering[..., None, :]).masked_fill(
        ~seen, float("-inf")
    )
    whole = total[..., -1:] - total + entering
    scores = q @ k.mT
    read = []
    for c in range(q.shape[2]):
        past = total[:, :, c] + exponent[..., None]
        # The output does not depend on the exponent that is taken out, and so no gradient goes through it.
        largest = torch.maximum(held[:, :, c].amax(-1), past).detach()
        weights = (held[:, :, c] - largest[..., None]).exp() * scores[:, :, c]
        before = (past - largest).exp()[..., None] * (q[:, :, c] @ memory)
        both = weights @ v[:, :, c] + before
        scale = torch.maximum(both[..., -1:].abs(), (-largest)[..., None].exp())
        read.append(both[..., :-1] / scale)
        last = largest[..., -1]
        leaving = (whole[:, :, c] - last[..., None]).exp()[..., None] * k[:, :, c]
        memory = (past[..., -1] - last).exp()[..., None, None] * memory + leaving.mT @ v[:, :, c]
        exponent = last
    return steps(torch.stack(read, 2), time), memory, exponent
