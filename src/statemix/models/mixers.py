"""The one table from the name of a sequence mixer to the layer."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from statemix.nn import BDLRU, HLRU

from .attention import CausalAttention
from .recurrent import Recurrent


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """Which layer mixes the sequence, and its sizes.

    Raises:
        ValueError: an unknown name (the nearest ones are listed), or sizes below one.
    """

    name: str = "bdlru"
    """Kind of layer: bdlru, hlru, lstm, gru or attention."""

    block_size: int = 4
    """Channels that mix: the block size of bdlru, the order of hlru. Others only count states with it."""

    num_blocks: int | None = None
    """Blocks (bdlru), channels (hlru); the state is as many times block_size. Default: about the width."""

    normalization: Literal["softmax", "sigmoid", "relu", "tanh", "linear", "none"] = "softmax"
    """How gate logits become coefficients (bdlru, hlru)."""

    selective: bool = True
    """Whether the gates depend on the input (bdlru, hlru)."""

    initial_state: Literal["zeros", "learned"] = "zeros"
    """What stands before the first step (bdlru, hlru)."""

    gate_init: Literal["paper", "identity"] = "paper"
    """How the gates start: as in the paper, or keeping the state (bdlru, hlru)."""

    readout: Literal["window", "latest"] | None = None
    """What hlru reads out: all the states it holds, or the newest. Default: window when selective."""

    num_heads: int = 4
    """Heads of attention."""

    backend: Literal["auto", "reference", "cpu", "cuda", "triton"] = "auto"
    """Which kernels run the recurrence (bdlru, hlru)."""

    def __post_init__(self) -> None:
        if self.name not in MIXERS:
            near = difflib.get_close_matches(self.name, MIXERS, n=3, cutoff=0.3) or list(MIXERS)
            raise ValueError(f"no mixer {self.name!r}; nearest: {', '.join(near)}; all: {', '.join(MIXERS)}")
        for field in ("block_size", "num_heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"mixer {self.name}: {field} must be at least 1; got {getattr(self, field)}")
        if self.num_blocks is not None and self.num_blocks < 1:
            raise ValueError(f"mixer {self.name}: num_blocks must be at least 1; got {self.num_blocks}")

    def blocks_for(self, d_model: int) -> int:
        """The number of blocks or channels at width ``d_model``: as given, or so that states fill the width.

        Example:
            >>> MixerConfig(block_size=3).blocks_for(64)
            21
        """
        return self.num_blocks or max(1, d_model // self.block_size)


def make_mixer(config: MixerConfig, d_model: int) -> nn.Module:
    """Build the layer that ``config`` names. Every one of them keeps this interface:

        y, state = mixer(x, state, return_state=True)     x, y (B, T, D); state None to begin with
        y = mixer(x, cu_seqlens=...), mixer(x, mask=...)  packed, padded
        y_t, state = mixer.step(x_t, state)               x_t, y_t (B, D)

    A state is a tensor or a tuple of tensors. A new kind of layer is one more line in :data:`MIXERS`.

    Example:
        >>> type(make_mixer(MixerConfig(name="gru"), 16)).__name__
        'Recurrent'
    """
    return MIXERS[config.name](config, d_model)


def _bdlru(config: MixerConfig, d_model: int) -> nn.Module:
    return BDLRU(
        d_model,
        num_blocks=config.blocks_for(d_model),
        block_size=config.block_size,
        normalization=config.normalization,
        selective=config.selective,
        initial_state=config.initial_state,
        gate_init=config.gate_init,
        backend=config.backend,
    )


def _hlru(config: MixerConfig, d_model: int) -> nn.Module:
    return HLRU(
        d_model,
        num_channels=config.blocks_for(d_model),
        order=config.block_size,
        normalization=config.normalization,
        selective=config.selective,
        readout=config.readout,
        initial_state=config.initial_state,
        gate_init=config.gate_init,
        backend=config.backend,
    )


def _recurrent(config: MixerConfig, d_model: int) -> nn.Module:
    hidden = d_model if config.num_blocks is None else config.num_blocks * config.block_size
    return Recurrent(config.name, d_model, hidden_size=hidden)


def _attention(config: MixerConfig, d_model: int) -> nn.Module:
    return CausalAttention(d_model, num_heads=config.num_heads)


MIXERS: dict[str, Callable[[MixerConfig, int], nn.Module]] = {
    "bdlru": _bdlru,
    "hlru": _hlru,
    "lstm": _recurrent,
    "gru": _recurrent,
    "attention": _attention,
}
