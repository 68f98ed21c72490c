"""Over long runs: does the state stay inside its bound, and what of it is left?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from statemix.nn import RecurrentLayer
from statemix.nn.checks import check_input
from statemix.nn.plain import is_plain
from statemix.shapes import Sequence, State


@dataclass(frozen=True, kw_only=True)
class StateBound:
    """How large the states of a run became, beside what the theory allows."""

    peak: float
    """max |h_t| over all steps, sequences, blocks; NaN where a state is no number"""
    bound: float
    """max(max |h_0|, max |v_t|): no state can pass it when the gates' rows sum to at most one"""
    steps: int
    """length of the run"""

    @property
    def holds(self) -> bool:
        """Whether the peak is inside, allowing for the rounding of float32 over the run."""
        return self.peak <= self.bound * (1 + 8 * 2.0**-23 * self.steps)


def state_bound(layer: RecurrentLayer, x: Sequence, state: State | None = None) -> StateBound:
    """Run a layer step by step and hold its largest state against proposition 1 of arXiv 2602.12021.

    The proposition covers every normalization but "none".

    Args:
        layer: a BDLRU or an HLRU.
        x: (B, T, D), T at least 1.
        state: (B, M, N), where to start; default where the layer starts.

    Raises:
        ValueError: there is no sequence, or no step; x or the state do not fit the layer.
        TypeError: any other layer, or x of another dtype than it has.

    Examples:
        >>> from statemix.nn import BDLRU
        >>> state_bound(BDLRU(8, num_blocks=4, block_size=3), torch.randn(2, 100, 8)).holds
        True
    """
    if not isinstance(layer, RecurrentLayer):
        raise TypeError(
            f"state_bound: layer must be a BDLRU or an HLRU, of which the bound was proved; got "
            f"{type(layer).__name__}"
        )
    weight = layer.value.weight if is_plain(layer.value) else None
    check_input("state_bound", x, 3, "(B, T, D)", layer.d_model, weight)
    if x.shape[0] * x.shape[1] == 0:
        raise ValueError(f"state_bound: x must have at least one sequence and step; got {tuple(x.shape)}")
    with torch.no_grad():
        state = layer.initial_state_for(x.shape[0]) if state is None else state
        # Maxima of tensors: those of Python pass over what is no number.
        bound = torch.maximum(state.abs().max(), layer.value(x).abs().max())
        peak = torch.zeros_like(bound)
        for token in x.unbind(1):
            _, state = layer.step(token, state)
            peak = torch.maximum(peak, state.abs().max())
    return StateBound(peak=peak.item(), bound=bound.item(), steps=x.shape[1])


def running_products(transitions: Float[Tensor, "B T N M M"]) -> Float[Tensor, "B T N M M"]:
    """A_t A_{t-1} ... A_1 at every step, in double precision: what became of the initial state.

    Examples:
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(1, 2, 1, 2, 2)
        >>> running_products(swap)[0, 1, 0]
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    if transitions.dim() != 5:
        raise ValueError(
            f"running_products: transitions must be (B, T, N, M, M); got {tuple(transitions.shape)}: give "
            f"what layer.transition(x) returns"
        )
    products, product = [], None
    for transition in transitions.double().unbind(1):
        product = transition if product is None else transition @ product
        products.append(product)
    return torch.stack(products, 1) if products else transitions.double()


def contrast_left(products: Float[Tensor, "*steps M M"]) -> Float[Tensor, "*steps"]:
    """What is left of the best kept difference between two initial states, 1 being all of it.

    A block whose rows average forgets which state it was in, although it keeps their mean for ever.
    What can still be told apart is what the product does to states whose entries sum to zero: this is
    its largest gain there. With M = 1 there is nothing to sum, and it is the gain itself.

    Examples:
        >>> [round(contrast_left(p).item(), 5) for p in (torch.eye(3), torch.full((3, 3), 1 / 3))]
        [1.0, 0.0]
    """
    if products.dim() < 2 or products.shape[-1] != products.shape[-2]:
        raise ValueError(
            f"contrast_left: products must be (..., M, M); got {tuple(products.shape)}: give what "
            f"running_products returns"
        )
    size = products.shape[-1]
    if size == 1:
        return products[..., 0, 0].abs()
    mean_free = torch.eye(size, dtype=products.dtype, device=products.device) - 1.0 / size
    finite = products.isfinite().all(-1).all(-1)
    kept = torch.where(finite[..., None, None], products, 0.0) @ mean_free
    return torch.where(finite, torch.linalg.matrix_norm(kept, ord=2), torch.nan)
