"""The pre-norm residual block of the backbone, a mixer along time then an MLP, and the stack of them."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as ListLike
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from statemix.shapes import Boundaries, Mask, Sequence, Token

from .normalization import rms_norm
from .swiglu import swiglu

INITIAL_STD = 0.02


class MLP(nn.Module):
    """Two layers at every step: "gelu", or "swiglu" of the same number of weights.

    Args:
        d_model: D.
        kind: "swiglu" or "gelu".
        ratio: hidden width over D; SwiGLU, which has a third matrix, takes two thirds of it, rounded up
            to a multiple of 8.
        init: how weights start: "paper" for N(0, 0.02), or "fan-in" for N(0, 1/sqrt(inputs)).

    Source: Shazeer 2020, arXiv 2002.05202 (SwiGLU).
    """

    def __init__(self, d_model: int, *, kind: str, ratio: float, init: str = "paper") -> None:
        super().__init__()
        self.gated = kind == "swiglu"
        self.init = init
        hidden = int(d_model * ratio)
        if self.gated:
            hidden = -(-2 * hidden // 3 // 8) * 8 or 8
        self.up = nn.Linear(d_model, hidden * (2 if self.gated else 1), bias=False)
        self.down = nn.Linear(hidden, d_model, bias=False)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        for weight in (self.up.weight, self.down.weight):
            nn.init.normal_(weight, std=self.std_of(weight))

    def std_of(self, weight: Tensor) -> float:
        """The standard deviation with which one of the two weights starts."""
        return INITIAL_STD if self.init == "paper" else weight.shape[1] ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        if self.gated:
            return self.down(swiglu(hidden))
        return self.down(F.gelu(hidden))


class Block(nn.Module):
    """x + mixer(norm(x)), then that plus mlp(norm(that)); without an MLP where ``mlp`` is None.

    Shapes: x, y (B, T, D), or (B, D) in :meth:`step`.
    """

    def __init__(self, d_model: int, mixer: nn.Module, mlp: nn.Module | None, *, eps: float) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(d_model, eps=eps)
        self.mixer = mixer
        self.mlp_norm = None if mlp is None else nn.RMSNorm(d_model, eps=eps)
        self.mlp = mlp

    def forward(
        self,
        x: Sequence,
        state: Any = None,
        *,
        return_state: bool = False,
        cu_seqlens: Boundaries | None = None,
        mask: Mask | None = None,
    ) -> Any:
        options: dict[str, Any] = {}
        if cu_seqlens is not None:
            options["cu_seqlens"] = cu_seqlens
        if mask is not None:
            options["mask"] = mask
        normed = rms_norm(self.mixer_norm, x)
        if return_state:
            mixed, state = self.mixer(normed, state, return_state=True, **options)
        else:
            mixed = self.mixer(normed, state, **options)
        x = self._mlp(x + mixed)
        return (x, state) if return_state else x

    def step(self, x: Token, state: Any = None) -> tuple[Token, Any]:
        mixed, state = cast(Any, self.mixer).step(self.mixer_norm(x), state)
        return self._mlp(x + mixed), state

    def _mlp(self, x: Tensor) -> Tensor:
        if self.mlp is None or self.mlp_norm is None:
            return x
        return x + self.mlp(rms_norm(self.mlp_norm, x))


class Blocks(nn.ModuleList):
    """Blocks one after the other, with a state for each.

    ``gradient_checkpointing`` keeps only what goes into each block during training, and runs the block
    again in backward: activations of one block instead of all, for a third more computation.

    Shapes: x, y (B, T, D), or (B, D) in :meth:`step`; states one for each block, None to begin with.
    """

    def __init__(self, blocks: Iterable[Block], *, gradient_checkpointing: bool = False) -> None:
        super().__init__(blocks)
        self.gradient_checkpointing = gradient_checkpointing

    def forward(
        self,
        x: Sequence,
        states: ListLike[Any] | None = None,
        *,
        return_states: bool = False,
        cu_seqlens: Boundaries | None = None,
        mask: Mask | None = None,
        each: list[Tensor] | None = None,
    ) -> tuple[Sequence, tuple[Any, ...] | None]:
        """The last output, and with ``return_states`` the states.

        ``each`` collects what goes into every block.
        """
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        ends = []
        for block, state in zip(self, self._states(states), strict=True):
            if each is not None:
                each.append(x)
            options: dict[str, Any] = {
                "return_state": return_states, "cu_seqlens": cu_seqlens, "mask": mask
            }  # fmt: skip
            if recompute:
                found = checkpoint(block, x, state, use_reentrant=False, **options)
            else:
                found = block(x, state, **options)
            x, state = cast(Any, found if return_states else (found, None))
            ends.append(state)
        return x, tuple(ends) if return_states else None

    def step(self, x: Token, states: ListLike[Any] | None = None) -> tuple[Token, tuple[Any, ...]]:
        """One token of each sequence, and the next states."""
        ends = []
        for block, state in zip(self, self._states(states), strict=True):
            x, state = cast(Block, block).step(x, state)
            ends.append(state)
        return x, tuple(ends)

    def _states(self, states: ListLike[Any] | None) -> ListLike[Any]:
        if states is None:
            return (None,) * len(self)
        if not isinstance(states, tuple | list):
            raise TypeError(
                f"LanguageModel: states must be a tuple, one for each layer, as return_states=True gives; "
                f"got {type(states).__name__}"
            )
        if len(states) != len(self):
            raise ValueError(
                f"LanguageModel: states must hold one for each layer: {len(self)}; got {len(states)}"
            )
        return states
