"""Baselines under torch.vmap over parameters: replicas must train as one."""

import pytest
import torch

from statemix.models import MIXERS, MixerConfig, make_mixer

OURS = {"bdlru", "hlru"}
BASELINES = [name for name in MIXERS if name not in OURS]
WIDTH = 16


def small(name: str, **options) -> torch.nn.Module:
    return make_mixer(MixerConfig(name=name, initial_state="learned", **options), WIDTH)


def loss(layer, parameters, x):
    y = torch.func.functional_call(layer, parameters, (x,))
    return (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()


@pytest.mark.parametrize("name", BASELINES)
def test_gradients_of_stacked_replicas_are_those_of_each(name):
    torch.manual_seed(0)
    layers = [small(name).double() for _ in range(2)]
    x = torch.randn(2, 2, 7, WIDTH, dtype=torch.float64)
    parameters, _ = torch.func.stack_module_state(layers)
    gradients = torch.func.vmap(torch.func.grad(lambda p, x: loss(layers[0], p, x)))(parameters, x)
    for replica, layer in enumerate(layers):
        alone = dict(layer.named_parameters())
        wanted = torch.autograd.grad(loss(layer, alone, x[replica]), list(alone.values()))
        for key, gradient in zip(alone, wanted, strict=True):
            torch.testing.assert_close(gradients[key][replica], gradient, rtol=1e-8, atol=1e-10)
