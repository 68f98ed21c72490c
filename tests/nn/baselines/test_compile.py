"""Baselines under torch.compile: one graph, forward and backward, the same numbers."""

import pytest
import torch

from statemix.models import MIXERS, MixerConfig, make_mixer

WIDTH = 16
# A loop over time is unrolled into the graph: a few steps say as much as many.
LOOPS = {"lstm": 3, "gru": 3, "pd-ssm": 3}


@pytest.mark.parametrize("name", [n for n in MIXERS if n not in ("bdlru", "hlru")])
def test_one_graph_holds_forward_and_backward(name):
    torch.manual_seed(0)
    torch._dynamo.reset()
    options = {"backend": "torch"} if name in ("lstm", "gru") else {}
    layer = make_mixer(MixerConfig(name=name, **options), WIDTH)
    x = torch.randn(2, LOOPS.get(name, 66), WIDTH, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, wanted = compiled(x), layer(x)
    torch.testing.assert_close(y, wanted)
    leaves = [x, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad(y.square().sum(), leaves),
        torch.autograd.grad(wanted.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
