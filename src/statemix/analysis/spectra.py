"""Eigenvalues of the transitions that layers learned: what a block can do in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from statemix.nn.eigenvalues import eigenvalues

from .recording import record_inputs

# Eigenvalues of nearly equal pairs are only known to the root of the rounding of their matrix.
TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """The eigenvalues of one layer's transitions over a batch of inputs."""

    layer: str
    """dotted name of the layer in its model"""
    eigenvalues: Complex[Tensor, "B T N M"]
    """of block n at step t of sequence b; on the CPU, in double precision"""

    def summary(self, *, tolerance: float = TOLERANCE) -> SpectrumSummary:
        """Shares and sizes that a table can hold."""
        return summarize(self.eigenvalues, tolerance=tolerance)


@dataclass(frozen=True, kw_only=True)
class SpectrumSummary:
    """What the eigenvalues of many blocks have in common; shares are between 0 and 1."""

    complex_share: float
    """blocks with an eigenvalue off the real axis: they can turn, as cycles do"""
    negative_share: float
    """blocks with an eigenvalue of negative real part: they can flip, as parity does"""
    radius: float
    """the largest magnitude of any eigenvalue"""
    mean_magnitude: float
    """the mean magnitude of all eigenvalues"""
    median_memory: float
    """steps until the slowest mode of a block has fallen to 1/e, at the median over blocks"""


def transition_spectra(model: nn.Module, *arguments: Any, **options: Any) -> dict[str, Spectrum]:
    """Run a model once and take the spectrum of every recurrent layer on what that layer saw.

    That is ``model(*arguments, **options)``; padded steps, where the model was given a mask, are among the
    steps of the spectrum.

    Raises:
        ValueError: the model holds no recurrent layer of statemix.

    Examples:
        >>> from statemix.nn import BDLRU
        >>> layer = BDLRU(8, num_blocks=4, block_size=3)
        >>> spectrum = transition_spectra(layer, torch.randn(2, 5, 8))[""]
        >>> spectrum.eigenvalues.shape
        torch.Size([2, 5, 4, 3])
    """
    with torch.no_grad():
        return {
            name: Spectrum(layer=name, eigenvalues=eigenvalues(layer.transition(inputs).cpu().double()))
            for name, (layer, inputs) in record_inputs(model, *arguments, **options).items()
        }


def summarize(eigenvalues: Complex[Tensor, "*blocks M"], *, tolerance: float = TOLERANCE) -> SpectrumSummary:
    """Shares, radius and memory of a set of blocks, each a row of M eigenvalues.

    Raises:
        ValueError: there are no blocks.

    Examples:
        >>> swap = torch.linalg.eigvals(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> summarize(swap).negative_share
        1.0
    """
    if eigenvalues.dim() == 0 or eigenvalues.numel() == 0:
        raise ValueError(
            f"summarize: needs at least one block, a row of M eigenvalues; got shape "
            f"{tuple(eigenvalues.shape)}"
        )
    # Those of blocks of one may come as real numbers.
    blocks = eigenvalues.reshape(-1, eigenvalues.shape[-1]).to(torch.complex128)
    magnitudes = blocks.abs()
    return SpectrumSummary(
        complex_share=(blocks.imag.abs() > tolerance).any(-1).double().mean().item(),
        negative_share=(blocks.real < -tolerance).any(-1).double().mean().item(),
        radius=magnitudes.max().item(),
        mean_magnitude=magnitudes.mean().item(),
        median_memory=memory_lengths(magnitudes.amax(-1)).median().item(),
    )


def memory_lengths(magnitudes: Float[Tensor, "*modes"]) -> Float[Tensor, "*modes"]:
    """Steps after which a mode has fallen to 1/e: -1 / log |eigenvalue|, infinite from 1 on, 0 at 0.

    Examples:
        >>> memory_lengths(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 1.4427,    inf])
    """
    lengths = -1.0 / magnitudes.log()
    return torch.where(magnitudes >= 1, torch.inf, lengths)
