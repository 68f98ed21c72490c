"""Two products of one input: what two linear layers give, with one gradient of the input."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo import compiled_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from statemix.nn.projection import two_products

size = st.integers(1, 7)


@given(st.tuples(size, size, size, size, size), st.booleans(), st.booleans())
def test_values_and_gradients_equal_those_of_two_linear_layers(sizes, with_bias, joined):
    batch, time, width, one, other = sizes
    torch.manual_seed(0)
    shapes = [(batch, time, width), (one, width), (one,), (other, width)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    x, first, bias, second = inputs
    given_bias = bias if with_bias else None
    found = two_products(x, first, given_bias, second, joined=joined)
    truth = F.linear(x, first, given_bias), F.linear(x, second)
    weights = [torch.randn_like(y) for y in truth]

    def gradients(outputs):
        loss = sum((y * w).sum() for y, w in zip(outputs, weights, strict=True))
        return torch.autograd.grad(loss, inputs, allow_unused=True)

    for one_value, other_value in zip(found, truth, strict=True):
        torch.testing.assert_close(one_value, other_value)
    for a, b in zip(gradients(found), gradients(truth), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("joined", [False, True])
def test_it_can_be_differentiated_twice(joined):
    torch.manual_seed(0)
    shapes = [(2, 3, 4), (5, 4), (5,), (3, 4)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    products = partial(two_products, joined=joined)
    assert torch.autograd.gradcheck(products, inputs)
    assert torch.autograd.gradgradcheck(products, inputs)


class Products(TorchDispatchMode):
    """The shapes of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            self.shapes.append(tuple(found.shape))
        return found


@pytest.mark.parametrize("lie_together", [False, True])
def test_joined_products_have_one_gradient_of_both_weights_where_gradients_lie_together(lie_together):
    torch.manual_seed(0)
    shapes = [(2, 3, 4), (5, 4), (5,), (6, 4)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    one, other = two_products(*inputs, joined=True)
    assert one.stride() == other.stride() == (33, 11, 1)
    assert other.data_ptr() == one.data_ptr() + 5 * one.element_size()
    cotangents = torch.randn(2, 3, 11, dtype=torch.float64).split((5, 6), 2)
    if not lie_together:
        cotangents = [part.contiguous() for part in cotangents]
    with Products() as products:
        found = torch.autograd.grad((one, other), inputs, cotangents)
    assert products.shapes == ([(6, 4), (11, 4)] if lie_together else [(6, 4), (6, 4), (5, 4), (6, 4)])
    wanted = torch.autograd.grad(two_products(*inputs), inputs, cotangents)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("joined", [False, True])
def test_many_gradients_at_once_are_those_of_each_alone(joined):
    torch.manual_seed(0)
    shapes = [(2, 3, 4), (5, 4), (5,), (3, 4)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    outputs = two_products(*inputs, joined=joined)
    cotangents = [torch.randn(3, *y.shape, dtype=torch.float64) for y in outputs]
    together = torch.autograd.grad(outputs, inputs, cotangents, is_grads_batched=True, retain_graph=True)
    for i, pair in enumerate(zip(*cotangents, strict=True)):
        alone = torch.autograd.grad(outputs, inputs, pair, retain_graph=True)
        torch.testing.assert_close([gradient[i] for gradient in together], list(alone))


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_makes_both_products_in_its_format_and_keeps_gradients_of_weights_wide(dtype, joined):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, dtype=dtype)
    weights = [torch.randn(shape, requires_grad=True) for shape in ((5, 4), (5,), (3, 4))]
    with torch.autocast("cpu", torch.bfloat16):
        found = two_products(x, *weights, joined=joined)
        truth = F.linear(x, *weights[:2]), F.linear(x, weights[2])
    assert all(torch.equal(a, b) and a.dtype == torch.bfloat16 for a, b in zip(found, truth, strict=True))
    gradients = torch.autograd.grad(sum(y.float().square().sum() for y in found), weights)
    assert all(g.dtype == torch.float32 for g in gradients)


def test_autocast_leaves_float64_as_it_is():
    x, first, second = (torch.randn(s, dtype=torch.float64) for s in ((2, 3, 4), (5, 4), (3, 4)))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(y.dtype == torch.float64 for y in two_products(x, first, None, second))


@pytest.mark.parametrize("joined", [False, True])
def test_a_compiled_backward_pass_gives_the_same_gradients(joined):
    torch._dynamo.reset()
    torch.manual_seed(0)
    given = [torch.randn(*s, requires_grad=True) for s in ((2, 5, 4), (6, 4), (6,), (3, 4))]
    cotangents = torch.randn(2, 5, 9).split((6, 3), -1)  # parts of one row, as a scan gives them back
    products = two_products(*given, joined=joined)
    with compiled_autograd._enable(torch.compile(fullgraph=True, backend="aot_eager")):
        torch.autograd.backward(products, cotangents)
    wide = [x.detach().double().requires_grad_() for x in given]
    x, first, bias, second = wide
    want = torch.autograd.grad(
        (x @ first.T + bias, x @ second.T), wide, tuple(c.double() for c in cotangents)
    )
    for got, w in zip(given, want, strict=True):
        torch.testing.assert_close(got.grad.double(), w, rtol=1e-5, atol=1e-5)


def test_transforms_see_plain_operations():
    torch.manual_seed(0)
    x, first, bias, second = (torch.randn(shape) for shape in ((6, 2, 3, 4), (5, 4), (5,), (3, 4)))
    mapped = torch.vmap(lambda row: two_products(row, first, bias, second))(x)
    for a, b in zip(mapped, two_products(x, first, bias, second), strict=True):
        torch.testing.assert_close(a, b)
    _, tangent = torch.func.jvp(lambda w: two_products(x, w, bias, second)[0], (first,), (first,))
    torch.testing.assert_close(tangent, F.linear(x, first))
