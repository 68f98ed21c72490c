"""The CUDA kernels on a GPU against float64 loops: every promise of the operators' contract."""

import importlib
import itertools
from dataclasses import replace

import pytest
import torch

from statemix.kernels.cuda import configurations, scan
from tests.kernels.cuda import float64_loops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

# Relative errors in the norm. Rounding to 8 or 11 bits alone is an error of at most 2^-8 or 2^-11; float32 coefficients
# that sum to 1 + 1e-7 compound over the steps.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}
STATE_TOLERANCE = 1e-5
NORMALIZATIONS = ("softmax", "sigmoid", "relu", "tanh", "linear", "none")
FAMILIES = ("bdlru", "hlru")


@pytest.fixture(autouse=True)
def outputs_start_as_nan():
    """Every `torch.empty` is filled with NaN: what a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)
    torch.cuda.empty_cache()


def kernels(family):
    return importlib.import_module(f"statemix.kernels.cuda.{family}")


def problem(family, m, batch, steps, width, dtype=torch.bfloat16, *, scale=2.0, logits_batch=None, logits_steps=None,
            states=True, cu_seqlens=None, normalization="softmax"):  # fmt: skip
    """Random arguments of forward; the coefficients of "none" are kept small enough not to explode."""
    rows = (m, m + 1) if family == "bdlru" else (m + 1,)
    blocks = (m,) if family == "bdlru" else ()
    options = {"device": "cuda", "dtype": torch.float32}
    shape = (logits_batch or batch, logits_steps or steps, *rows, width)
    logits = torch.randn(shape, **options) * (0.5 / (m + 1) if normalization == "none" else scale)
    values = torch.randn((batch, steps, *blocks, width), **options)
    cu = None if cu_seqlens is None else torch.tensor(cu_seqlens, dtype=torch.int32, device="cuda")
    count = batch if cu is None else len(cu_seqlens) - 1
    initial = torch.randn((count, m, width), **options) if states else None
    return logits.to(dtype), values.to(dtype), initial, cu, normalization


def check_forward(family, arguments):
    hidden, final = kernels(family).forward(*arguments)
    expected_hidden, expected_final = float64_loops.forward(family, *arguments)
    dtype = arguments[1].dtype
    assert hidden.dtype == dtype and hidden.is_contiguous() and final.dtype == torch.float32
    assert float64_loops.relative_error(hidden, expected_hidden) < TOLERANCE[dtype]
    assert float64_loops.relative_error(final, expected_final) < STATE_TOLERANCE
    return hidden


def check_backward(family, arguments, hidden, grad_hidden="random", grad_final=True, tolerance=None):
    logits, values, initial, cu, normalization = arguments
    if isinstance(grad_hidden, str):
        grad_hidden = torch.randn(values.shape, device="cuda").to(values.dtype)
    count = values.shape[0] if cu is None else len(cu) - 1
    grad_final = (
        torch.randn(count, logits.shape[-2] - 1, values.shape[-1], device="cuda") if grad_final else None
    )
    rest = (hidden, grad_hidden, grad_final, normalization)
    actual = kernels(family).backward(logits, values, initial, cu, *rest)
    expected = float64_loops.backward(family, logits, values, initial, cu, *rest)
    assert actual[0].shape == logits.shape and actual[0].dtype == logits.dtype
    for name, got, want in zip(("logits", "values"), actual, expected, strict=False):
        assert float64_loops.relative_error(got, want) < (tolerance or TOLERANCE[values.dtype]), name
    if initial is None:
        assert actual[2] is None
    else:
        assert float64_loops.relative_error(actual[2], expected[2]) < STATE_TOLERANCE


def check(family, *shape, **keywords):
    backward = {name: keywords.pop(name) for name in ("grad_hidden", "grad_final") if name in keywords}
    arguments = problem(family, *shape, **keywords)
    check_backward(family, arguments, check_forward(family, arguments), **backward)


@pytest.mark.parametrize("family, m", [("bdlru", m) for m in range(1, 17)] + [("hlru", m) for m in (*range(1, 13), 16, 17, 24, 25, 32)])  # fmt: skip
@pytest.mark.parametrize("width", [40, 1024])
def test_every_block_size_and_order(family, m, width):
    check(family, m, 8 if width == 1024 else 2, 37 if width == 1024 else 83, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_normalization_and_dtype(family, m, normalization, dtype):
    check(family, m, 8, 35, 1000, dtype, normalization=normalization)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(
    "family, m", [("bdlru", 5), ("bdlru", 8), ("bdlru", 11), ("bdlru", 16), ("hlru", 16)]
)
def test_every_normalization_with_narrow_rows(family, m, normalization, dtype):
    check(family, m, 2, 70, 48, dtype, normalization=normalization)


@pytest.mark.parametrize("steps", [1, 2, 3, 15, 16, 17, 64, 129])
@pytest.mark.parametrize("width", [1, 7, 8, 30, 33, 64, 65, 72, 100, 200])
@pytest.mark.parametrize("family, m", [("bdlru", 2), ("bdlru", 4), ("hlru", 3), ("hlru", 8)])
def test_lengths_and_widths_that_fill_no_tile(family, m, steps, width):
    check(family, m, 3, steps, width)


@pytest.mark.parametrize("width", [33, 100, 2047])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family, m", [("bdlru", 1), ("bdlru", 4), ("bdlru", 8), ("bdlru", 9), ("hlru", 4)])
def test_rows_that_are_not_aligned(family, m, dtype, width):
    check(family, m, 4, 27, width, dtype)


@pytest.mark.parametrize("states", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 6, 8, 16])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_long_sequence_over_clusters(family, m, states):
    check(family, m, 1, 2500, 64, states=states, grad_final=states)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_composed_maps(normalization, dtype):
    for m, steps, width in ((1, 700, 40), (2, 701, 33), (3, 512, 16), (4, 257, 17), (4, 9, 64), (2, 16, 64)):
        check("bdlru", m, 1, steps, width, dtype, normalization=normalization)


def force(monkeypatch, choose):
    """Runs the kernels that `choose` names, for the arguments of configurations.choose."""
    monkeypatch.setattr(scan, "choose", choose)
    monkeypatch.setattr(scan, "_plans", {})


@pytest.fixture(params=[1, 3, 7], ids=lambda count: f"{count} thread blocks")
def gathered(request, monkeypatch):
    def choose(family, direction, m, dtype, normalization, batch, steps, width, device, **options):
        options["normalization"] = normalization
        candidate = configurations._candidate(family, direction, m, dtype, "gathered", **options)
        assert candidate is not None
        room = device.multiprocessors // (batch * -(-width // candidate.tile))
        return configurations._fit(replace(candidate, cluster=min(request.param, room)), device)

    force(monkeypatch, choose)


@pytest.mark.parametrize("m", range(1, 9))
def test_gathered_maps_of_every_order(gathered, m):
    for batch, steps, width, dtype in (
        (2, 1500 if m < 3 else 700, 33, torch.bfloat16),
        (1, 301, 16, torch.float32),
    ):
        check("hlru", m, batch, steps, width, dtype)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gathered_maps_of_every_normalization_and_dtype(gathered, normalization):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check("bdlru", 1, 1, 700, 40, dtype, normalization=normalization)
        check("hlru", 4, 1, 700, 40, dtype, normalization=normalization)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_gathered_maps_of_short_packed_and_broadcast_problems(gathered, m):
    for steps in (1, 2, 15, 48, 49):
        check("hlru", m, 1, steps, 17)
    check("hlru", m, 1, PACKED[-1], 20, cu_seqlens=PACKED, states=True)
    check("hlru", m, 2, 150, 24, logits_batch=1)
    check("hlru", m, 2, 150, 24, logits_steps=1)


@pytest.mark.parametrize("m", [1, 2, 4, 8, 16])
def test_windows_that_go_round_a_cluster(monkeypatch, m):
    def choose(family, direction, m, dtype, normalization, batch, *rest, **options):
        wide = configurations.choose(family, direction, m, dtype, normalization, 64, *rest, **options)
        return replace(wide, cluster=3)

    force(monkeypatch, choose)
    check("hlru", m, 1, 1100, 64)


def test_gradient_of_the_final_state_alone():
    for family in FAMILIES:
        check(family, 4, 3, 50, 64, grad_hidden=None)
        check(family, 4, 3, 50, 65, grad_hidden=None)


PACKED = [0, 1, 1, 40, 41, 43, 43, 100, 163, 164, 300, 300]


@pytest.mark.parametrize("width", [64, 33])
@pytest.mark.parametrize("states", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("m", [1, 3, 4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_sequences_with_empty_ones(family, m, states, width):
    check(family, m, 1, PACKED[-1], width, cu_seqlens=PACKED, states=states)


@pytest.mark.parametrize("logits_batch, logits_steps", [(1, None), (None, 1), (1, 1)])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(
    "family, m, width", [("bdlru", 1, 64), ("bdlru", 4, 100), ("bdlru", 16, 40), ("hlru", 4, 72)]
)
def test_broadcast_logits(family, m, width, normalization, logits_batch, logits_steps):
    check(
        family,
        m,
        3,
        150,
        width,
        logits_batch=logits_batch,
        logits_steps=logits_steps,
        normalization=normalization,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("states", [False, True], ids=["from zero", "from a state"])
def test_broadcast_logits_of_packed_sequences(family, states):
    check(family, 3, 1, PACKED[-1], 40, cu_seqlens=PACKED, logits_steps=1, states=states)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_with_one_step_of_logits(family):
    check(family, 2, 4, 1, 64, logits_steps=1)
    check(family, 2, 4, 1, 64, logits_batch=1)


def test_logits_that_are_part_of_a_wider_projection_are_not_copied():
    scan.copies.clear()
    batch, steps, m, width = 2, 45, 3, 64
    fused = torch.randn(batch, steps, m * (m + 2) * width, device="cuda").bfloat16()
    logits = fused[..., : m * (m + 1) * width].unflatten(-1, (m, m + 1, width))
    values = fused[..., m * (m + 1) * width :].unflatten(-1, (m, width))
    arguments = (logits, values, None, None, "softmax")
    hidden = check_forward("bdlru", arguments)
    check_backward("bdlru", arguments, hidden)
    grad = torch.randn(steps, batch, m, width, device="cuda").bfloat16().transpose(0, 1)
    check_backward("bdlru", arguments, hidden, grad)
    permuted = torch.randn(batch, steps, m + 1, m, width, device="cuda").bfloat16().transpose(2, 3)
    check_forward("bdlru", (permuted, values, None, None, "softmax"))
    assert not scan.copies


def test_logits_with_a_stride_along_n_are_copied_and_counted():
    scan.copies.clear()
    logits = torch.randn(2, 20, 3, 64, 2, device="cuda").bfloat16()[..., 0].contiguous()
    strided = torch.randn(2, 20, 3, 64, 2, device="cuda").bfloat16()[..., 0]
    values = torch.randn(2, 20, 64, device="cuda").bfloat16()
    check_forward("hlru", (logits, values, None, None, "softmax"))
    assert not scan.copies
    check_forward("hlru", (strided, values, None, None, "softmax"))
    assert scan.copies == {"hlru.forward.gate_logits": 1}


# Of gradients given the stored states: what rounding the output leaves, whatever the gates.
SATURATED_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.5e-3, torch.float16: 4e-4}


_ALL, _TWO = tuple(SATURATED_TOLERANCE), (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    "family, m, batch, steps, width, logits_steps, dtype",
    [
        (*shape, dtype)
        for dtypes, *shape in (  # shapes of the tests above: their kernels are compiled already
            (_ALL, "bdlru", 1, 8, 35, 1000, None),
            (_ALL, "bdlru", 4, 8, 35, 1000, None),
            (_ALL, "bdlru", 8, 8, 35, 1000, None),
            (_ALL, "hlru", 3, 8, 35, 1000, None),
            (_TWO, "bdlru", 8, 2, 70, 48, None),  # two lanes a block
            (_TWO, "bdlru", 11, 2, 70, 48, None),  # and one row absent
            (_TWO, "bdlru", 16, 2, 70, 48, None),
            (_TWO, "hlru", 16, 2, 70, 48, None),
            (_TWO, "bdlru", 3, 1, 512, 16, None),  # composed maps
            (_TWO, "bdlru", 4, 1, 257, 17, None),
            (_TWO, "bdlru", 4, 3, 40, 100, 1),  # logits that all steps share
            (_TWO, "hlru", 4, 3, 40, 72, 1),
        )
        for dtype in dtypes
    ],
)
@pytest.mark.parametrize("normalization", NORMALIZATIONS[:-1])  # unnormalized rows would explode
def test_saturated_gates(family, m, batch, steps, width, logits_steps, normalization, dtype):
    """One logit leads by 12: states survive, and gradients are differences of nearly equal numbers."""
    arguments = list(
        problem(family, m, batch, steps, width, scale=0.1, logits_steps=logits_steps, dtype=torch.float32)
    )
    logits, values = arguments[:2]
    leader = torch.randint(0, m + 1, (*logits.shape[:-2], 1, width), device="cuda")
    gap = torch.full(leader.shape, 12.0, device="cuda")
    if normalization in ("tanh", "linear"):
        gap *= torch.randint(0, 2, gap.shape, device="cuda") * 2 - 1
    logits += gap * (torch.arange(m + 1, device="cuda").unsqueeze(-1) == leader)
    if normalization == "sigmoid":
        logits -= 6
    arguments[:2] = logits.to(dtype), values.to(dtype)
    arguments[4] = normalization
    hidden = check_forward(family, arguments)
    # Gradients are as small as exp(-12): scaled as in training, else they are subnormal in float16.
    grad = (256 * torch.randn_like(values)).to(dtype)
    check_backward(family, arguments, hidden, grad, tolerance=SATURATED_TOLERANCE[dtype])


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", ["logits", "values", "initial"])
@pytest.mark.parametrize("width", [64, 33])
def test_nan_reaches_only_what_depends_on_it(family, normalization, where, width):
    batch, steps, m = 3, 75, 2
    arguments = problem(family, m, batch, steps, width, normalization=normalization)
    logits, values, initial, _, _ = arguments
    clean_hidden, clean_final = kernels(family).forward(*arguments)
    if where == "logits":
        logits[1, 33, ..., 5] = float("nan")
    elif where == "values":
        values[1, 33, ..., 5] = float("nan")
    else:
        initial[1, :, 5] = float("nan")
    hidden, final = kernels(family).forward(*arguments)
    affected = torch.zeros_like(hidden, dtype=torch.bool)
    affected[1, 0 if where == "initial" else 33 :, ..., 5] = True
    assert torch.equal(hidden[~affected], clean_hidden[~affected])
    first = hidden[1, 0 if where == "initial" else 33, ..., 5]
    assert torch.isnan(first).all()
    other = torch.ones_like(final, dtype=torch.bool)
    other[1, :, 5] = False
    assert torch.equal(final[other], clean_final[other])
    grad = torch.randn_like(values)
    dz, dv, dh = kernels(family).backward(
        logits, values, initial, None, torch.nan_to_num(hidden), grad, torch.randn_like(final), normalization
    )
    for gradient in (dz, dv, dh):
        elsewhere = torch.ones_like(gradient, dtype=torch.bool)
        elsewhere[1, ..., 5] = False
        assert torch.isfinite(gradient[elsewhere]).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_logits_of_minus_infinity_are_exact_zeros(family):
    for normalization in ("softmax", "sigmoid", "relu"):
        arguments = list(problem(family, 3, 2, 40, 64, torch.float32, normalization=normalization))
        arguments[0][..., 1, :] = float("-inf")
        hidden = check_forward(family, arguments)
        rest = (hidden, torch.randn_like(arguments[1]), None, normalization)
        dz, _, _ = kernels(family).backward(*arguments[:4], *rest)
        assert (dz[..., 1, :] == 0).all()
        assert torch.isfinite(dz).all()


@pytest.mark.parametrize("normalization", ["relu", "tanh", "linear"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_zero_logits(family, normalization):
    arguments = list(problem(family, 2, 2, 40, 64, torch.float32, normalization=normalization))
    arguments[0][:, 5] = 0
    check_backward(family, arguments, check_forward(family, arguments))


@pytest.mark.parametrize("family", FAMILIES)
def test_extreme_logits_of_sigmoid(family):
    arguments = list(problem(family, 2, 2, 40, 64, torch.float32, normalization="sigmoid"))
    arguments[0][:, 3:9] -= 300
    arguments[0][:, 12:20] += 300
    check_backward(family, arguments, check_forward(family, arguments))


@pytest.mark.parametrize("family, m, batch, steps, width", [("bdlru", 4, 8, 400, 1024), ("bdlru", 4, 1, 400, 128), ("bdlru", 8, 4, 400, 64), ("hlru", 4, 8, 400, 512), ("hlru", 4, 1, 8000, 256), ("bdlru", 1, 1, 8000, 256)])  # fmt: skip
def test_a_hundred_runs_give_the_same_bits(family, m, batch, steps, width):
    arguments = problem(family, m, batch, steps, width)
    logits, values, initial, cu, name = arguments
    hidden, final = kernels(family).forward(*arguments)
    grad, grad_final = torch.randn_like(values), torch.randn_like(final)
    first = kernels(family).backward(logits, values, initial, cu, hidden, grad, grad_final, name)
    for _ in range(100):
        again = kernels(family).forward(*arguments)
        gradients = kernels(family).backward(logits, values, initial, cu, hidden, grad, grad_final, name)
        for a, b in zip((hidden, final, *first), (*again, *gradients), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_equal_the_whole(family):
    arguments = problem(family, 4, 2, 60, 64, torch.float32)
    logits, values, state, _, name = arguments
    whole, final = kernels(family).forward(*arguments)
    cuts, pieces = [0, 1, 2, 30, 33, 60], []
    for a, b in itertools.pairwise(cuts):
        piece, state = kernels(family).forward(logits[:, a:b], values[:, a:b], state, None, name)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state, final, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family, m, batch, steps", [("bdlru", 2, 2, 100), ("hlru", 2, 1, 5000)])
def test_a_launch_can_be_captured_in_a_graph(family, m, batch, steps):
    arguments = problem(family, m, batch, steps, 64)
    expected, _ = kernels(family).forward(*arguments)
    graph = torch.cuda.CUDAGraph()
    torch.use_deterministic_algorithms(False)
    with torch.cuda.graph(graph):
        hidden, _ = kernels(family).forward(*arguments)
    for _ in range(3):
        hidden.fill_(float("nan"))
        graph.replay()
        assert torch.equal(hidden, expected)


def test_thread_blocks_that_wait_for_each_other_do_so_on_many_streams_at_once():
    arguments = problem("hlru", 2, 1, 5000, 256)
    device = scan.launch.device_properties(0)
    chosen = configurations.choose("hlru", "forward", 2, "bfloat16", "softmax", 1, 5000, 256, device)
    assert chosen.gathers and chosen.cluster > device.multiprocessors // 32  # no two of them fit the device
    expected, _ = kernels("hlru").forward(*arguments)
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    results = []
    for turn in range(40):
        with torch.cuda.stream(streams[turn % 4]):
            results.append(kernels("hlru").forward(*arguments)[0])
    torch.cuda.synchronize()
    assert all(torch.equal(hidden, expected) for hidden in results)
