"""Layers whose projections are more than their weights: offloaded, quantized, adapted."""

import copy

import pytest
import torch

from statemix import BDLRU
from statemix.models import MIXERS, MixerConfig, make_mixer
from statemix.nn.convolved import Convolved
from tests.nn.adapters import adapt, merge

WIDTH = 16
CALLING = ("attention", "lstm", "gru")


def layer_of(name, initial_state="zeros"):
    torch.manual_seed(0)
    if name == "convolved":
        return Convolved(BDLRU(WIDTH, num_blocks=5, block_size=3)).eval()
    return make_mixer(MixerConfig(name=name, initial_state=initial_state), WIDTH).eval()


def uses(layer):
    """A batch in pieces, then padded, packed and empty ones: everything that begins with a state."""
    x = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    first, state = layer(x[:, :3], return_state=True)
    middle, state = layer.step(x[:, 3], state)
    rest = layer(x[:, 4:], state)
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    yield torch.cat([first, middle[:, None], rest], 1)
    yield layer(x, mask=mask)
    yield layer(x[:1], cu_seqlens=bounds)
    yield layer(x[:, :0])
    yield layer.step(x[:, 0])[0]


@pytest.mark.parametrize("name", [*CALLING, "convolved"])
@torch.no_grad()
def test_a_layer_whose_weights_lie_elsewhere_says_the_same(name):
    accelerate = pytest.importorskip("accelerate")
    layer = layer_of(name)
    wanted = list(uses(layer))
    accelerate.cpu_offload(layer, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in layer.parameters())
    for got, want in zip(uses(layer), wanted, strict=True):
        assert got.device.type == "cpu"
        torch.testing.assert_close(got, want)


@pytest.mark.filterwarnings("ignore:.*(quantiz|TypedStorage).*")
@pytest.mark.parametrize("name", CALLING)
@torch.no_grad()
def test_a_quantized_layer_says_nearly_the_same(name):
    if not torch.backends.quantized.supported_engines:
        pytest.skip("this build of PyTorch quantizes nothing")
    layer = layer_of(name)
    kinds = {torch.nn.Linear, torch.nn.LSTM, torch.nn.GRU}
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(layer), kinds, dtype=torch.qint8)
    assert not list(quantized.parameters())
    for got, want in zip(uses(quantized), uses(layer), strict=True):
        # Eight bits a weight: half a step of 1/127 of the largest, some four standard deviations.
        assert (got - want).norm() <= 0.05 * want.norm()


@pytest.mark.parametrize("name", [name for name in MIXERS if name not in ("bdlru", "hlru")])
@pytest.mark.parametrize("initial_state", ["zeros", "learned"])
@torch.no_grad()
def test_an_adapted_layer_says_what_its_merged_weights_say(name, initial_state):
    layer = layer_of(name, initial_state)
    adapt(layer)
    adapted = list(uses(layer))
    merge(layer)
    for got, want in zip(adapted, uses(layer), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
