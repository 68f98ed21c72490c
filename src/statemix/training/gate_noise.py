"""Gate noise that rises with the steps: none while a rule is found, all of it while gates are made sharp."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from statemix.nn import RecurrentLayer

from .config import RunConfig
from .schedule import share_at


class GateNoise:
    """Sets the share of their noise that the mixers of a model draw, from the step alone.

    One tensor that all of them read: a captured or compiled step that sets it draws less or more with it.
    """

    def __init__(self, model: nn.Module, config: RunConfig, device: torch.device) -> None:
        self._shares: Tensor | None = None
        if config.gate_noise_rise == (0.0, 0.0):
            return
        shares = [share_at(step, config.steps, config.gate_noise_rise) for step in range(config.steps)]
        self._shares = torch.tensor(shares, device=device)
        self._share = torch.ones((), device=device)
        self._model = model
        self._give(self._share)

    def at(self, step: int | Tensor) -> None:
        """The share of ``step``, which may be a tensor on the device: nothing waits for it."""
        if self._shares is None:
            return
        if isinstance(step, Tensor):
            # index_select, since indexing with a tensor of no dimensions would bring it to the host.
            index = step.clamp(max=len(self._shares) - 1).view(1)
            self._share.copy_(self._shares.index_select(0, index).squeeze(0))
        else:
            self._share.copy_(self._shares[step])

    def close(self) -> None:
        """Give the mixers a plain number again, which goes with the model to any device."""
        if self._shares is not None:
            self._give(1.0)

    def _give(self, share: Tensor | float) -> None:
        for module in self._model.modules():
            if isinstance(module, RecurrentLayer):
                module.gate_noise_share = share
