"""PD-SSM: transitions that are a one-hot matrix chosen by the input, times a complex diagonal."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from statemix.kernels.precision import wide

from ..transforms import without_autocast
from .base import Baseline, check_sizes

# Numbers in the matrices of the steps that are computed together, where nothing has to be kept: a gibibyte.
_MATRICES_AT_ONCE = 2**28


class PDSSM(Baseline):
    """h_t = P_t D_t h_{t-1} + B x_t with complex h; every column of P_t is one-hot, D_t diagonal, |D_t| < 1.

    P_t takes the largest entry of each column of sum_k s_k M_k, a dictionary of matrices mixed by
    s = softmax(W x); its gradient is that of a softmax over the column. Magnitude and phase of D_t come
    from two-layer GELU networks of x. The output is LayerNorm(C [Re h, Im h] + d x).

    Args:
        d_model: D.
        hidden_size: N, complex states. Time is one step after the other; memory is B T N^2 numbers where
            something is to be learned, else that of as many steps as fit a gibibyte.
        dictionary_size: matrices M_k.
        initial_state: "zeros" stands for the published first basis vector, since a permutation of
            zeros is zero; or "learned".

    State: (B, 2, N), real and imaginary parts.

    Examples:
        >>> PDSSM(8, hidden_size=4)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])

    Source: Terzic et al. 2025, arXiv 2509.22284, section 4. The authors' code takes one-hot rows and D P,
    a choice of states to read; here columns and P D, as in the paper.
    """

    no_weight_decay = (*Baseline.no_weight_decay, "skip")

    def __init__(
        self, d_model: int, *, hidden_size: int, dictionary_size: int = 8, initial_state: str = "zeros"
    ) -> None:
        super().__init__(d_model, initial_state=initial_state)
        check_sizes("PDSSM", hidden_size=hidden_size, dictionary_size=dictionary_size)
        self.hidden_size = hidden_size
        self.recurrent_shapes = ((2, hidden_size),)
        self.choice = nn.Linear(d_model, dictionary_size, bias=False)
        # Of each matrix the columns, one after the other.
        self.dictionary = nn.Parameter(torch.empty(dictionary_size, hidden_size, hidden_size))
        self.magnitude = _two_layers(d_model, hidden_size)
        self.phase = _two_layers(d_model, hidden_size)
        self.value = nn.Linear(d_model, 2 * hidden_size, bias=False)
        self.skip = nn.Parameter(torch.empty(d_model))
        self.output = nn.Linear(2 * hidden_size, d_model)
        self.norm = nn.LayerNorm(d_model)
        self._complete()

    def reset_parameters(self) -> None:
        """PyTorch's own draw for linear layers; dictionary and inputs scaled by the state, as published."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        nn.init.normal_(self.dictionary, std=self.hidden_size**-0.5)
        nn.init.normal_(self.value.weight, std=(2 * self.hidden_size) ** -0.5)
        nn.init.normal_(self.skip, std=self.d_model**-0.5)

    def _start(self, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        (state,) = super()._start(batch, like)
        if self.initial_state is not None:
            return (state,)
        first = state.new_zeros(state.shape[1:])
        first[0, 0].fill_(1)  # not = 1, which copies from the host and cannot be captured
        return (first.expand_as(state),)

    def _mix(
        self, x: Tensor, state: tuple[Tensor, ...], real: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        share = wide(self.choice(x)).softmax(-1)
        size, angle = self.magnitude(x).sigmoid(), 2 * math.pi * self.phase(x).sigmoid()
        diagonal = torch.stack([wide(size * angle.cos()), wide(size * angle.sin())], 2)
        inputs = wide(self.value(x)).unflatten(-1, (2, -1))
        with without_autocast(x):
            hidden, h = self._scan(share, diagonal, inputs, state[0], real)
        read = hidden.flatten(2).to(x.dtype)
        return self.norm(self.output(read) + self.skip * x), (h,)

    def _scan(
        self, share: Tensor, diagonal: Tensor, inputs: Tensor, h: Tensor, real: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Every state (B, T, 2, N), and the last."""
        # Backward needs the matrices of all steps; without it those of a piece are gone with it.
        steps = max(1, _MATRICES_AT_ONCE // max(1, share.shape[0] * self.hidden_size**2))
        steps = share.shape[1] if torch.is_grad_enabled() else steps
        hidden = []
        given = (share, diagonal, inputs) if real is None else (share, diagonal, inputs, real)
        for chosen, *rest in zip(*(tensor.split(steps, 1) for tensor in given), strict=True):
            states, h = _run(self._one_hot(chosen), h, *rest)
            hidden += states
        return torch.stack(hidden, 1), h

    def _one_hot(self, share: Tensor) -> Tensor:
        """P_t transposed, (B, T, N, N): the row of a state says where it goes.

        Gradients are those of a softmax over the row.
        """
        mixed = share @ wide(self.dictionary).flatten(1)
        soft = mixed.unflatten(-1, (self.hidden_size, -1)).softmax(-1)
        places = torch.arange(self.hidden_size, device=share.device)
        hard = (soft.argmax(-1, keepdim=True) == places).to(soft.dtype)
        # The value of the first, the gradient of the second.
        return hard + (soft - soft.detach())


def _run(
    one_hot: Tensor, h: Tensor, diagonal: Tensor, inputs: Tensor, real: Tensor | None = None
) -> tuple[list[Tensor], Tensor]:
    """The states (B, 2, N) of all steps, and the last."""
    hidden = []
    # Unbound once: a slice a step would make backward write whole tensors a step.
    for t, (P, D, u) in enumerate(zip(one_hot.unbind(1), diagonal.unbind(1), inputs.unbind(1), strict=True)):
        after = _times(D, h) @ P + u
        h = after if real is None else torch.where(real[:, t, None, None], after, h)
        hidden.append(h)
    return hidden, h


def _times(diagonal: Tensor, h: Tensor) -> Tensor:
    """The complex product of a diagonal and a state, each (..., 2, N): real, then imaginary parts."""
    a, b = diagonal.unbind(-2)
    real, imaginary = h.unbind(-2)
    return torch.stack([a * real - b * imaginary, a * imaginary + b * real], -2)


def _two_layers(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * out), nn.GELU(), nn.Linear(2 * out, out))
