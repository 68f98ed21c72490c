"""The CPU kernels against a float64 loop that shares no code with them."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from time import sleep

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from statemix.kernels.cpu import _layout, _memory, _scan, _threads, bdlru, hlru
from statemix.kernels.cpu._cache import KernelFiles
from tests import truth

KERNELS = {"bdlru": bdlru, "hlru": hlru}
FAMILIES = tuple(KERNELS)
NORMALIZATIONS = ("softmax", "sigmoid", "relu", "tanh", "linear", "none")
BOUNDED = NORMALIZATIONS[:-1]
WIDTHS = (1, 3, 15, 16, 17, 31, 33, 64, 130)
# Sizes up to 4 have kernels of their own and all larger ones share one: a few of each suffice.
SIZES = {
    torch.float32: (1, 2, 9),
    torch.float64: (1, 9),
    torch.bfloat16: (2,),
    torch.float16: (1,),
}
FORWARD_ERROR = {torch.float32: 1e-5, torch.float64: 1e-11}
# An output in half precision is off by its own rounding and the errors of float32, each of them.
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
STATE_ERROR = {torch.float32: 1e-5, torch.float64: 1e-11, torch.bfloat16: 1e-5, torch.float16: 1e-5}
GRADIENT_ERROR = {torch.float32: 1e-5, torch.float64: 1e-11, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.fixture(autouse=True, scope="module")
def outputs_start_as_nan():
    """A place that a kernel forgets to write must not look right by luck."""
    plain = _memory.new_tensor

    def poisoned(shape, dtype):
        return plain(shape, dtype).fill_(float("nan"))

    modules = (_scan, _layout)
    for module in modules:
        module.new_tensor = poisoned
    yield
    for module in modules:
        module.new_tensor = plain


@pytest.fixture
def threads():
    """Set the number of threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@dataclass
class Case:
    """Inputs of one call of a family."""

    family: str
    z: Tensor
    v: Tensor
    initial: Tensor | None
    cu_seqlens: Tensor | None = None
    normalization: str = "softmax"

    def forward(self) -> tuple[Tensor, Tensor]:
        kernels = KERNELS[self.family]
        return kernels.forward(self.z, self.v, self.initial, self.cu_seqlens, self.normalization)

    def backward(self, hidden: Tensor, dh: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor, ...]:
        kernels = KERNELS[self.family]
        return kernels.backward(
            self.z, self.v, self.initial, self.cu_seqlens, hidden, dh, dfinal, self.normalization
        )


def make_case(
    family: str,
    *,
    batch: int = 2,
    time: int = 7,
    size: int = 2,
    width: int = 17,
    dtype: torch.dtype = torch.float32,
    normalization: str = "softmax",
    gate_batch: int | None = None,
    gate_time: int | None = None,
    bounds: list[int] | None = None,
    initial: bool = True,
    scale: float = 2.0,
    seed: int = 0,
) -> Case:
    random = torch.Generator().manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rows = (size,) if family == "bdlru" else ()
    if normalization == "none":
        scale = 0.7 / size
    z = torch.randn(
        gate_batch or batch, gate_time or time, *rows, size + 1, width, generator=random, dtype=torch.float64
    )
    v = torch.randn(batch, time, *rows, width, generator=random, dtype=torch.float64)
    states = batch if bounds is None else len(bounds) - 1
    s = torch.randn(states, size, width, generator=random, dtype=torch.float64)
    cu_seqlens = None if bounds is None else torch.tensor(bounds, dtype=torch.int32)
    return Case(
        family, (scale * z).to(dtype), v.to(dtype), s.to(wide) if initial else None, cu_seqlens, normalization
    )


def like(tensor: Tensor, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, generator=random, dtype=torch.float64).to(tensor.dtype)


def check(case: Case, give_hidden: bool = True, give_final: bool = True) -> None:
    """Outputs and all gradients of a case against the truth."""
    dtype = case.v.dtype
    hidden, final = case.forward()
    size = case.z.shape[-2] - 1
    start = torch.zeros(final.shape[0], size, case.v.shape[-1]) if case.initial is None else case.initial
    inputs = [x.double().requires_grad_() for x in (case.z, case.v, start)]
    want_hidden, want_final = truth.scan(
        case.family, *inputs, cu_seqlens=case.cu_seqlens, normalization=case.normalization
    )

    assert hidden.dtype == dtype and final.dtype == torch.promote_types(dtype, torch.float32)
    assert hidden.shape == case.v.shape and hidden.is_contiguous()
    few = hidden.numel() < 300  # a handful of numbers may all be rounded badly, or cancel in a sum
    if dtype in ROUNDING:
        off = (hidden.double() - want_hidden).abs()
        assert (off <= ROUNDING[dtype] * want_hidden.abs() + 1e-5 * want_hidden.abs().max()).all()
    else:
        assert truth.relative_error(hidden, want_hidden) < FORWARD_ERROR[dtype] * (3 if few else 1)
    assert truth.relative_error(final, want_final) < STATE_ERROR[dtype]

    dh = like(hidden, 1) if give_hidden else None
    dfinal = like(final, 2) if give_final else None
    got = case.backward(hidden, dh, dfinal)
    total = sum(
        (out * grad.double()).sum()
        for out, grad in ((want_hidden, dh), (want_final, dfinal))
        if grad is not None
    )
    want = torch.autograd.grad(total, inputs)
    for name, mine, theirs, source in zip("zvs", got, want, (case.z, case.v, final), strict=True):
        assert mine.shape == theirs.shape and mine.dtype == source.dtype, name
        tolerance = min(30 * GRADIENT_ERROR[dtype], 0.05) if few else GRADIENT_ERROR[dtype]
        assert truth.relative_error(mine, theirs) < tolerance, (name, truth.relative_error(mine, theirs))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dtype = draw(st.sampled_from(list(SIZES)))
    packed = draw(st.booleans())
    batch = 1 if packed else draw(st.integers(1, 3))
    time = draw(st.integers(1, 12))
    cuts = sorted(draw(st.lists(st.integers(0, time), max_size=5))) if packed else []
    return make_case(
        draw(st.sampled_from(FAMILIES)),
        batch=batch,
        time=time,
        size=draw(st.sampled_from(SIZES[dtype])),
        width=draw(st.sampled_from(WIDTHS)),
        dtype=dtype,
        normalization=draw(st.sampled_from(NORMALIZATIONS)),
        gate_batch=draw(st.sampled_from((1, batch))),
        gate_time=draw(st.sampled_from((1, time))),
        bounds=[0, *cuts, time] if packed else None,
        initial=draw(st.booleans()),
        seed=draw(st.integers(0, 2**20)),
    )


@given(cases(), st.booleans(), st.booleans())
@settings(max_examples=200)
def test_outputs_and_gradients_match_a_float64_loop(case, give_hidden, give_final):
    if not give_hidden and not give_final:
        give_final = True
    check(case, give_hidden, give_final)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_largest_size_with_a_kernel_of_its_own_matches_a_float64_loop(family):
    check(make_case(family, size=_layout.UNROLLED, width=33, time=20))


@pytest.mark.parametrize("family", FAMILIES)
def test_work_that_is_shared_between_threads_matches_a_float64_loop(family, threads):
    threads(3)
    check(make_case(family, batch=3, time=40, size=2, width=210))
    check(make_case(family, batch=1, time=60, size=2, width=150, bounds=[0, 0, 10, 11, 40, 60], gate_time=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_long_windows_and_short_sequences_match_a_float64_loop(family):
    for time, size in itertools.product((1, 2, 8, 9, 10, 19, 20), (9,)):
        check(make_case(family, batch=1, time=time, size=size, width=5))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backward_without_any_incoming_gradient_gives_zeros(family):
    case = make_case(family)
    hidden, _ = case.forward()
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in case.backward(hidden, None, None))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("normalization", ["softmax", "sigmoid"])
def test_gradients_of_saturated_gates_are_exact_for_the_stored_states(family, dtype, normalization):
    case = make_case(family, batch=1, time=12, size=2, width=33, dtype=dtype, normalization=normalization)
    winner = torch.randint(case.z.shape[-2], case.z.shape, generator=torch.Generator().manual_seed(5))
    winner = winner.select(-2, 0).unsqueeze(-2)
    gap = torch.zeros(case.z.shape).scatter_(-2, winner, 12.0)
    # The loser's logits go down, as far as sigmoid is concerned: above zero its gates all weigh the same.
    case.z = (gap - 14.0 + case.z.float() / 4).to(dtype)
    hidden, _ = case.forward()
    dh = like(hidden, 1)
    got = case.backward(hidden, dh, None)
    want = truth.gradients_at_stored_states(
        family, *(x.double() for x in (case.z, case.v, case.initial, hidden, dh)), normalization
    )
    tolerance = {torch.float32: 3e-6, torch.bfloat16: 3e-3, torch.float16: 1e-3}[dtype]
    for mine, theirs in zip(got, want, strict=True):
        assert truth.relative_error(mine, theirs) < tolerance


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("normalization", BOUNDED)
def test_states_stay_within_the_largest_input_over_twenty_thousand_steps(family, normalization):
    time, size = 20_000, 2
    case = make_case(family, batch=1, time=time, size=size, width=16, normalization=normalization, scale=20.0)
    hidden, _ = case.forward()
    bound = max(case.v.abs().max().item(), case.initial.abs().max().item())
    assert hidden.isfinite().all()
    assert hidden.abs().max().item() <= bound * (1 + (size + 2) * 2**-23 * time)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("normalization", ["softmax", "sigmoid", "relu"])
def test_a_logit_of_minus_infinity_is_an_exact_zero(family, normalization):
    case = make_case(family, size=2, normalization=normalization)
    case.z[..., 0, :] = -torch.inf
    if normalization == "relu":
        case.z[..., 1, :].abs_()
    hidden, _ = case.forward()
    assert hidden.isfinite().all()
    dh = like(hidden, 1)
    dz, dv, dinitial = case.backward(hidden, dh, None)
    assert torch.equal(dz[..., 0, :], torch.zeros_like(dz[..., 0, :]))
    assert dv.isfinite().all()
    # The first source has no weight at all: other numbers in its place change no bit.
    case.initial[:, 0] = 1e30
    first = case.forward()[0][:, 0]
    if family == "bdlru":
        assert torch.equal(first, hidden[:, 0])
    else:
        assert torch.equal(first, hidden[:, 0])
        assert torch.equal(dinitial[:, 0].isfinite(), torch.ones_like(dinitial[:, 0], dtype=torch.bool))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("normalization", ["softmax", "sigmoid"])
def test_a_row_of_nothing_but_minus_infinity_is_nan(family, normalization):
    case = make_case(family, batch=1, size=2, normalization=normalization)
    case.z[0, 3, ..., 5] = -torch.inf
    hidden, _ = case.forward()
    assert hidden[0, 3, ..., 5].isnan().all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("poisoned", ["z", "v"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_nan_and_infinity_reach_only_what_depends_on_them(family, normalization, poisoned, poison):
    clean = make_case(family, batch=2, time=9, size=2, width=33, normalization=normalization)
    hidden, final = clean.forward()
    dh = like(hidden, 1)
    grads = clean.backward(hidden, dh, None)
    case = make_case(family, batch=2, time=9, size=2, width=33, normalization=normalization)
    getattr(case, poisoned)[1, 4, ..., 32] = poison
    got_hidden, got_final = case.forward()
    got_grads = case.backward(got_hidden, dh, None)
    if poison != poison:
        assert got_hidden[1, 4, ..., 32].isnan().all()
    assert torch.equal(got_hidden[1, :4], hidden[1, :4])
    for mine, theirs in zip((got_hidden, got_final, *got_grads), (hidden, final, *grads), strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1][..., :32], theirs[1][..., :32])


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_of_any_length_continue_each_other(family):
    case = make_case(family, time=23, size=9)
    hidden, final = case.forward()
    for length in (1, 5):
        state, pieces = case.initial, []
        for start in range(0, 23, length):
            part = slice(start, start + length)
            piece, state = KERNELS[family].forward(
                case.z[:, part], case.v[:, part], state, None, case.normalization
            )
            pieces.append(piece)
        assert truth.relative_error(torch.cat(pieces, 1), hidden) < 1e-6
        assert truth.relative_error(state, final) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gates", ["full", "constant in time", "constant", "shared by the batch"])
def test_the_bits_are_the_same_each_time_and_on_any_number_of_threads(family, gates, threads):
    case = make_case(
        family, batch=3, time=50, size=2, width=200,
        gate_batch=1 if gates in ("constant", "shared by the batch") else None,
        gate_time=1 if gates in ("constant", "constant in time") else None,
    )  # fmt: skip
    results = []
    for number in (1, 2, 3, 3):
        threads(number)
        hidden, final = case.forward()
        results.append((hidden, final, *case.backward(hidden, like(hidden, 1), like(final, 2))))
    for other in results[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(results[0], other, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_any_strides_give_the_same_bits_and_only_strided_rows_are_copied(family):
    case = make_case(family, size=2, width=33)
    hidden, final = case.forward()
    dh, dfinal = like(hidden, 1), like(final, 2)
    grads = case.backward(hidden, dh, dfinal)

    def sliced(x: Tensor) -> Tensor:  # unit stride along the last dimension, gaps everywhere else
        return torch.nn.functional.pad(x, (1, 2))[..., 1:-2]

    def strided(x: Tensor) -> Tensor:
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)

    for layout, copied in ((sliced, 0), (strided, 8)):
        other = Case(family, layout(case.z), layout(case.v), layout(case.initial))
        before = _layout.copies()
        outputs = other.forward()
        outputs += other.backward(hidden, layout(dh), layout(dfinal))
        assert _layout.copies() - before == copied
        for mine, theirs in zip(outputs, (hidden, final, *grads), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_expanded_gradient_is_never_made_whole(family):
    case = make_case(family, size=2, width=33)
    hidden, _ = case.forward()
    everywhere = torch.tensor(0.5).expand(hidden.shape)
    assert _layout.as_rows(everywhere).untyped_storage().nbytes() == 33 * 4
    got = case.backward(hidden, everywhere, None)
    want = case.backward(hidden, everywhere.contiguous(), None)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(got, want, strict=True))


@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_default_device_elsewhere_changes_no_output(family, broadcast):
    case = make_case(family, batch=2, time=5, size=2, width=9)
    if broadcast:
        case.z = case.z[:1, :1].contiguous()

    def run():
        hidden, final = case.forward()
        return hidden, final, *case.backward(hidden, None, final)

    with torch.device("meta"):
        got = run()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(got, run(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_that_call_at_once_get_what_one_alone_gets(family):
    all_cases = [make_case(family, batch=2, time=60, size=2, width=200, seed=seed) for seed in range(4)]
    alone = [case.forward()[0] for case in all_cases]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            if not torch.equal(all_cases[index].forward()[0], alone[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_memory_is_used_again_only_after_the_last_tensor_over_it_is_gone():
    case = make_case("hlru", batch=2, time=600, size=2, width=300)
    _memory.release_memory()
    hidden, _ = case.forward()
    last_row = hidden[1, -1]
    numbers, address = last_row.clone(), hidden.data_ptr()
    del hidden
    assert _memory.kept_bytes() == 0
    other, _ = case.forward()
    assert other.data_ptr() != address
    assert torch.equal(last_row, numbers)
    del last_row
    assert _memory.kept_bytes() > 0
    again, _ = case.forward()
    assert again.data_ptr() == address
    assert torch.equal(again, other)
    del other, again
    _memory.release_memory()
    assert _memory.kept_bytes() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_an_interrupted_call_keeps_its_memory_until_its_threads_are_done(family, threads, monkeypatch):
    threads(2)
    at_work, goes_on = threading.Event(), threading.Event()

    def slow(compiled, *arguments):
        if threading.current_thread() is threading.main_thread():
            at_work.wait(60)
        else:
            at_work.set()
            goes_on.wait(60)
        compiled(*arguments)

    def interrupted(job):
        raise KeyboardInterrupt

    case = make_case(family, batch=2, time=600, size=2, width=300)
    _memory.release_memory()
    monkeypatch.setattr(_threads, "launch", slow)
    monkeypatch.setattr(_threads._Job, "wait", interrupted)
    interruptions = 0
    try:
        case.forward()
    except KeyboardInterrupt:
        interruptions += 1
    assert interruptions == 1 and _memory.kept_bytes() == 0
    goes_on.set()
    while _memory.kept_bytes() == 0:  # for ever, were it never given back
        sleep(0.01)
    _memory.release_memory()


def in_a_new_process(script: str, **environment: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr


CALL = """
import torch
from statemix.kernels.cpu import hlru
torch.set_num_threads(2)
z, v = torch.randn(2, 300, 3, 200), torch.randn(2, 300, 200)
hidden, _ = hlru.forward(z, v, None, None, "softmax")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_computes_after_its_parent_did():
    in_a_new_process(
        CALL
        + """
import os
child = os.fork()
if child == 0:
    again, _ = hlru.forward(z, v, None, None, "softmax")
    os._exit(0 if torch.equal(again, hidden) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    )


def test_kernels_run_where_no_cache_can_be_written():
    in_a_new_process(
        CALL, NUMBA_CACHE_DIR="/dev/null/nowhere", NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator"
    )


def test_kernels_whose_files_are_damaged_are_compiled_anew(tmp_path):
    for _ in range(2):
        in_a_new_process(CALL, NUMBA_CACHE_DIR=str(tmp_path))
        (file,) = (path for path in tmp_path.rglob("hlru*") if path.is_file())
        assert file.stat().st_size > 1000
        file.write_bytes(file.read_bytes()[:1000])


def test_kernels_that_two_processes_keep_at_once_are_told_apart(tmp_path, monkeypatch):
    one, other = (KernelFiles(str(tmp_path), "kernel", b"stamp") for _ in range(2))
    opened = one._open_for_write

    def meanwhile(path):
        monkeypatch.setattr(one, "_open_for_write", opened)
        other.save(("bfloat16",), "code of the other")
        return opened(path)

    monkeypatch.setattr(one, "_open_for_write", meanwhile)
    one.save(("float32",), "code of the one")
    found = KernelFiles(str(tmp_path), "kernel", b"stamp")
    assert found.load(("float32",)) == "code of the one"
    assert found.load(("bfloat16",)) == "code of the other"
    assert found.load(("float64",)) is None
    assert KernelFiles(str(tmp_path), "kernel", b"changed").load(("float32",)) is None


def test_numba_is_imported_with_the_kernels_and_not_before():
    in_a_new_process(
        "import sys, statemix, statemix.kernels.cpu\n"
        "assert 'numba' not in sys.modules\n"
        "import statemix.kernels.cpu.bdlru\n"
        "assert 'numba' in sys.modules"
    )


def test_both_files_offer_the_signature_that_every_backend_shares():
    reference = importlib.import_module("statemix.kernels.reference.bdlru")
    for kernels in KERNELS.values():
        for name in ("forward", "backward"):
            mine, theirs = (getattr(module, name).__code__ for module in (kernels, reference))
            assert mine.co_varnames[: mine.co_argcount] == theirs.co_varnames[: theirs.co_argcount]
