"""Pieces of published layers that several tests write out again, independently of the layers."""

import torch
import torch.nn.functional as F


def drawn(layer, std=0.4):
    """The layer in float64 with weights far from where they start; decays stay where they were drawn."""
    torch.manual_seed(0)
    layer = layer.double()
    for name, parameter in layer.named_parameters():
        if name.rpartition(".")[2] in ("weight", "bias", "0") or "weight" in name:
            torch.nn.init.normal_(parameter, std=std)
    return layer


def convolved(x, convolution):
    """PyTorch's own grouped convolution with the same taps, oldest first, then SiLU."""
    taps = convolution.weight.T[:, None]
    past = F.pad(x.mT, (convolution.kernel - 1, 0))
    return F.silu(F.conv1d(past, taps, convolution.bias, groups=x.shape[2]).mT)


def head_norm(x, norm, gate):
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.norm.weight
    return x if gate is None else x * gate * gate.sigmoid()
