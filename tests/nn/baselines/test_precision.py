"""Half precision: states stay float32, decays are never rounded to eight bits, and results stay near."""

import pytest
import torch

from statemix.models import MIXERS, MixerConfig, make_mixer

WIDTH = 16
BASELINES = [name for name in MIXERS if name not in ("bdlru", "hlru")]


def leaves(state):
    return state if isinstance(state, tuple) else (state,)


def closeness(got, wanted):
    got, wanted = got.detach().double(), wanted.detach().double()
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", BASELINES)
def test_bfloat16_keeps_its_dtype_and_float32_states(name):
    torch.manual_seed(0)
    layer = make_mixer(MixerConfig(name=name), WIDTH)
    x = torch.randn(2, 40, WIDTH)
    with torch.no_grad():
        half = make_mixer(MixerConfig(name=name), WIDTH)
        half.load_state_dict(layer.state_dict())
        half = half.bfloat16()
        # The same rounded weights on both sides: what differs is the arithmetic.
        layer.load_state_dict({key: value.float() for key, value in half.state_dict().items()})
        y, state = half(x.bfloat16(), return_state=True)
        wanted = layer(x.bfloat16().float())
    assert y.dtype == torch.bfloat16
    if name != "attention":
        assert all(s.dtype == torch.float32 for s in leaves(state))
    assert closeness(y, wanted) < (0.3 if name == "pd-ssm" else 0.03)


@pytest.mark.parametrize("name", BASELINES)
def test_autocast_runs_forward_and_backward(name):
    torch.manual_seed(0)
    layer = make_mixer(MixerConfig(name=name), WIDTH)
    x = torch.randn(2, 20, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    assert closeness(y, layer(x)) < (0.3 if name == "pd-ssm" else 0.03)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())
