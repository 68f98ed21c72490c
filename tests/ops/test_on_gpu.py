"""The same promises on a GPU, through the public operators and layers."""

import threading

import pytest
import torch

from statemix import BDLRU, HLRU, backend_for, kernel_counts, reset_kernel_counts
from tests import tolerances
from tests.ops.cases import FAMILIES, NORMALIZATIONS, OPERATORS, Shape, inputs
from tests.truth import relative_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
each_family = pytest.mark.parametrize("family", FAMILIES)
SHAPES = {
    "plain": Shape(3, 50, 4, 64),
    "odd": Shape(2, 37, 3, 31),
    "broadcast": Shape(2, 21, 2, 33, None, (True, True)),
    "packed": Shape(1, 40, 3, 32, (7, 0, 1, 32)),
    "one step": Shape(5, 1, 2, 16),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def on_gpu(tensors, dtype=None, grad=True):
    moved = []
    for tensor in tensors:
        wide = dtype is not None and tensor.dtype == torch.float64
        moved.append(tensor.detach().to("cuda", dtype if wide else None).requires_grad_(grad))
    return moved


def compare(family, shape, dtype, normalization="softmax"):
    scale = 0.3 if normalization == "none" else 2.0
    exact = on_gpu(inputs(family, shape, dtype, scale=scale))
    exact = [x.detach().double().requires_grad_() for x in exact]
    given = on_gpu(inputs(family, shape, dtype, scale=scale))
    bounds = None if shape.cu_seqlens is None else shape.cu_seqlens.cuda()
    options = {"normalization": normalization, "cu_seqlens": bounds}
    got = OPERATORS[family](*given, **options, backend="cuda")
    want = OPERATORS[family](*exact, **options, backend="reference")
    cotangents = [torch.randn_like(g) for g in got]
    grads = torch.autograd.grad(got, given, cotangents)
    want_grads = torch.autograd.grad(want, exact, [c.double() for c in cotangents])
    limits = [tolerances.FORWARD[dtype] * 1.3, 1e-5, *[tolerances.GRADIENT[dtype]] * 3]
    for g, w, limit in zip((*got, *grads), (*want, *want_grads), limits, strict=True):
        assert g.shape == w.shape
        assert relative_error(g, w) < limit


@each_family
@each_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gpu_agrees_with_a_float64_loop(family, shape, dtype):
    compare(family, shape, dtype)


@each_family
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_every_normalization_agrees_on_the_gpu(family, normalization):
    compare(family, SHAPES["odd"], torch.float32, normalization)


@each_family
def test_auto_takes_the_gpu_kernels_and_a_counter_says_so(family):
    given = on_gpu(inputs(family, SHAPES["plain"], torch.bfloat16))
    assert backend_for(given[1], family=family, order_or_block_size=4) == "cuda"
    reset_kernel_counts()
    OPERATORS[family](*given)[0].sum().backward()
    assert kernel_counts() == {f"{family}.forward.cuda": 1, f"{family}.backward.cuda": 1}


@each_family
def test_float64_takes_the_reference_with_one_warning(family):
    given = on_gpu(inputs(family, Shape(1, 4, 2, 3)))
    with pytest.warns(RuntimeWarning, match="slow reference"):
        hidden, _ = OPERATORS[family](*given)
    assert hidden.dtype == torch.float64


@each_family
def test_forward_mode_and_second_derivatives_run_on_the_gpu_kernels(family):
    shape = Shape(2, 9, 3, 32)
    given = on_gpu(inputs(family, shape, torch.float32))
    exact = [x.detach().double().requires_grad_() for x in given]

    def loss(backend):
        return lambda *t: sum(x.square().sum() for x in OPERATORS[family](*t, backend=backend))

    got = torch.func.jvp(loss("cuda"), tuple(given), tuple(given))[1]
    want = torch.func.jvp(loss("reference"), tuple(exact), tuple(exact))[1]
    assert relative_error(got, want) < 1e-4
    grads = torch.autograd.grad(loss("cuda")(*given), given, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in grads), given)
    grads = torch.autograd.grad(loss("reference")(*exact), exact, create_graph=True)
    want_second = torch.autograd.grad(sum(g.square().sum() for g in grads), exact)
    for g, w in zip(second, want_second, strict=True):
        assert relative_error(g, w) < 1e-4


@each_family
@pytest.mark.parametrize("state", [True, False])
def test_compiled_whole_graphs_equal_eager_on_the_gpu(family, state):
    torch._dynamo.reset()
    given = [x for x in inputs(family, SHAPES["plain"], torch.bfloat16, state=state) if x is not None]
    given = on_gpu(given)

    def loss(*tensors):
        return sum(x.float().square().sum() for x in OPERATORS[family](*tensors))

    want = torch.autograd.grad(loss(*given), given)
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*given), given)
    for g, w in zip(got, want, strict=True):
        assert relative_error(g, w) < 1e-2


@each_family
def test_a_cuda_graph_replays_the_operator_on_new_values(family):
    given = on_gpu(inputs(family, SHAPES["plain"], torch.bfloat16), grad=False)
    OPERATORS[family](*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        hidden, final = OPERATORS[family](*given)
    given[1].normal_()
    graph.replay()
    want = OPERATORS[family](*given)
    assert torch.equal(hidden, want[0])
    assert torch.equal(final, want[1])


@each_family
def test_streams_run_side_by_side(family):
    given = on_gpu(inputs(family, SHAPES["plain"], torch.bfloat16), grad=False)
    want = OPERATORS[family](*given)
    torch.cuda.synchronize()
    results = []
    for _ in range(4):
        with torch.cuda.stream(torch.cuda.Stream()):
            results.append(OPERATORS[family](*given))
    torch.cuda.synchronize()
    assert all(torch.equal(h, want[0]) and torch.equal(f, want[1]) for h, f in results)


@each_family
def test_packed_sequences_run_on_the_gpu_in_inference_mode(family):
    shape = SHAPES["packed"]
    given = on_gpu(inputs(family, shape), torch.float32, grad=False)
    want = OPERATORS[family](*given, cu_seqlens=shape.cu_seqlens.cuda())
    with torch.inference_mode():
        bounds = shape.cu_seqlens.cuda()
        for _ in range(2):  # read once, then known
            got = OPERATORS[family](*given, cu_seqlens=bounds)
            assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


@each_family
def test_wrong_boundaries_on_the_gpu_are_refused(family):
    given = on_gpu(inputs(family, Shape(1, 16, 2, 8), torch.float32, state=True), grad=False)
    bounds = torch.tensor([0, 9, 5, 16], dtype=torch.int32, device="cuda")
    with pytest.raises(ValueError, match="never fall"):
        OPERATORS[family](given[0], given[1], cu_seqlens=bounds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [5, 31, 100, 146])
@pytest.mark.parametrize("make", [
    lambda n: BDLRU(64, num_blocks=n, block_size=3, initial_state="learned"),
    lambda n: HLRU(64, num_channels=n, order=3, initial_state="learned"),
    lambda n: BDLRU(64, num_blocks=n, block_size=2, selective=False),
])  # fmt: skip
def test_layers_of_any_size_agree_with_the_cpu(make, columns, dtype):
    torch.manual_seed(0)
    layer = make(columns)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    layer = layer.to("cuda", dtype)
    x = torch.randn(2, 33, 64, device="cuda", dtype=dtype)
    mask = torch.rand(2, 33, device="cuda") > 0.3
    layer.backend = "reference"
    exact = layer.double()
    want = exact(x.double())
    want_masked, want_state = exact(x.double(), mask=mask, return_state=True)
    layer = layer.to(dtype)
    layer.backend = "cuda"
    limit = 2e-2 if dtype == torch.bfloat16 else 1e-3  # products in tf32 or bfloat16
    assert relative_error(layer(x), want) < limit
    got_masked, state = layer(x, mask=mask, return_state=True)
    assert relative_error(got_masked, want_masked) < limit
    assert (got_masked[~mask] == 0).all()
    assert relative_error(state, want_state) < limit
    state, steps = None, []
    for t in range(8):
        y, state = layer.step(x[:, t], state)
        steps.append(y)
    assert relative_error(torch.stack(steps, 1), want[:, :8]) < limit


def test_a_layer_trains_under_autocast_on_the_gpu():
    torch.manual_seed(0)
    layer = BDLRU(64, num_blocks=48, block_size=4, initial_state="learned").cuda()
    x = torch.randn(2, 64, 64, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y, state = layer(x, return_state=True)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in layer.parameters())


@each_family
def test_a_thread_that_never_touched_the_gpu_can_run_the_operator(family):
    given = on_gpu(inputs(family, SHAPES["plain"], torch.bfloat16), grad=False)
    want = OPERATORS[family](*given)
    del want
    results = []

    def run():
        results.append(OPERATORS[family](*given))  # its outputs lie in memory that PyTorch kept

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    want = OPERATORS[family](*given)
    assert all(torch.equal(g, w) for g, w in zip(results[0], want, strict=True))
