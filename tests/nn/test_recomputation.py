"""What the layers keep for the backward pass, and what they compute again."""

from __future__ import annotations

import pytest
import torch

from statemix.nn import BDLRU, HLRU

SHAPE = (2, 24, 8)


def make(kind, **options):
    torch.manual_seed(0)
    if kind == "bdlru":
        return BDLRU(SHAPE[2], num_blocks=5, block_size=3, **options)
    return HLRU(SHAPE[2], num_channels=5, order=3, **options)


def kept_by(layer, x):
    """Sizes of the different tensors that autograd keeps, parameters left out."""
    parameters = {p.data_ptr() for p in layer.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = max(tensor.numel(), kept.get(tensor.data_ptr(), 0))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    return sorted(kept.values()), y


@pytest.mark.parametrize(("kind", "rows", "gates"), [("bdlru", 3, 12), ("hlru", 1, 4)])
def test_a_layer_keeps_input_logits_values_and_hidden_and_nothing_else(kind, rows, gates):
    x = torch.randn(SHAPE, requires_grad=True)
    kept, _ = kept_by(make(kind), x)
    steps = SHAPE[0] * SHAPE[1]
    assert kept == sorted([x.numel(), steps * gates * 5, steps * rows * 5, steps * rows * 5])


@pytest.mark.parametrize("kind", ["bdlru", "hlru"])
@pytest.mark.parametrize("learned", [False, True])
def test_recomputed_gates_give_the_same_bits_and_keep_no_logits(kind, learned):
    state = "learned" if learned else "zeros"
    plain, lean = make(kind, initial_state=state), make(kind, initial_state=state, recompute_gates=True)
    lean.load_state_dict(plain.state_dict())
    found = []
    for layer in (plain, lean):
        torch.manual_seed(1)
        x = torch.randn(SHAPE, requires_grad=True)
        y = layer(x)
        y.square().sum().backward()
        found.append([y, x.grad, *(p.grad for p in layer.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["bdlru", "hlru"])
def test_a_freed_logit_tensor_is_not_kept_alive(kind):
    """The memory of the logits goes back between the forward and the backward pass."""
    import gc
    import weakref

    layer = make(kind, recompute_gates=True)
    seen = []
    scan = type(layer)._operator

    def spy(gate_logits, *arguments, **options):
        seen.append(weakref.ref(gate_logits.untyped_storage()))
        return scan(gate_logits, *arguments, **options)

    layer._operator = spy
    y = layer(torch.randn(SHAPE, requires_grad=True))
    gc.collect()
    assert seen[0]() is None
    y.sum().backward()


def test_recomputation_follows_autocast_to_its_dtype():
    plain, lean = make("bdlru"), make("bdlru", recompute_gates=True)
    lean.load_state_dict(plain.state_dict())
    grads = []
    for layer in (plain, lean):
        torch.manual_seed(1)
        x = torch.randn(SHAPE, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        y.float().square().sum().backward()
        grads.append([x.grad, *(p.grad for p in layer.parameters())])
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["bdlru", "hlru"])
@pytest.mark.parametrize("transformed", [False, True], ids=["backward", "torch.func.grad"])
def test_recomputed_gates_are_those_of_the_parameters_that_a_functional_call_was_given(kind, transformed):
    plain, lean = make(kind), make(kind, recompute_gates=True)
    given = {name: 5 * p.detach() + 1 for name, p in plain.named_parameters()}
    x = torch.randn(SHAPE)
    found = []
    for layer in (plain, lean):

        def loss(parameters, layer=layer):
            return torch.func.functional_call(layer, parameters, (x,)).square().sum()

        if transformed:
            found.append(torch.func.grad(loss)(given))
        else:
            leaves = {name: p.clone().requires_grad_() for name, p in given.items()}
            loss(leaves).backward()
            found.append({name: p.grad for name, p in leaves.items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)
