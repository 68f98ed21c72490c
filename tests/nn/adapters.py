"""An adapter as PEFT has it: its ``weight`` is that of what it wraps, and not all there is to it."""

import torch
from torch import nn


class Adapted(nn.Module):
    def __init__(self, base: nn.Linear, std: float = 0.5) -> None:
        super().__init__()
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.base_layer = base
        self.down = nn.Parameter(std * torch.randn(2, base.in_features, **like))
        self.up = nn.Parameter(std * torch.randn(base.out_features, 2, **like))

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + x @ self.down.T @ self.up.T

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer that makes the same."""
        self.base_layer.weight += self.up @ self.down
        return self.base_layer


def adapt(module: nn.Module) -> None:
    """Wrap every linear layer in it."""
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if type(child) is nn.Linear and not isinstance(part, Adapted):
                setattr(part, name, Adapted(child))


def merge(module: nn.Module) -> None:
    """Take every adapter into the weight that it wraps."""
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, Adapted):
                setattr(part, name, child.merged())
