"""AdamW, and which parameters it lets decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from statemix.ops.checks import check_number, check_numbers


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of AdamW."""

    learning_rate: float = 3e-3
    """Peak learning rate."""

    weight_decay: float = 0.01
    """Decay of matrices; gate biases, initial states, norms, biases and embeddings have none."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moments."""

    eps: float = 1e-8
    """Added to the root of the second moment."""

    clip_norm: float = 1.0
    """Largest norm of the whole gradient; inf for no clipping."""

    def __post_init__(self) -> None:
        for field in ("learning_rate", "weight_decay", "eps"):
            check_number("optimizer", field, getattr(self, field), "at least 0", lambda size: size >= 0)
        betas = check_numbers("optimizer", "betas", self.betas)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"optimizer: betas must be two numbers that lie in [0, 1); got {self.betas}")
        check_number("optimizer", "clip_norm", self.clip_norm, "above 0", lambda size: size > 0)


def decays(model: nn.Module) -> dict[str, bool]:
    """Whether weight decay acts on a parameter, by its name.

    Matrices decay. Embeddings, vectors (norms, biases) and what a layer lists in ``no_weight_decay``
    do not.

    Examples:
        >>> decays(nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 3)))
        {'0.weight': False, '1.weight': True, '1.bias': False}
    """
    exempt: set[str] = set()
    for prefix, module in model.named_modules():
        own: list[str] = list(getattr(module, "no_weight_decay", ()))
        if isinstance(module, nn.Embedding):
            own.append("weight")
        exempt.update(f"{prefix}.{name}".lstrip(".") for name in own)
    return {name: p.dim() >= 2 and name not in exempt for name, p in model.named_parameters()}


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the two groups of parameters."""
    decay = decays(model)
    groups: list[dict[str, Any]] = []
    for wanted, weight_decay in ((True, config.weight_decay), (False, 0.0)):
        chosen: list[Tensor] = [p for name, p in model.named_parameters() if decay[name] is wanted]
        if chosen:
            groups.append({"params": chosen, "weight_decay": weight_decay})
    device = next(model.parameters()).device.type
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=device in ("cpu", "cuda")
    )
