"""Baselines under torch.vmap over parameters: replicas must train as one. And where there are shapes alone."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from statemix.models import MIXERS, MixerConfig, make_mixer
from statemix.models.states import tensors_in

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


@pytest.mark.parametrize("name", MIXERS)
def test_masked_rows_that_have_shapes_alone_give_shapes(name):
    real = torch.rand(3, 5) < 0.6
    layer, x = small(name), torch.randn(3, 5, WIDTH)
    y, state = copy.deepcopy(layer).to("meta")(x.to("meta"), mask=real.to("meta"), return_state=True)
    assert y.is_meta and y.shape == x.shape
    wanted = layer(x, mask=real, return_state=True)[1]
    assert [t.shape for t in tensors_in(state)] == [t.shape for t in tensors_in(wanted)]
    with FakeTensorMode():
        layer, x = small(name), torch.empty(3, 5, WIDTH)
        assert layer(x, mask=torch.ones(3, 5, dtype=torch.bool)).shape == x.shape


@pytest.mark.parametrize("name", MIXERS)
def test_packed_rows_that_have_shapes_alone_give_shapes(name):
    bounds = torch.tensor([0, 2, 2, 7], dtype=torch.int32)
    layer, x = small(name), torch.randn(1, 7, WIDTH)
    y, state = copy.deepcopy(layer).to("meta")(x.to("meta"), cu_seqlens=bounds.to("meta"), return_state=True)
    assert y.is_meta and y.shape == x.shape
    if name != "attention":  # whose cache is as long as the longest, which is not known
        wanted = layer(x, cu_seqlens=bounds, return_state=True)[1]
        assert [t.shape for t in tensors_in(state)] == [t.shape for t in tensors_in(wanted)]
    with FakeTensorMode():
        layer, x = small(name), torch.empty(1, 7, WIDTH)
        assert layer(x, cu_seqlens=torch.zeros(4, dtype=torch.int32)).shape == x.shape
