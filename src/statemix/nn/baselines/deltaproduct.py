"""Gated DeltaProduct: several Householder factors in every transition."""

from __future__ import annotations

from ._delta_layer import DeltaRuleLayer


class GatedDeltaProduct(DeltaRuleLayer):
    """Gated DeltaNet that corrects its state along ``householder_steps`` keys a step.

    With b up to 2 a factor I - b k k^T reflects, and a product of two reflections turns, which one cannot.
    Runs as a gated delta rule that many times as long, decaying at the first factor of each token and read
    after the last. Arguments and state as of :class:`DeltaRuleLayer`; published with a convolution, an
    output gate and b in (0, 2).

    Examples:
        >>> GatedDeltaProduct(64, householder_steps=3)(torch.randn(2, 10, 64)).shape
        torch.Size([2, 10, 64])

    Source: Siems et al. 2025, arXiv 2502.10297.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        householder_steps: int = 2,
        negative_eigenvalues: bool = True,
        convolution: bool = True,
        output_gate: bool = True,
        initial_state: str = "zeros",
        backend: str = "auto",
    ) -> None:
        super().__init__(
            d_model,
            num_heads=num_heads,
            head_dim=head_dim,
            householder_steps=householder_steps,
            decays=True,
            negative_eigenvalues=negative_eigenvalues,
            convolution=convolution,
            output_gate=output_gate,
            initial_state=initial_state,
            backend=backend,
        )
