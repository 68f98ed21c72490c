"""Gated DeltaNet: a matrix state that decays and is corrected along one key a step."""

from __future__ import annotations

from ._delta_layer import DeltaRuleLayer


class GatedDeltaNet(DeltaRuleLayer):
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T in every head; the output reads S_t^T q_t.

    a_t = exp(-A softplus(w x + c)), as in Mamba-2. Arguments and state as of :class:`DeltaRuleLayer`;
    published with a convolution and an output gate, b in (0, 1).

    Examples:
        >>> GatedDeltaNet(64, num_heads=2)(torch.randn(2, 10, 64)).shape
        torch.Size([2, 10, 64])

    Source: Yang et al. 2024, arXiv 2412.06464.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        negative_eigenvalues: bool = False,
        convolution: bool = True,
        output_gate: bool = True,
        initial_state: str = "zeros",
        backend: str = "auto",
    ) -> None:
        super().__init__(
            d_model,
            num_heads=num_heads,
            head_dim=head_dim,
            householder_steps=1,
            decays=True,
            negative_eigenvalues=negative_eigenvalues,
            convolution=convolution,
            output_gate=output_gate,
            initial_state=initial_state,
            backend=backend,
        )
