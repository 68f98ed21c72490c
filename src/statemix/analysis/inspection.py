"""What each recurrent layer of a model does with given inputs: all of the other views, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from statemix.nn import RecurrentLayer
from statemix.nn.eigenvalues import eigenvalues

from .gradients import gradient_reach
from .recording import record_inputs
from .spectra import Spectrum
from .stability import StateBound, contrast_left, running_products, state_bound

EXAMPLE_STEPS = 8
"""Steps whose matrices an example shows."""


@dataclass(frozen=True, kw_only=True)
class LayerFindings:
    """What one layer does with the inputs that it was given.

    Examples:
        >>> from statemix.nn import HLRU
        >>> (found,) = inspect_layers(HLRU(8, num_channels=6, order=2).eval(), torch.randn(2, 20, 8))
        >>> found.spectrum.eigenvalues.shape, found.example.shape, 0 < found.decided <= found.kept <= 1
        (torch.Size([2, 20, 6, 2]), torch.Size([8, 2, 2]), True)
    """

    name: str
    """dotted name in its model, empty for the model itself"""
    kind: str
    """"BDLRU" or "HLRU" """
    blocks: int
    """blocks, or channels: N"""
    size: int
    """states of each: M"""
    spectrum: Spectrum
    """eigenvalues of every block at every step"""
    kept: float
    """mean over rows of sum_j |a_ij|: how much of a row's weight is on states rather than on the input"""
    decided: float
    """mean over rows of max_j |a_ij|: 1 where each new state copies one old state"""
    best_contrast: Sequence[float]
    """what is left of a difference between two states after 0, 1, ... steps, in the block that keeps most"""
    median_contrast: Sequence[float]
    """the same in the median block"""
    reach: Sequence[float]
    """gradient of the last output by the input 0, 1, 2, ... steps before it, relative to the first of them"""
    bound: StateBound
    """the largest state of the run beside its bound"""
    example_block: int
    """the block whose rows are the most decided on the first sequence"""
    example: Float[Tensor, "steps M M"]
    """what that block does in the first steps of the first sequence"""

    @property
    def lasting(self) -> float:
        """Share of a difference between two states that the best block keeps to the end, at most 1."""
        return min(1.0, self.best_contrast[-1])


def inspect_layers(model: nn.Module, *arguments: Any, **options: Any) -> list[LayerFindings]:
    """Run a model once, as it is, and look at each of its recurrent layers, in the order in which they ran.

    Takes memory for 16 numbers of float64 for each number of the transitions (B, T, N, M, M) of one layer:
    give it a few sequences of a few hundred steps. Put the model in evaluation mode first.

    Args:
        model: any module that calls BDLRU or HLRU layers, with at least one sequence and one step.
        arguments, options: what it is called with.

    Raises:
        ValueError: no such layer ran, or on no sequence or step.

    Examples:
        >>> from statemix.nn import BDLRU
        >>> (found,) = inspect_layers(BDLRU(8, num_blocks=4, block_size=3), torch.randn(2, 20, 8))
        >>> found.kind, found.blocks, found.size, len(found.best_contrast), found.bound.holds
        ('BDLRU', 4, 3, 21, True)
    """
    return [
        _inspect(name, layer, inputs)
        for name, (layer, inputs) in record_inputs(model, *arguments, **options).items()
    ]


def _inspect(name: str, layer: RecurrentLayer, x: Tensor) -> LayerFindings:
    bound = state_bound(layer, x)  # refuses what has no sequence or no step
    with torch.no_grad():
        made = layer.transition(x).double().cpu()
    batch, steps = x.shape[:2]
    transitions = made.expand(batch, steps, *made.shape[2:])
    # The rows of a companion matrix below its first shift the window and say nothing.
    rows = transitions[..., : 1 if layer.family == "hlru" else None, :].abs()
    largest = rows.amax(-1)
    left = contrast_left(running_products(transitions)).median(0).values
    reach = gradient_reach(layer, x).flip(0).double().cpu()
    block = int(largest[0].mean((0, -1)).argmax())
    return LayerFindings(
        name=name,
        kind=type(layer).__name__,
        blocks=transitions.shape[2],
        size=transitions.shape[-1],
        spectrum=Spectrum(layer=name, eigenvalues=eigenvalues(transitions)),
        kept=rows.sum(-1).mean().item(),
        decided=largest.mean().item(),
        best_contrast=[1.0, *left.amax(-1).tolist()],
        median_contrast=[1.0, *left.median(-1).values.tolist()],
        # Relative to nothing, nothing is nothing: an output that no input moves has no reach.
        reach=torch.where(reach == 0, reach, reach / reach[0]).tolist(),
        bound=bound,
        example_block=block,
        example=transitions[0, :EXAMPLE_STEPS, block],
    )
