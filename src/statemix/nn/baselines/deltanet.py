"""DeltaNet: a matrix state that is corrected along one key a step."""

from __future__ import annotations

from ._delta_layer import DeltaRuleLayer


class DeltaNet(DeltaRuleLayer):
    """S_t = (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T in every head; the output reads S_t^T q_t.

    Arguments and state as of :class:`DeltaRuleLayer`; published with a convolution and without an output
    gate, b in (0, 1).

    Examples:
        >>> layer = DeltaNet(32, head_dim=16, negative_eigenvalues=True)
        >>> y, (matrices, window) = layer(torch.randn(2, 10, 32), return_state=True)
        >>> matrices.shape
        torch.Size([2, 2, 16, 16])

    Source: Schlag et al. 2021, arXiv 2102.11174; Yang et al. 2024, arXiv 2406.06484; the wider range of b
    from Grazzi et al. 2024, arXiv 2411.12537.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        negative_eigenvalues: bool = False,
        convolution: bool = True,
        output_gate: bool = False,
        initial_state: str = "zeros",
        backend: str = "auto",
    ) -> None:
        super().__init__(
            d_model,
            num_heads=num_heads,
            head_dim=head_dim,
            householder_steps=1,
            decays=False,
            negative_eigenvalues=negative_eigenvalues,
            convolution=convolution,
            output_gate=output_gate,
            initial_state=initial_state,
            backend=backend,
        )
