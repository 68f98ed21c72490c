"""Bad input is refused with the operation, what is required, what came, and what to do."""

import re

import pytest
import torch

from statemix import backend_for, bdlru_scan, hlru_scan
from tests.ops.cases import OPERATORS, Shape, inputs

each_family = pytest.mark.parametrize("family", ["bdlru", "hlru"])


def bad(family, **changes):
    """Good inputs with some replaced, ready to be called."""
    shape = changes.pop("shape", Shape(2, 16, 3, 8))
    logits, values, initial = inputs(family, shape, torch.float32)
    arguments = {"gate_logits": logits, "values": values, "initial_state": initial}
    options = {}
    for name, change in changes.items():
        if name in arguments:
            arguments[name] = change(arguments[name]) if callable(change) else change
        else:
            options[name] = change
    return lambda: OPERATORS[family](*arguments.values(), **options)


def test_a_wrong_row_of_logits_is_named_with_the_size_that_it_needs():
    with pytest.raises(ValueError, match=r"bdlru_scan: gate_logits must be \(B, T, M, M\+1, N\); got "
                       r"\(2, 16, 3, 3, 8\): the fourth size must be 4"):  # fmt: skip
        bad("bdlru", gate_logits=lambda z: z[:, :, :, :3])()


def assert_whole(message, name):
    """Who refuses, what is required, what came, and what to do."""
    assert re.match(rf"{name}: [^;]*must[^;]*; got [^:]*: \w", message), message


@each_family
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gate_logits": lambda z: z[0]}, r"a batch of one is gate_logits\[None\]"),
        ({"gate_logits": lambda z: z[0, 0]}, "give it [45] sizes"),
        ({"values": lambda v: v[0]}, r"a batch of one is values\[None\]"),
        ({"values": lambda v: v[..., None]}, "give it [34] sizes"),
        ({"values": lambda v: v[:, :5]}, "give both the same, or one for all"),
        ({"values": lambda v: v[..., :7]}, "give both the same"),
        ({"values": [1.0]}, "make it one with torch.as_tensor"),
        ({"initial_state": lambda s: s[:1]}, "as a call returns it, one for each sequence"),
        ({"initial_state": 0.0}, "make it one with torch.as_tensor"),
        ({"normalization": "sofmax"}, "nearest: softmax"),
        ({"backend": "cup"}, "nearest: cpu"),
        ({"shape": Shape(1, 4, 3, 0)}, "leave the call out"),
    ],
)
def test_a_refusal_says_what_to_do(family, changes, says):
    with pytest.raises((ValueError, TypeError), match=says) as refused:
        bad(family, **changes)()
    assert_whole(str(refused.value), f"{family}_scan")


@each_family
@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"gate_logits": lambda z: z[0]}, ValueError, "gate_logits must be"),
        ({"values": lambda v: v[0]}, ValueError, "values must be"),
        ({"values": lambda v: v[:, :5]}, ValueError, "time size 5"),
        ({"values": lambda v: v[:1]}, ValueError, "batch size 1"),
        ({"values": lambda v: v[..., :7]}, ValueError, "values must be"),
        ({"values": lambda v: v.double()}, TypeError, "share one dtype"),
        ({"values": lambda v: v.long()}, TypeError, "values must be one of"),
        ({"values": [1.0]}, TypeError, r"values must be a torch\.Tensor; got list"),
        ({"values": lambda v: v.to("meta")}, ValueError, "on one device"),
        ({"initial_state": lambda s: s[:, :2]}, ValueError, r"must be \(B, M, N\) = \(2, 3, 8\)"),
        ({"initial_state": lambda s: s[:1]}, ValueError, "initial_state must be"),
        ({"initial_state": lambda s: s.bfloat16()}, TypeError, "states keep full precision"),
        ({"initial_state": lambda s: s.double()}, TypeError, r"\.to\(torch\.float32\)"),
        ({"initial_state": lambda s: s.to("meta")}, ValueError, "initial_state must be on cpu"),
        ({"gate_logits": lambda z: z.to_sparse()}, TypeError, "gate_logits must be a dense tensor; got torch.sparse_coo"),
        ({"values": lambda v: torch.nested.as_nested_tensor(list(v), layout=torch.jagged)}, TypeError, "values must be a dense tensor; got a nested"),
        ({"initial_state": 0.0}, TypeError, "initial_state must be a torch.Tensor"),
        ({"normalization": "softplus"}, ValueError, "normalization must be one of"),
        ({"backend": "gpu"}, ValueError, "backend must be one of"),
        ({"backend": "cuda"}, ValueError, "backend='cuda' cannot run here: "),
        ({"backend": "triton"}, ValueError, "backend='triton' cannot run here: "),
    ],
)  # fmt: skip
def test_bad_tensors_and_options_are_refused(family, changes, error, says):
    with pytest.raises(error, match=f"{family}_scan: .*{says}"):
        bad(family, **changes)()


@each_family
@pytest.mark.parametrize(
    ("bounds", "error", "says"),
    [
        (torch.tensor([0, 5, 16]), TypeError, r"must be torch\.int32; got torch\.int64"),
        (torch.tensor([[0, 16]], dtype=torch.int32), ValueError, r"must be \(num_sequences \+ 1,\)"),
        (torch.tensor([1, 16], dtype=torch.int32), ValueError, "must start with 0"),
        (torch.tensor([0, 15], dtype=torch.int32), ValueError, "end with T = 16; got"),
        (torch.tensor([0, 9, 5, 16], dtype=torch.int32), ValueError, "never fall"),
        (torch.tensor([0, 16], dtype=torch.int32, device="meta"), ValueError, "must be on cpu"),
        ([0, 16], TypeError, "must be a torch.Tensor"),
    ],
)
def test_bad_boundaries_are_refused(family, bounds, error, says):
    call = bad(family, shape=Shape(1, 16, 3, 8), initial_state=None, cu_seqlens=bounds)
    with pytest.raises(error, match=f"{family}_scan: cu_seqlens.*{says}") as refused:
        call()
    assert_whole(str(refused.value), f"{family}_scan")


@each_family
def test_boundaries_with_a_batch_are_refused(family):
    bounds = torch.tensor([0, 16], dtype=torch.int32)
    with pytest.raises(ValueError, match="needs a batch of 1"):
        bad(family, initial_state=None, cu_seqlens=bounds)()


class Subclass(torch.Tensor):
    pass


HIDDEN = {
    "by a compiler": lambda run: torch.compile(run, fullgraph=True, backend="aot_eager"),
    "by vmap": lambda run: lambda x, bounds: torch.func.vmap(run, (None, 0))(x, bounds[None]),
    "by grad": lambda run: torch.func.grad(lambda x, bounds: run(x, bounds).sum()),
    "by a subclass": lambda run: lambda x, bounds: run(x, bounds.as_subclass(Subclass)),
}


@each_family
@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
def test_bad_boundaries_are_refused_where_their_numbers_are_hidden(family, hide):
    torch._dynamo.reset()
    logits, values, _ = inputs(family, Shape(1, 16, 3, 8), torch.float32)
    run = hide(lambda x, bounds: OPERATORS[family](logits, x, cu_seqlens=bounds)[0])
    run(values, torch.tensor([0, 9, 16], dtype=torch.int32))
    with pytest.raises(ValueError, match=rf"{family}_scan: cu_seqlens .* end with T = 16; got \[0, 9, 15\]"):
        run(values, torch.tensor([0, 9, 15], dtype=torch.int32))


@each_family
def test_sizes_of_zero_are_refused(family):
    for shape in (Shape(1, 4, 0, 3), Shape(1, 4, 3, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            bad(family, shape=shape)()


@pytest.mark.parametrize("operator", [bdlru_scan, hlru_scan])
def test_a_cpu_backend_refuses_tensors_elsewhere(operator):
    family = operator.__name__.removesuffix("_scan")
    logits, values, _ = inputs(family, Shape(1, 4, 2, 3), torch.float32, state=False)
    with pytest.raises(ValueError, match="needs tensors on the CPU, and these are on meta"):
        operator(logits.to("meta"), values.to("meta"), backend="cpu")


def test_backend_for_names_what_auto_takes():
    assert backend_for("cpu") == "cpu"
    assert backend_for(torch.zeros(2, dtype=torch.float64), family="hlru", order_or_block_size=9) == "cpu"
    with pytest.raises(ValueError, match="family must be one of"):
        backend_for("cpu", family="lru")


@pytest.mark.parametrize("dtype", ["float32", torch.int32, torch.complex64])
def test_backend_for_names_a_dtype_that_no_operator_takes(dtype):
    with pytest.raises(TypeError, match=r"^backend_for: dtype must be one of .*torch\.float64\); got "):
        backend_for("cpu", dtype=dtype)


@pytest.mark.parametrize("device", ["foo", "", None, "cuda:x"])
def test_backend_for_names_a_device_that_is_none(device):
    with pytest.raises(ValueError, match=r"^backend_for: the device must be .*; got "):
        backend_for(device)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "2"])
def test_backend_for_names_a_size_that_no_layer_has(size):
    with pytest.raises(
        ValueError, match=r"^backend_for: order_or_block_size must be an integer of at least 1"
    ):
        backend_for("cpu", order_or_block_size=size)


@each_family
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace:DeprecationWarning")
def test_kernels_that_a_trace_cannot_record_are_refused_with_what_to_take(family):
    given = inputs(family, Shape(1, 4, 2, 3))
    with pytest.raises(
        RuntimeError, match=r"_scan: torch.jit.trace cannot record the cpu .* torch.export.export"
    ):
        torch.jit.trace(lambda *tensors: OPERATORS[family](*tensors)[0], given)
    traced = torch.jit.trace(lambda *tensors: OPERATORS[family](*tensors, backend="reference")[0], given)
    torch.testing.assert_close(traced(*given), OPERATORS[family](*given)[0])


def test_a_device_without_kernels_takes_the_reference_and_says_so():
    with pytest.warns(RuntimeWarning, match="slow reference on mps"):
        from statemix.ops.dispatch import resolve_backend

        chosen = resolve_backend("bdlru_scan", "auto", torch.device("mps"), "bdlru", 3, torch.float32)
    assert chosen == "reference"
