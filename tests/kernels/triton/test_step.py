"""Fused steps against float64 loops: on a GPU where there is one, else in Triton's interpreter; they compile too."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from statemix import BDLRU, HLRU, LanguageModel, MixerConfig, ModelConfig, kernel_counts, reset_kernel_counts
from tests import tolerances
from tests.kernels.triton.interpreter import DEVICE, INTERPRETED, on_a_card, runs
from tests.ops.cases import FAMILIES, NORMALIZATIONS, TRUTHS, Shape, inputs
from tests.truth import relative_error

triton = pytest.importorskip("triton")

pytestmark = on_a_card
each_family = pytest.mark.parametrize("family", FAMILIES)
SIZES = [*range(1, 9), 16]
# The interpreter cuts off what it stores in bfloat16, instead of rounding it.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 8e-3 if INTERPRETED else 3e-3, torch.float16: 1e-3}


@pytest.fixture(autouse=True)
def outputs_start_as_nan():
    """Every ``torch.empty`` is filled with NaN: what a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def wanted_step(family, logits, values, state, normalization):
    """The next state from a loop in float64; what is read is its first rows."""
    exact = [x.double().cpu() for x in (logits, values)]
    before = None if state is None else state.double().cpu()
    return TRUTHS[family](exact[0][:, None], exact[1][:, None], before, normalization=normalization)[1]


def check(found, read, wanted, dtype):
    assert relative_error(found.cpu(), wanted) < tolerances.STATE[torch.float32]
    assert relative_error(read.cpu(), wanted[:, : read.shape[1]]) < ROUNDING[dtype]


def advanced(family, size, width, batch, dtype, normalization, *, state=True, shared=False, rows=None):
    from statemix.kernels.triton import step

    logits, values, initial = inputs(
        family, Shape(batch, 1, size, width, None, (shared, False)), dtype, scale=1.0, state=state
    )
    logits, values = (x[:, 0].to(DEVICE) for x in (logits, values))
    given_ = None if initial is None else initial.to(DEVICE)
    wanted = wanted_step(family, logits, values, initial, normalization)
    read = torch.empty(batch, rows or size, width, dtype=dtype, device=DEVICE)
    new = torch.empty(batch, size, width, device=DEVICE)
    step.advance(family, logits, values, given_, normalization, new_state=new, read=read)
    check(new, read, wanted, dtype)
    if given_ is not None:
        step.advance(family, logits, values, given_, normalization, new_state=given_, read=read)
        assert torch.equal(given_, new)


def streamable(batch, dtype):
    """A GPU has several rows in bfloat16 alone; the interpreter takes any."""
    return dtype if INTERPRETED or batch == 1 else torch.bfloat16


def projected(family, size, width, batch, dtype, normalization, *, wide=24, state=True, norm=True, rows=None):
    from statemix.kernels.triton import stream

    dtype = streamable(batch, dtype)
    if not INTERPRETED and not stream.streams(batch, dtype, size):
        return
    torch.manual_seed(size)
    make = {"device": DEVICE, "dtype": dtype}
    inner = (size,) if family == "bdlru" else ()
    x, norm_weight = torch.randn(batch, wide, **make), 1 + torch.randn(wide, **make) / 4
    gate = torch.randn(*inner, size + 1, width, wide, **make) / wide**0.5
    bias = torch.randn(*inner, size + 1, width, **make)
    value = torch.randn(*inner, width, wide, **make) / wide**0.5
    initial = torch.randn(batch, size, width, device=DEVICE) if state else None
    exact = x.double()
    if norm:
        exact = F.rms_norm(exact, (wide,), norm_weight.double(), 1e-5)
    logits = torch.einsum("bd,...d->b...", exact, gate.double()) + bias.double()
    values = torch.einsum("bd,...d->b...", exact, value.double())
    wanted = wanted_step(family, logits, values, initial, normalization)
    new = torch.empty(batch, size, width, device=DEVICE)
    read = torch.empty(batch, rows or size, width, **make)
    stream.project(
        family, x, gate.flatten(0, -2), bias.flatten(), value.flatten(0, -2), initial, normalization,
        new_state=new, read=read, norm_weight=norm_weight if norm else None, eps=1e-5,
    )  # fmt: skip
    # Several normed rows are rounded to the factors of tensor cores, as a norm of its own would round them.
    rounds = batch > 1 and dtype != torch.float32 and (norm or not INTERPRETED)
    error = relative_error(new.cpu(), wanted)
    assert error < (1e-2 if rounds else 1e-5)
    assert relative_error(read.cpu(), wanted[:, : read.shape[1]]) < ROUNDING[dtype] + error


@runs
@each_family
@pytest.mark.parametrize("size", SIZES)
def test_every_block_size_and_order(family, size):
    projected(family, size, 5, 1, torch.float32, "softmax")
    projected(family, size, 5, 2, torch.float32, "softmax", norm=False)
    advanced(family, size, 5, 2, torch.float32, "softmax")


@runs
@each_family
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_normalization_and_dtype_agrees_with_the_loop(family, normalization, dtype):
    for batch in (1, 3):
        projected(family, 3, 9, batch, dtype, normalization)
        advanced(family, 3, 9, batch, dtype, normalization)


@runs
@each_family
@settings(max_examples=10, derandomize=True)
@given(
    size=st.sampled_from(SIZES),
    width=st.sampled_from([1, 3, 8, 33]),
    batch=st.sampled_from([1, 2, 16]),
    wide=st.sampled_from([1, 16, 130, 300]),
    normalization=st.sampled_from(NORMALIZATIONS),
    state=st.booleans(),
    norm=st.booleans(),
)
def test_any_shape_agrees_with_the_loop(family, size, width, batch, wide, normalization, state, norm):
    projected(family, size, width, batch, torch.float32, normalization, wide=wide, state=state, norm=norm)
    advanced(family, size, width, batch, torch.float32, normalization, state=state, shared=norm)


@runs
def test_an_hlru_may_read_its_newest_state_alone():
    projected("hlru", 4, 6, 2, torch.float32, "softmax", rows=1)
    advanced("hlru", 4, 6, 2, torch.float32, "softmax", rows=1)


@runs
@pytest.mark.parametrize("activation", ["none", "swiglu", "gelu"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("outputs", "wide"), [(1, 3), (33, 40), (20, 2500)])
def test_products_with_what_stands_around_them(activation, norm, batch, outputs, wide):
    from statemix.kernels.triton.stream import product

    torch.manual_seed(0)
    rows = outputs * (2 if activation == "swiglu" else 1)
    make = {"device": DEVICE, "dtype": streamable(batch, torch.float32)}
    x, norm_weight = torch.randn(batch, wide, **make), torch.randn(wide, **make)
    weight = torch.randn(rows, wide, **make) / wide**0.5
    exact = F.rms_norm(x.double(), (wide,), norm_weight.double(), 1e-5) if norm else x.double()
    wanted = exact @ weight.double().T
    if activation == "swiglu":
        wanted = F.silu(wanted[:, :outputs]) * wanted[:, outputs:]
    elif activation == "gelu":
        wanted = F.gelu(wanted)
    options = {"norm_weight": norm_weight if norm else None, "eps": 1e-5, "activation": activation}
    out = torch.empty(batch, outputs, **make)
    source, target = torch.randn(3, 77, device=DEVICE), torch.zeros(3, 77, device=DEVICE)
    product(x, weight, out, carry=(source, target), **options)
    limit = 1e-5 if x.dtype == torch.float32 else 1e-2
    assert relative_error(out.cpu(), wanted.cpu()) < limit and torch.equal(source, target)
    product(x, weight, out, add=True, **options)
    assert relative_error(out.cpu(), 2 * wanted.cpu()) < limit


@runs
@each_family
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_nan_in_a_row_of_the_batch_reaches_no_other(family):
    from statemix.kernels.triton import stream

    inner = (2,) if family == "bdlru" else ()
    make = {"device": DEVICE, "dtype": streamable(3, torch.float32)}
    gate, value = torch.randn(*inner, 3, 5, 8, **make), torch.randn(*inner, 5, 8, **make)
    x, state = torch.randn(3, 8, **make), torch.randn(3, 2, 5, device=DEVICE)
    found = []
    for poison in (0.0, float("nan")):
        x[1] += poison
        new, read = torch.empty_like(state), torch.empty_like(state)
        stream.project(
            family, x, gate.flatten(0, -2), torch.zeros(gate[..., 0].numel(), **make),
            value.flatten(0, -2), state, "softmax", new_state=new, read=read,
        )  # fmt: skip
        found.append(new)
    assert torch.equal(found[0][[0, 2]], found[1][[0, 2]]) and found[1][1, 0].isnan().all()


@runs
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_absent_logits_weigh_nothing_and_rows_of_zero_are_zero():
    from statemix.kernels.triton import step

    for family in FAMILIES:
        for normalization in NORMALIZATIONS:
            logits, values, state = inputs(family, Shape(1, 1, 3, 5), torch.float32)
            logits = logits[:, 0]
            if normalization in ("softmax", "sigmoid", "relu"):
                logits[..., 1, :] = float("-inf")
            else:
                logits[..., 0] = 0.0
            wanted = wanted_step(family, logits, values[:, 0], state, normalization)
            given_ = [x.to(DEVICE) for x in (logits, values[:, 0], state)]
            read = torch.empty(1, 3, 5, device=DEVICE)
            step.advance(family, *given_, normalization, new_state=given_[2], read=read)
            check(given_[2], read, wanted, torch.float32)


def model_of(**settings):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 23, "d_model": 16, "num_layers": 2, "mixer": MixerConfig(block_size=3, num_blocks=5),
    }  # fmt: skip
    model = LanguageModel(ModelConfig(**(sizes | settings))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.to(DEVICE)


MODELS = [
    {},
    {"mlp": "gelu", "tie_embeddings": True},
    {"mlp": "none", "mixer": MixerConfig(block_size=1, num_blocks=9, initial_state="learned")},
    {"mixer": MixerConfig(block_size=2, normalization="tanh", selective=False)},
    {"pattern": ("bdlru", "hlru"), "mixer": MixerConfig(block_size=4, num_blocks=6)},
    {"mixer": MixerConfig(name="hlru", block_size=3, readout="latest", normalization="sigmoid")},
    {"mixer": MixerConfig(name="hlru", block_size=2, selective=False)},
]


@runs
@pytest.mark.parametrize("settings", MODELS, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_a_whole_model_steps_as_its_forward_pass_does(settings, batch):
    from statemix.models.fused_step import FusedStep

    model = model_of(**settings)
    tokens = torch.randint(23, (batch, 7), device=DEVICE)
    _, states = model(tokens[:, :4], return_states=True)
    step = FusedStep(model, tuple(s.contiguous().clone() for s in states))
    assert step.streamed == (batch == 1)
    reset_kernel_counts()
    logits = torch.stack([step(tokens[:, t]) for t in range(4, tokens.shape[1])], 1)
    torch.testing.assert_close(logits, model(tokens)[:, 4:], atol=1e-4, rtol=1e-3)
    kinds = {name.partition(".")[2] for name, n in kernel_counts().items() if n and "step" in name}
    selective = model.config.mixer.selective
    assert kinds == {"projected_step.triton" if batch == 1 and selective else "step.triton"}


@runs
@pytest.mark.skipif(not INTERPRETED, reason="a GPU takes the path of bfloat16 itself")
@torch.no_grad()
def test_several_rows_are_streamed_too(monkeypatch):
    from statemix.kernels.triton import stream
    from statemix.models.fused_step import FusedStep

    monkeypatch.setattr(stream, "streams", lambda *_: True)
    model = model_of(pattern=("bdlru", "hlru"))
    tokens = torch.randint(23, (3, 9), device=DEVICE)
    _, states = model(tokens[:, :4], return_states=True)
    step = FusedStep(model, tuple(s.contiguous().clone() for s in states))
    logits = torch.stack([step(tokens[:, t]) for t in range(4, tokens.shape[1])], 1)
    torch.testing.assert_close(logits, model(tokens)[:, 4:], atol=1e-4, rtol=1e-3)


def layers(**options):
    return [
        BDLRU(16, num_blocks=5, block_size=3, **options),
        HLRU(16, num_channels=7, order=3, **options),
        HLRU(16, num_channels=7, order=3, readout="latest", **options),
    ]


@runs
@pytest.mark.parametrize("selective", [True, False])
@pytest.mark.parametrize("learned", ["zeros", "learned"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_layer_takes_them_where_no_gradient_is_asked_for(selective, learned, batch):
    from statemix.nn.fused_step import unfused_steps

    torch.manual_seed(0)
    for layer in layers(selective=selective, initial_state=learned):
        layer.to(DEVICE)
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        x = torch.randn(batch, 2, 16, device=DEVICE)
        wanted, state = layer(x, return_state=True)
        if DEVICE == "cuda":
            reset_kernel_counts()
            with torch.no_grad(), unfused_steps():
                layer.step(x[:, 0])
            assert not any("step" in name for name in kernel_counts())
            assert layer.step(x[:, 0])[0].requires_grad
            step = layer.step
        else:
            step = _interpreted_step(layer)
        with torch.no_grad():
            first, between = step(x[:, 0], None)
            second, final = step(x[:, 1], between)
        torch.testing.assert_close(torch.stack([first, second], 1), wanted, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(final, state, atol=1e-5, rtol=1e-4)


def _interpreted_step(layer):
    """The fused step on tensors that say that they are on a GPU."""
    from statemix.nn.fused_step import fused_step

    class OnGpu(torch.Tensor):
        is_cuda = True

    def step(x, state):
        found = fused_step(layer, x.as_subclass(OnGpu), state)
        assert found is not None
        return tuple(t.as_subclass(torch.Tensor) for t in found)

    return step


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")  # of Triton 3.9
@pytest.mark.parametrize(("early", "target", "binary"), [
    (False, ("cuda", 90, 32), "cubin"), (True, ("cuda", 90, 32), "cubin"), (False, ("hip", "gfx942", 64), "hsaco"),
], ids=["cuda", "early", "hip"])  # fmt: skip
@pytest.mark.parametrize("name", ["_project", "_product", "_advance"])
@pytest.mark.parametrize("batch", [1, 16])
def test_the_kernels_compile(name, batch, early, target, binary, monkeypatch, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from statemix.kernels.triton import scan, step, stream

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(scan, "_warp_size", lambda device: target[2])
    if name == "_advance":
        kernel = step._advance
        tile = scan.walking_tile("bdlru", 4, 112, torch.device("cuda"))
        constants = scan.constants(tile, 4, "softmax") | {"WINDOW": False, "KEPT": 4}
    else:
        kernel = getattr(stream, name)
        x = torch.empty(batch, 768, dtype=torch.bfloat16, device="meta")
        groups = 8 if name == "_project" else 2
        constants = stream._constants(stream.tile_for(batch, groups, 448, x), x, early)
        constants.pop("launch_pdl", None), constants.pop("num_stages")
        constants |= (
            {
                "NORMALIZATION": "softmax",
                "ABSENT": float("-inf"),
                "WINDOW": False,
                "KEPT": 4,
                "M": 4,
                "ALIGNED": True,
            }
            if name == "_project"
            else {"ACTIVATION": "swiglu", "ADD": True, "COPIED": 128}
        )
    warps = constants.pop("num_warps")
    floats = ("state", "new_state", "source", "target")
    numbers = ("width", "batch", "outputs", "count")
    signature, known = {}, {}
    for place, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument == "eps":
            signature[argument] = "fp32"
        elif argument in numbers or argument.endswith("_batch"):
            signature[argument] = "i32"
        else:
            signature[argument] = "*fp32" if argument in floats else "*bf16"
            if name != "_advance":
                known[place,] = [["tt.divisibility", 16]]
    places = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
    compiled = triton.compile(
        ASTSource(kernel, signature, places, known),
        target=GPUTarget(*target),
        options={"num_warps": warps, "num_stages": 1},
    )
    assert len(compiled.asm[binary]) > 1000
    if binary == "cubin":
        code = compiled.asm["ptx"]
        assert code.count("griddepcontrol.wait") == int(early and name != "_advance")
        if name != "_advance":
            assert "ld.global.v4.b32" in code  # weights come sixteen bytes at a time
            assert ("mma.sync" in code) == (batch > 1)
            before_waiting = code.partition("griddepcontrol.wait")[0]
            assert not early or before_waiting.count("ld.global.v4.b32") >= 2
