"""The operators compose with autograd, torch.func, compilers and exporters."""

from contextlib import nullcontext

import pytest
import torch
from torch._dynamo import compiled_autograd
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.library import opcheck

from statemix.ops.dispatch import warn_once
from tests.ops.cases import BACKENDS, FAMILIES, OPERATORS, Shape, inputs
from tests.truth import relative_error

each_family = pytest.mark.parametrize("family", FAMILIES)
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_normalization = pytest.mark.parametrize(
    "normalization", ["softmax", "sigmoid", "tanh", "linear", "none"]
)
SHAPES = {
    "plain": Shape(2, 5, 3, 3),
    "broadcast": Shape(2, 5, 3, 3, None, (True, True)),
    "packed": Shape(1, 5, 3, 3, (1, 0, 4)),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def operator(family, backend, **options):
    return lambda *tensors: OPERATORS[family](*tensors, backend=backend, **options)


@each_family
@each_backend
@each_shape
def test_first_derivatives_agree_with_finite_differences_both_ways(family, backend, shape):
    given = inputs(family, shape, grad=True)
    function = operator(family, backend, cu_seqlens=shape.cu_seqlens)
    assert gradcheck(
        function, given, check_forward_ad=True, check_batched_grad=shape.lengths is None, fast_mode=True
    )


@each_family
@each_backend
@each_normalization
def test_forward_mode_holds_for_every_normalization(family, backend, normalization):
    given = inputs(family, SHAPES["plain"], scale=1.0, grad=True)
    assert gradcheck(
        operator(family, backend, normalization=normalization), given, check_forward_ad=True, fast_mode=True
    )


@each_family
@each_backend
@each_shape
def test_second_derivatives_agree_with_finite_differences(family, backend, shape):
    given = inputs(family, shape, grad=True)
    function = operator(family, backend, cu_seqlens=shape.cu_seqlens)
    assert gradgradcheck(function, given, check_fwd_over_rev=True, fast_mode=True)


@each_family
@each_backend
@each_normalization
def test_double_backward_holds_for_every_normalization(family, backend, normalization):
    given = inputs(family, SHAPES["plain"], scale=1.0, grad=True)
    assert gradgradcheck(operator(family, backend, normalization=normalization), given, fast_mode=True)


def loss_of(family, backend, **options):
    def loss(*tensors):
        return sum(x.square().sum() for x in OPERATORS[family](*tensors, backend=backend, **options))

    return loss


@each_family
@each_backend
def test_func_grad_and_vmap_equal_autograd(family, backend):
    given = inputs(family, SHAPES["plain"], grad=True)
    loss = loss_of(family, backend)
    want = torch.autograd.grad(loss(*given), given)
    got = torch.func.grad(loss, (0, 1, 2))(*given)
    for g, w in zip(got, want, strict=True):
        assert relative_error(g, w) < 1e-11
    stacked = torch.stack([given[1], 2 * given[1]]).detach()
    mapped = torch.func.vmap(torch.func.grad(loss, 1), (None, 0, None))(given[0], stacked, given[2])
    for m, values in zip(mapped, stacked, strict=True):
        assert relative_error(m, torch.func.grad(loss, 1)(given[0], values, given[2])) < 1e-11


@each_family
@each_backend
@pytest.mark.parametrize("gates", [(False, False), (True, True)])
def test_vmap_over_any_argument_equals_a_loop(family, backend, gates):
    shape = Shape(2, 4, 2, 3, None, gates)
    one, two = (inputs(family, shape, seed=seed) for seed in (1, 2))
    for in_dims in [(0, None, None), (None, 0, 0), (0, 0, 0), (0, 0, None)]:
        stacked = [torch.stack([a, b]) if d == 0 else a for a, b, d in zip(one, two, in_dims, strict=True)]
        got = torch.func.vmap(operator(family, backend), in_dims)(*stacked)
        for i, source in enumerate((one, two)):
            arguments = [s if d == 0 else o for s, o, d in zip(source, one, in_dims, strict=True)]
            for g, w in zip(got, OPERATORS[family](*arguments, backend=backend), strict=True):
                assert relative_error(g[i], w) < 1e-12


@each_family
@each_backend
@pytest.mark.parametrize("empty", ["batch", "time"])
@pytest.mark.parametrize("gates", [(False, False), (True, True)])
def test_a_jacobian_of_no_outputs_has_its_shape(family, backend, empty, gates):
    shape = Shape(0, 3, 2, 2, None, gates) if empty == "batch" else Shape(2, 0, 2, 2, None, gates)
    given = inputs(family, shape)
    run = operator(family, backend)
    jacobians = torch.func.jacrev(lambda *tensors: run(*tensors)[0], (0, 1, 2))(*given)
    assert [j.shape for j in jacobians] == [(*given[1].shape, *g.shape) for g in given]


@each_family
@each_backend
@each_shape
def test_nothing_to_map_over_gives_nothing_of_the_right_shape(family, backend, shape):
    given = inputs(family, shape)
    run = operator(family, backend, cu_seqlens=shape.cu_seqlens)
    got = torch.func.vmap(run)(*(g.expand(0, *g.shape) for g in given))
    assert [g.shape for g in got] == [(0, *w.shape) for w in run(*given)]


@each_family
@each_backend
def test_a_hessian_is_the_same_forward_over_reverse_and_reverse_over_reverse(family, backend):
    logits, values, initial = inputs(family, Shape(1, 3, 2, 2))
    loss = loss_of(family, backend)
    mixed = torch.func.jacfwd(torch.func.jacrev(lambda z: loss(z, values, initial)))(logits)
    reverse = torch.func.jacrev(torch.func.jacrev(lambda z: loss(z, values, initial)))(logits)
    assert mixed.abs().max() > 1e-3
    assert relative_error(mixed, reverse) < 1e-10


@each_family
@each_backend
def test_forward_mode_through_a_backward_is_never_silently_zero(family, backend):
    logits, values, initial = inputs(family, Shape(1, 4, 2, 2), grad=True)
    loss = loss_of(family, backend)
    direction = torch.randn_like(values)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(values.detach(), direction)
        dual_out = loss(logits, dual, initial)
        tangent = forward_ad.unpack_dual(dual_out).tangent
    (grad,) = torch.autograd.grad(loss(logits, values, initial), values)
    assert relative_error(tangent, (grad * direction).sum()) < 1e-10


@each_family
@each_backend
def test_forward_mode_inside_of_forward_mode_is_never_silently_zero(family, backend):
    warn_once.cache_clear()
    logits, values, initial = inputs(family, Shape(1, 3, 2, 2))
    loss = loss_of(family, backend)

    def of_values(x):
        return loss(logits, x, initial)

    reverse = torch.func.jacrev(torch.func.jacrev(of_values))(values)
    slow = pytest.warns(RuntimeWarning, match="forward mode inside of forward mode .* slow reference")
    with slow if backend != "reference" else nullcontext():
        forward = torch.func.jacfwd(torch.func.jacfwd(of_values))(values)
    assert relative_error(forward, reverse) < 1e-10

    def mixed(y):  # one direction comes through the logits, the other through the values
        return torch.func.jvp(lambda x: loss(x, y, initial), (logits,), (logits,))[1]

    along = torch.func.jvp(mixed, (values,), (values,))[1]
    gradient = torch.func.grad(lambda y: (torch.func.grad(loss)(logits, y, initial) * logits).sum())(values)
    assert relative_error(along, (gradient * values).sum()) < 1e-10


@each_family
@each_backend
@pytest.mark.parametrize("lengths", [None, (0, 0)], ids=["plain", "packed"])
def test_no_steps_have_derivatives_of_any_order(family, backend, lengths):
    shape = Shape(1 if lengths else 2, 0, 3, 2, lengths)
    given = inputs(family, shape, grad=True)
    function = operator(family, backend, cu_seqlens=shape.cu_seqlens)
    assert gradcheck(function, given, check_forward_ad=True)
    assert gradgradcheck(function, given, check_fwd_over_rev=True)
    hidden, _ = function(*given)
    assert [g.shape for g in torch.autograd.grad(hidden.sum(), given[:2])] == [g.shape for g in given[:2]]


@each_family
@each_backend
def test_compiled_whole_graphs_equal_eager_with_gradients_and_new_lengths(family, backend):
    torch._dynamo.reset()
    loss = loss_of(family, backend)
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for T in (3, 8):
        given = inputs(family, Shape(2, T, 2, 3), grad=True)
        want = torch.autograd.grad(loss(*given), given)
        got = torch.autograd.grad(compiled(*given), given)
        for g, w in zip(got, want, strict=True):
            assert relative_error(g, w) < 1e-12


@each_family
# torch looks there while it makes fake tensors of those that were saved.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_backward_pass_that_is_compiled_gives_the_same_gradients(family):
    torch._dynamo.reset()
    shape = SHAPES["packed"]
    given = inputs(family, shape, grad=True)
    loss = loss_of(family, "cpu", cu_seqlens=shape.cu_seqlens)
    want = torch.autograd.grad(loss(*given), given)
    with compiled_autograd._enable(torch.compile(fullgraph=True, backend="aot_eager")):
        loss(*given).backward()
    for tensor, gradient in zip(given, want, strict=True):
        assert relative_error(tensor.grad, gradient) < 1e-12


REVERSE_MODES = {
    "grad": torch.func.grad,
    "grad of each row": lambda loss: torch.func.vmap(
        torch.func.grad(lambda logits: loss(logits[None])), randomness="error"
    ),
    "grad of grad": lambda loss: torch.func.grad(lambda z: torch.func.grad(loss)(z).square().sum()),
    "hessian": lambda loss: torch.func.jacrev(torch.func.jacrev(loss)),
}
each_reverse_mode = pytest.mark.parametrize("mode", REVERSE_MODES.values(), ids=REVERSE_MODES)


@each_family
@each_reverse_mode
@pytest.mark.parametrize("way", ["compiled", "registered"])
def test_reverse_modes_of_func_are_right_where_an_operator_is_compiled_or_called(family, mode, way):
    torch._dynamo.reset()
    logits, values, initial = inputs(family, Shape(1, 3, 2, 2))
    registered = getattr(torch.ops.statemix, f"{family}_scan_forward").default

    def loss_through(scan):
        def loss(z):
            hidden, final = scan(z)
            return hidden.square().sum() + final.sin().sum()

        return loss

    truth = loss_through(lambda z: OPERATORS[family](z, values, initial, backend="reference"))
    if way == "compiled":
        run = mode(loss_through(lambda z: OPERATORS[family](z, values, initial, backend="cpu")))
        run = torch.compile(run, fullgraph=True, backend="aot_eager")
    else:
        run = mode(loss_through(lambda z: registered(z, values, initial, None, "softmax", "cpu")))
    # In float64 the reference is a loop of differentiable operations, of which PyTorch knows the derivatives.
    want = mode(truth)(logits)
    assert want.abs().max() > 1e-3
    assert relative_error(run(logits), want) < 1e-10


@each_family
def test_derivatives_go_on_through_a_gradient_that_was_compiled(family):
    torch._dynamo.reset()
    logits, values, initial = inputs(family, Shape(1, 3, 2, 2), grad=True)
    gradient = torch.func.grad(loss_of(family, "cpu"))
    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    truth = torch.func.grad(loss_of(family, "reference"))
    got, want = (
        torch.autograd.grad(take(logits, values, initial).square().sum(), (logits, values, initial))
        for take in (compiled, truth)
    )
    for g, w in zip(got, want, strict=True):
        assert relative_error(g, w) < 1e-10


@each_family
def test_forward_mode_of_a_registered_operator_is_refused_with_what_to_do(family):
    logits, values, initial = inputs(family, Shape(1, 3, 2, 2))
    registered = getattr(torch.ops.statemix, f"{family}_scan_forward").default

    def loss(z):
        return registered(z, values, initial, None, "softmax", "cpu")[0].square().sum()

    for transform in (torch.func.jacfwd, torch.func.hessian):
        with pytest.raises(NotImplementedError, match="take reverse mode"):
            transform(loss)(logits)


@each_family
def test_compiled_packed_sequences_equal_eager(family):
    torch._dynamo.reset()
    shape = SHAPES["packed"]
    given = inputs(family, shape)

    def function(*tensors):
        return OPERATORS[family](*tensors, cu_seqlens=shape.cu_seqlens, backend="cpu")

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for g, w in zip(compiled(*given), function(*given), strict=True):
        assert torch.equal(g, w)


@each_family
@each_backend
def test_an_exported_program_runs_at_another_length(family, backend):
    class Module(torch.nn.Module):
        def forward(self, logits, values):
            return OPERATORS[family](logits, values, backend=backend)

    logits, values, _ = inputs(family, Shape(2, 6, 2, 3), state=False)
    time = torch.export.Dim("time", min=2, max=4096)
    program = torch.export.export(
        Module(), (logits, values), dynamic_shapes={"logits": {1: time}, "values": {1: time}}
    )
    longer = inputs(family, Shape(2, 11, 2, 3), state=False)[:2]
    for g, w in zip(program.module()(*longer), Module()(*longer), strict=True):
        assert torch.equal(g, w)


@each_family
@each_backend
@each_shape
def test_the_registered_operators_pass_opcheck(family, backend, shape):
    logits, values, initial = inputs(family, shape, grad=True)
    forward = getattr(torch.ops.statemix, f"{family}_scan_forward").default
    backward = getattr(torch.ops.statemix, f"{family}_scan_backward").default
    opcheck(forward, (logits, values, initial, shape.cu_seqlens, "softmax", backend))
    hidden, final = forward(logits, values, initial, shape.cu_seqlens, "softmax", backend)
    grads = torch.randn_like(hidden), torch.randn_like(final)
    opcheck(
        backward,
        (logits, values, initial, shape.cu_seqlens, hidden.detach(), *grads, "softmax", backend),
    )


@each_family
@each_backend
def test_the_same_inputs_give_the_same_bits(family, backend):
    given = inputs(family, Shape(3, 40, 3, 33, None, (True, True)), torch.float32, grad=True)

    def run():
        out = OPERATORS[family](*given, backend=backend)
        return (*out, *torch.autograd.grad(sum(o.square().sum() for o in out), given))

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))


@each_family
def test_fake_tensors_pass_through_without_a_kernel(family):
    logits, values, initial = (x.to("meta") for x in inputs(family, Shape(2, 6, 2, 3), torch.bfloat16))
    hidden, final = OPERATORS[family](logits, values, initial)
    assert hidden.is_meta
    assert hidden.dtype == torch.bfloat16
    assert final.dtype == torch.float32
