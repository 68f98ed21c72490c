"""Baselines under torch.compile: one graph, forward and backward, the same numbers."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from statemix.models import MixerConfig, make_mixer

WIDTH = 16
# A loop over time is unrolled into the graph: a few steps say as much as many.
LOOPS = {"lstm": 3, "pd-ssm": 3}
# One of each mechanism: the others run the same code.
MECHANISMS = ["attention", "gated-deltanet", "lru", "lstm", "mamba2", "mlstm", "pd-ssm", "rg-lru", "rwkv7"]


@pytest.mark.parametrize("name", MECHANISMS)
def test_one_graph_holds_forward_and_backward(name):
    torch.manual_seed(0)
    torch._dynamo.reset()
    options = {"backend": "torch"} if name == "lstm" else {}
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


@pytest.mark.parametrize("name", MECHANISMS)
def test_one_graph_holds_padded_sequences(name):
    torch.manual_seed(0)
    torch._dynamo.reset()
    options = {"backend": "torch"} if name == "lstm" else {}
    layer = make_mixer(MixerConfig(name=name, **options), WIDTH)
    x = torch.randn(3, 3, WIDTH)
    mask = torch.tensor([[True, True, False], [False, False, False], [False, True, True]])
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, mask=mask), layer(x, mask=mask))


@torch.no_grad()  # else PyTorch warns of its own look at gradients where it goes on behind a break
def test_a_graph_breaks_where_packed_sequences_are_laid_under_each_other_and_says_the_same():
    torch._dynamo.reset()
    layer = make_mixer(MixerConfig(name="lru"), WIDTH)
    breaks = CompileCounter()
    compiled = torch.compile(layer, backend=breaks)
    for lengths in ([3, 4, 2], [1, 0, 5, 3], [9]):
        x = torch.randn(1, 9, WIDTH)
        bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        torch.testing.assert_close(compiled(x, cu_seqlens=bounds), layer(x, cu_seqlens=bounds))
    assert breaks.frame_count > 0


def test_one_graph_holds_packed_sequences_of_any_lengths_behind_a_convolution():
    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = make_mixer(MixerConfig(block_size=3, convolution=True), WIDTH)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for lengths in ([3, 4, 9], [1, 30, 2, 0, 5], [2, 2]):
        x = torch.randn(1, sum(lengths), WIDTH, requires_grad=True)
        bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        y, wanted = compiled(x, cu_seqlens=bounds), layer(x, cu_seqlens=bounds)
        torch.testing.assert_close(y, wanted)
        (got,), (want,) = (torch.autograd.grad(z.square().sum(), x) for z in (y, wanted))
        torch.testing.assert_close(got, want)
