"""Eigenvalues of many small matrices, some of which may hold no numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def eigenvalues(matrices: Tensor) -> Tensor:
    """The eigenvalues of each matrix, (..., M, M) -> complex (..., M); NaN where one is not finite.

    Such a matrix ends LAPACK with an error or with numbers that mean nothing; the others do not depend on it.

    Examples:
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> found = eigenvalues(torch.stack([swap, swap * float("nan")]))
        >>> sorted(found[0].real.tolist()), found[1].isnan().tolist()
        ([-1.0, 1.0], [True, True])
    """
    finite = matrices.isfinite().all(-1).all(-1)[..., None]
    found = torch.linalg.eigvals(torch.where(finite[..., None], matrices, 0.0))
    return torch.where(finite, found, torch.nan)
