"""The window readout against windows that are laid out row by row."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo import compiled_autograd

from statemix.nn import HLRU
from statemix.nn.window import _WindowProduct, window_product
from tests.tolerances import GRADIENT
from tests.truth import relative_error


def row_by_row(hidden, initial, weight, bounds):
    """Each window looked up state by state, and one product for each."""
    batch, time, channels = hidden.shape
    order = weight.shape[1] // channels
    flat = hidden.flatten(0, 1)
    rows = []
    for sequence, (start, end) in enumerate(itertools.pairwise(bounds)):
        for t in range(start, end):
            window = []
            for lag in range(order):
                if t - lag >= start:
                    window.append(flat[t - lag])
                elif initial is None:
                    window.append(torch.zeros_like(flat[0]))
                else:
                    window.append(initial[sequence, start - (t - lag) - 1])
            rows.append(weight @ torch.cat(window))
    return torch.stack(rows).unflatten(0, (batch, time))


@st.composite
def cases(draw):
    order = draw(st.integers(2, 4))
    channels, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    if draw(st.booleans()):
        lengths = draw(st.lists(st.sampled_from([0, 1, 2, 5, 30, 47]), min_size=1, max_size=4))
        lengths.append(32 * (order - 1))
        return order, channels, width, 1, sum(lengths), lengths
    batch, time = draw(st.integers(1, 3)), draw(st.integers(8 * (order - 1), 40))
    return order, channels, width, batch, time, None


@given(cases(), st.booleans())
@settings(max_examples=25)
def test_products_over_views_equal_products_over_windows_forward_and_backward(case, with_initial):
    order, channels, width, batch, time, lengths = case
    sequences = batch if lengths is None else len(lengths)
    torch.manual_seed(0)
    hidden = torch.randn(batch, time, channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(width, order * channels, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(sequences, order, channels, dtype=torch.float64, requires_grad=True)
    bounds = list(range(0, batch * time + 1, time))
    cu = None
    if lengths is not None:
        cu = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        bounds = cu.tolist()
    given_initial = initial if with_initial else None
    inputs = [hidden, weight, initial] if with_initial else [hidden, weight]
    want = row_by_row(hidden, given_initial, weight, bounds)
    got = _WindowProduct.apply(hidden, given_initial, weight, cu)
    torch.testing.assert_close(got, want)
    cotangent = torch.randn_like(want)
    torch.testing.assert_close(
        torch.autograd.grad(got, inputs, cotangent), torch.autograd.grad(want, inputs, cotangent)
    )


def test_nothing_of_the_size_of_the_windows_is_made():
    order, channels, time = 4, 16, 400
    hidden = torch.randn(2, time, channels, requires_grad=True)
    weight = torch.randn(3, order * channels, requires_grad=True)
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = window_product(hidden, None, weight)
    assert max(kept) == hidden.numel()
    y.sum().backward()
    assert hidden.grad is not None


def test_states_that_are_part_of_a_wider_tensor_are_read_as_any_others():
    torch.manual_seed(0)
    wider = torch.randn(2, 40, 7, dtype=torch.float64)
    parts = [wider[..., 2:6].requires_grad_(), wider[..., 2:6].contiguous().requires_grad_()]
    weight = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(2, 40, 6, dtype=torch.float64)[..., ::2]
    found = []
    for hidden in parts:
        y = _WindowProduct.apply(hidden, None, weight, None)
        found.append((y, *torch.autograd.grad(y, (hidden, weight), cotangent)))
    torch.testing.assert_close(*found)


def test_second_derivatives_of_the_readout_are_right():
    torch.manual_seed(0)
    hidden = torch.randn(1, 20, 2, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda *x: window_product(*x).tanh(), (hidden, initial, weight))


@pytest.mark.parametrize("transform", ["vmap", "jvp"])
def test_transforms_see_through_the_readout(transform):
    torch.manual_seed(0)
    hidden, weight = torch.randn(3, 2, 30, 4), torch.randn(5, 12)
    if transform == "vmap":
        got = torch.vmap(lambda h: window_product(h, None, weight))(hidden)
        want = torch.stack([window_product(h, None, weight) for h in hidden])
    else:
        _, got = torch.func.jvp(lambda h: window_product(h, None, weight), (hidden[0],), (hidden[1],))
        want = window_product(hidden[1], None, weight)  # the readout is linear
    torch.testing.assert_close(got, want)


def test_a_layer_reads_no_state_of_a_neighbour_even_where_that_is_no_number():
    torch.manual_seed(0)
    layer = HLRU(4, num_channels=3, order=3)
    x = torch.randn(2, 60, 4)
    alone = layer(x[1:])
    x[0, -1] = float("nan")
    torch.testing.assert_close(layer(x)[1:], alone)


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("lengths", [None, (3, 0, 1, 70)], ids=["batch", "packed"])
def test_a_backward_pass_inside_of_autocast_makes_the_products_of_its_forward_pass(lengths, again):
    torch.manual_seed(0)
    batch, time = (2, 40) if lengths is None else (1, sum(lengths))
    cu = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    bounds = range(0, batch * time + 1, time) if cu is None else cu.tolist()
    given = [
        torch.randn(batch, time, 4),
        torch.randn(batch if lengths is None else len(lengths), 3, 4),
        torch.randn(5, 12),
    ]
    found = []
    for dtype, product in (
        (torch.float32, lambda *x: window_product(*x, cu)),
        (torch.float64, lambda *x: row_by_row(*x, bounds)),
    ):
        inputs = [x.to(dtype).requires_grad_() for x in given]
        y = product(*inputs).tanh()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
            gradients = torch.autograd.grad(y.sum(), inputs, create_graph=again)
        if again:
            gradients = torch.autograd.grad(sum(g.square().sum() for g in gradients), inputs)
        found.append(gradients)
    for got, want in zip(*found, strict=True):
        assert relative_error(got, want) < GRADIENT[torch.float32]


@pytest.mark.parametrize("lengths", [(3,), (70,), (3, 0, 1, 70)])
def test_autocast_reads_states_in_its_dtype_at_any_length(lengths):
    torch.manual_seed(0)
    hidden, weight = torch.randn(1, sum(lengths), 4), torch.randn(5, 12)
    cu = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = window_product(hidden, None, weight, cu)
    assert y.dtype == torch.bfloat16
    want = row_by_row(hidden.double(), None, weight.double(), cu.tolist())
    # States, weights and products are rounded, each by 2^-9 of itself.
    assert relative_error(y, want) < 3 * 2**-9


def test_a_compiled_backward_pass_gives_the_gradients_of_the_readout():
    torch._dynamo.reset()
    torch.manual_seed(0)
    hidden = torch.randn(2, 40, 4, requires_grad=True)
    weight = torch.randn(5, 12, requires_grad=True)
    cotangent = torch.randn(2, 40, 5)
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    want = torch.autograd.grad(row_by_row(wide[0], None, wide[1], [0, 40, 80]), wide, cotangent.double())
    y = window_product(hidden, None, weight)
    with compiled_autograd._enable(torch.compile(fullgraph=True, backend="aot_eager")):
        y.backward(cotangent)
    for x, w in zip((hidden, weight), want, strict=True):
        assert relative_error(x.grad, w) < GRADIENT[torch.float32]
