"""The layers run whole, in pieces, step by step, packed and padded, and always agree with themselves."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statemix import BDLRU, HLRU, bdlru_scan, hlru_scan
from statemix.kernels.reference.normalization import NORMALIZATIONS
from tests.nn.adapters import adapt, merge
from tests.truth import relative_error

D = 12
LAYERS = {
    "bdlru": lambda **k: BDLRU(D, num_blocks=5, block_size=3, **k),
    "bdlru-diagonal": lambda **k: BDLRU(D, num_blocks=7, block_size=1, **k),
    "bdlru-constant": lambda **k: BDLRU(D, num_blocks=5, block_size=3, selective=False, **k),
    "hlru-window": lambda **k: HLRU(D, num_channels=5, order=3, **k),
    "hlru-latest": lambda **k: HLRU(D, num_channels=5, order=3, readout="latest", **k),
    "hlru-constant": lambda **k: HLRU(D, num_channels=5, order=3, selective=False, **k),
}
# Products of few rows and of many round differently, on some processors by more than on others: in float64,
# where no mistake could be taken for rounding.
PRODUCTS = 1e-12
each_layer = pytest.mark.parametrize("name", LAYERS)
each_start = pytest.mark.parametrize("start", ["zeros", "learned"])


def make(name, seed=0, **options):
    torch.manual_seed(seed)
    layer = LAYERS[name](**options)
    with torch.no_grad():  # gates far from uniform, so that a wrong state shows
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer


@each_layer
@each_start
@settings(max_examples=12)
@given(data=st.data(), T=st.integers(1, 17))
def test_pieces_of_any_length_and_single_steps_equal_the_whole(name, start, data, T):
    layer = make(name, initial_state=start).double()
    x = torch.randn(2, T, D, dtype=torch.float64)
    whole, final = layer(x, return_state=True)
    cuts = sorted(data.draw(st.lists(st.integers(0, T), max_size=3)))
    outputs, state = [], None
    for a, b in zip([0, *cuts], [*cuts, T], strict=True):
        y, state = layer(x[:, a:b], state, return_state=True)
        outputs.append(y)
    assert relative_error(torch.cat(outputs, 1), whole) < PRODUCTS
    assert relative_error(state, final) < PRODUCTS
    steps, state = [], None
    for t in range(T):
        y, state = layer.step(x[:, t], state)
        steps.append(y)
    assert relative_error(torch.stack(steps, 1), whole) < PRODUCTS
    assert relative_error(state, final) < PRODUCTS


@each_layer
def test_steps_agree_with_forward_in_half_precision_too(name):
    layer = make(name, initial_state="learned").bfloat16()
    x = torch.randn(2, 9, D).bfloat16()
    whole = layer(x)
    state, steps = None, []
    for t in range(9):
        y, state = layer.step(x[:, t], state)
        steps.append(y)
    assert state.dtype == torch.float32
    # The products of one row and of many round differently; the state adds nothing to that.
    assert relative_error(torch.stack(steps, 1), whole) < 1e-2


@each_layer
def test_a_step_changes_nothing_in_place(name):
    layer = make(name, initial_state="learned")
    x, state = torch.randn(2, D), layer.initial_state_for(2).clone()
    kept, weights = state.clone(), copy.deepcopy(layer.state_dict())
    layer.step(x, state)
    assert torch.equal(state, kept)
    assert all(torch.equal(v, weights[k]) for k, v in layer.state_dict().items())


@each_layer
@each_start
@settings(max_examples=12)
@given(lengths=st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(sum), given_state=st.booleans())
def test_packed_sequences_equal_each_on_its_own(name, start, lengths, given_state):
    layer = make(name, initial_state=start).double()
    x = torch.randn(1, sum(lengths), D, dtype=torch.float64)
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    state = torch.randn_like(layer.initial_state_for(len(lengths))) if given_state else None
    y, final = layer(x, state, cu_seqlens=bounds, return_state=True)
    for i, piece in enumerate(x[0].split(lengths)):
        own = None if state is None else state[i : i + 1]
        want, want_final = layer(piece[None], own, return_state=True)
        got = y[:, bounds[i] : bounds[i + 1]]
        assert relative_error(got, want) < PRODUCTS
        assert relative_error(final[i], want_final[0]) < PRODUCTS


@each_layer
@each_start
@settings(max_examples=12)
@given(data=st.data(), T=st.integers(1, 9))
def test_padded_steps_leave_the_state_and_put_out_zero(name, start, data, T):
    layer = make(name, initial_state=start).double()
    x = torch.randn(3, T, D, dtype=torch.float64)
    row = st.lists(st.booleans(), min_size=T, max_size=T)
    mask = torch.tensor(data.draw(st.lists(row, min_size=3, max_size=3)))
    poisoned = x.masked_fill(~mask[..., None], float("nan"))
    y, final = layer(poisoned, mask=mask, return_state=True)
    assert (y[~mask] == 0).all()
    for b in range(3):
        want, want_final = layer(x[b : b + 1, mask[b]], return_state=True)
        assert relative_error(y[b, mask[b]], want[0]) < PRODUCTS
        assert relative_error(final[b], want_final[0]) < PRODUCTS


@each_layer
def test_every_parameter_gets_a_gradient_that_finite_differences_confirm(name):
    layer = make(name, initial_state="learned").double()
    x = torch.randn(2, 5, D, dtype=torch.float64)
    names = [n for n, _ in layer.named_parameters()]

    def loss(*parameters):
        values = dict(zip(names, parameters, strict=True))
        y, state = torch.func.functional_call(layer, values, (x,), {"return_state": True})
        return y.square().sum() + state.square().sum()

    parameters = tuple(p.detach().requires_grad_() for p in layer.parameters())
    assert torch.autograd.gradcheck(loss, parameters, fast_mode=True)
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(loss(*parameters), parameters))


@each_layer
@each_start
def test_many_gradients_at_once_are_those_of_each_alone(name, start):
    layer = make(name, initial_state=start).double()
    x = torch.randn(1, 40, D, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    y = layer(x)
    cotangents = torch.randn(3, *y.shape, dtype=torch.float64)
    together = torch.autograd.grad(y, inputs, cotangents, is_grads_batched=True, retain_graph=True)
    for i, cotangent in enumerate(cotangents):
        alone = torch.autograd.grad(y, inputs, cotangent, retain_graph=True)
        torch.testing.assert_close([gradient[i] for gradient in together], list(alone))


@each_layer
def test_columns_added_for_speed_change_no_result(name):
    layer = make(name, initial_state="learned").double()
    x = torch.randn(2, 6, D, dtype=torch.float64)
    bounds = torch.tensor([0, 2, 6], dtype=torch.int32)
    want, want_final = layer(x, return_state=True)
    want_packed = layer(x[:1], cu_seqlens=bounds)
    keys = set(layer.state_dict())
    layer._extra_columns = lambda x: 3
    got, final = layer(x, return_state=True)
    assert relative_error(got, want) < PRODUCTS
    assert relative_error(final, want_final) < PRODUCTS
    assert relative_error(layer(x[:1], cu_seqlens=bounds), want_packed) < PRODUCTS
    assert set(layer.state_dict()) == keys


def test_the_formula_of_the_paper_stands_in_the_parameters():
    M, N, x = 3, 4, torch.randn(2, 6, D, dtype=torch.float64)
    layer = BDLRU(D, num_blocks=N, block_size=M).double()
    z = (x @ layer.gate.weight.T + layer.gate.bias).view(2, 6, M, M + 1, N)
    h, _ = bdlru_scan(z, (x @ layer.value.weight.T).view(2, 6, M, N))
    assert relative_error(layer(x), h.flatten(2) @ layer.output.weight.T) < PRODUCTS
    layer = HLRU(D, num_channels=N, order=M).double()
    z = (x @ layer.gate.weight.T + layer.gate.bias).view(2, 6, M + 1, N)
    h, _ = hlru_scan(z, x @ layer.value.weight.T)
    window = torch.zeros(2, 6, M, N, dtype=torch.float64)
    for k in range(M):
        window[:, k:, k] = h[:, : 6 - k]
    assert relative_error(layer(x), window.flatten(2) @ layer.output.weight.T) < PRODUCTS


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("bdlru", {"gate.weight": (60, D), "gate.bias": (60,), "value.weight": (15, D), "output.weight": (D, 15)}),
        ("hlru-window", {"gate.weight": (20, D), "gate.bias": (20,), "value.weight": (5, D), "output.weight": (D, 15)}),
        ("bdlru-constant", {"gate_logits": (3, 4, 5), "value.weight": (15, D), "output.weight": (D, 15)}),
        ("hlru-constant", {"gate_logits": (4, 5), "value.weight": (5, D), "output.weight": (D, 5)}),
    ],
)  # fmt: skip
def test_checkpoints_keep_these_names_and_shapes(name, keys):
    state = LAYERS[name](initial_state="learned").state_dict()
    rows, columns = (3, 5)
    assert {k: tuple(v.shape) for k, v in state.items()} == {**keys, "initial_state": (rows, columns)}
    assert "initial_state" not in LAYERS[name]().state_dict()
    assert state._metadata[""]["version"] == 1


def test_parameters_start_as_in_the_paper():
    torch.manual_seed(0)
    layer = BDLRU(64, num_blocks=32, block_size=4, initial_state="learned")
    for weight in (layer.gate.weight, layer.value.weight, layer.output.weight):
        assert weight.mean().abs() < 1e-3
        assert abs(weight.std().item() - 0.02) < 1e-3
    assert (layer.gate.bias == 0).all()


@pytest.mark.parametrize("family", [BDLRU, HLRU])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_constant_gates_start_so_that_every_parameter_learns(family, normalization):
    torch.manual_seed(0)
    sizes = {"num_blocks": 16, "block_size": 3} if family is BDLRU else {"num_channels": 48, "order": 3}
    layer = family(8, selective=False, normalization=normalization, initial_state="learned", **sizes)
    x, target = torch.randn(2, 2, 20, 8).unbind()
    first = [parameter.detach().clone() for parameter in layer.parameters()]
    optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]
    assert not any(torch.equal(a, b) for a, b in zip(first, layer.parameters(), strict=True))


def test_parameters_may_start_so_that_signals_keep_their_size():
    torch.manual_seed(0)
    layer = BDLRU(256, num_blocks=16, block_size=4, weight_init="fan-in")
    for weight, inputs in ((layer.gate.weight, 256), (layer.value.weight, 256), (layer.output.weight, 64)):
        assert weight.std().item() == pytest.approx(inputs**-0.5, rel=0.03)
    assert (layer.gate.bias == 0).all()
    assert layer.value(torch.randn(64, 256)).std().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("name", ["bdlru", "hlru-window"])
def test_identity_leaning_gates_keep_the_state_at_first(name):
    layer = LAYERS[name](gate_init="identity")
    kept = layer.transition(torch.zeros(1, 1, D))[0, 0]
    diagonal = kept.diagonal(dim1=-2, dim2=-1) if name == "bdlru" else kept[:, 0, :1]
    assert (diagonal > 0.8).all()


@pytest.mark.parametrize("name", ["bdlru", "hlru-window"])
@pytest.mark.parametrize("normalization", ["softmax", "sigmoid"])
def test_closed_gates_let_nothing_enter_at_first(name, normalization):
    layer = LAYERS[name](gate_init="closed", normalization=normalization)
    kept = layer.transition(torch.randn(2, 5, D))
    kept = kept if name == "bdlru" else kept[..., :1, :]
    assert (kept.sum(-1) > 0.99).all()
    opened = LAYERS[name](normalization=normalization)
    opened.load_state_dict({**layer.state_dict(), "gate.bias": torch.zeros_like(layer.gate.bias)})
    x = torch.randn(2, 1, D)
    assert layer(x).norm() < 0.05 * opened(x).norm()


@pytest.mark.parametrize("name", ["bdlru", "hlru-window", "hlru-latest"])
def test_gate_noise_is_drawn_anew_in_training_and_is_absent_otherwise(name):
    torch.manual_seed(0)
    quiet, noisy = LAYERS[name](), LAYERS[name](gate_noise=1.0)
    noisy.load_state_dict(quiet.state_dict())
    x = torch.randn(2, 7, D)
    assert not torch.equal(noisy(x), noisy(x))
    state = noisy.initial_state_for(2) + 1
    assert not torch.equal(noisy.step(x[:, 0], state)[0], noisy.step(x[:, 0], state)[0])
    torch.manual_seed(1)
    first = noisy(x)
    torch.manual_seed(1)
    assert torch.equal(noisy(x), first)
    noisy.eval()
    assert torch.equal(noisy(x), quiet(x))
    assert torch.equal(noisy.step(x[:, 0], state)[0], quiet.step(x[:, 0], state)[0])


def test_gate_noise_has_the_standard_deviation_that_was_asked_for():
    torch.manual_seed(0)
    layer = BDLRU(
        1, num_blocks=4096, block_size=1, normalization="none", gate_noise=0.7, initial_state="learned"
    )
    with torch.no_grad():
        for parameter in (layer.gate.weight, layer.gate.bias, layer.value.weight):
            parameter.zero_()
        layer.initial_state.fill_(1.0)
    _, state = layer(torch.zeros(1, 1, 1), return_state=True)  # the logit is the factor on a state of one
    assert state.mean().abs() < 0.04
    assert state.std().item() == pytest.approx(0.7, rel=0.05)


def test_gradients_flow_through_the_noise_that_was_drawn():
    torch.manual_seed(0)
    layer = BDLRU(4, num_blocks=3, block_size=2, gate_noise=1.0, dtype=torch.float64)
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)

    def drawn_alike(x):
        torch.manual_seed(3)
        return layer(x)

    assert torch.autograd.gradcheck(drawn_alike, (x,))


@pytest.mark.parametrize("name", ["bdlru", "hlru-window", "hlru-latest"])
def test_a_block_that_is_left_out_is_read_at_no_step_of_its_sequence(name):
    """Dropping is the same as zeroing the block's part of the readout and scaling the rest."""
    torch.manual_seed(0)
    whole, dropped = LAYERS[name](), LAYERS[name](block_dropout=0.5)
    dropped.load_state_dict(whole.state_dict())
    x, state = torch.randn(3, 7, D), whole.initial_state_for(3) + 1
    torch.manual_seed(1)
    y, final = dropped(x, state, return_state=True)
    torch.manual_seed(1)
    kept = torch.rand(3, final.shape[-1]) >= 0.5
    assert 0 < kept.sum() < kept.numel()
    for sequence in range(3):
        masked = LAYERS[name]()
        masked.load_state_dict(whole.state_dict())
        with torch.no_grad():
            masked.output.weight.unflatten(1, (-1, final.shape[-1])).mul_(2 * kept[sequence])
        wanted, same = masked(x[sequence : sequence + 1], state[sequence : sequence + 1], return_state=True)
        torch.testing.assert_close(y[sequence : sequence + 1], wanted)
        torch.testing.assert_close(final[sequence : sequence + 1], same)
    dropped.eval()
    assert torch.equal(dropped(x, state), whole(x, state))
    assert torch.equal(dropped.step(x[:, 0], state[:])[0], whole.step(x[:, 0], state)[0])


@pytest.mark.parametrize("name", ["bdlru", "hlru-window", "hlru-latest"])
def test_packed_and_padded_sequences_leave_out_blocks_of_their_own(name):
    torch.manual_seed(0)
    layer = LAYERS[name](block_dropout=0.5)
    lengths = [3, 0, 5, 2]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    x = torch.randn(1, 10, D)
    torch.manual_seed(2)
    packed = layer(x, cu_seqlens=bounds)
    padded = torch.zeros(4, 5, D)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    padded[mask] = x[0]
    torch.manual_seed(2)
    torch.testing.assert_close(layer(padded, mask=mask)[mask], packed[0])
    torch.manual_seed(2)
    torch.testing.assert_close(layer(padded)[mask], packed[0])


def test_dropped_blocks_keep_the_mean_of_what_is_read():
    torch.manual_seed(0)
    layer = BDLRU(4, num_blocks=6, block_size=2, block_dropout=0.3, dtype=torch.float64)
    x = torch.randn(1, 5, 4, dtype=torch.float64)
    many = layer(x.expand(20_000, -1, -1)).mean(0)
    layer.eval()
    torch.testing.assert_close(many, layer(x)[0], atol=0.02 * layer(x).abs().max().item(), rtol=0)


def test_a_step_in_training_leaves_out_blocks_as_well():
    torch.manual_seed(0)
    layer = BDLRU(4, num_blocks=3, block_size=2, block_dropout=0.5, initial_state="learned")
    x = torch.randn(6, 4)
    assert len({tuple(layer.step(x)[0][0].tolist()) for _ in range(20)}) > 2
    torch.manual_seed(3)
    eager = layer.step(x)[0]
    torch.manual_seed(3)
    torch.testing.assert_close(layer._plain_step(x, None)[0], eager)


def test_a_layer_is_made_on_the_meta_device_and_filled_later():
    layer = BDLRU(D, num_blocks=4, block_size=2, initial_state="learned", device="meta")
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert layer(torch.randn(1, 3, D)).isfinite().all()


def test_a_swap_and_a_cycle_have_their_eigenvalues():
    layer = BDLRU(D, num_blocks=1, block_size=3, selective=False)
    with torch.no_grad():
        layer.gate_logits.fill_(-200.0)
        for row, column in ((0, 1), (1, 2), (2, 0)):
            layer.gate_logits[row, column] = 200.0
    values = layer.transition_spectrum(torch.zeros(1, 1, D)).flatten()
    assert values.shape == (3,)
    assert relative_error((values**3).real, torch.ones(3)) < 1e-5
    assert sorted(values.angle().abs().tolist()) == pytest.approx([0, 2 * torch.pi / 3, 2 * torch.pi / 3])


@each_layer
def test_the_spectrum_is_that_of_each_blocks_transition(name):
    layer = make(name)
    x = torch.randn(2, 4, D)
    spectrum = layer.transition_spectrum(x)
    rows = 1 if name == "bdlru-diagonal" else 3
    columns = 7 if name == "bdlru-diagonal" else 5
    steps = (1, 1) if "constant" in name else (2, 4)
    assert spectrum.shape == (*steps, columns, rows)
    assert relative_error(spectrum.prod(-1).real, torch.linalg.det(layer.transition(x))) < 1e-4


def test_the_companion_matrix_moves_the_window():
    layer = make("hlru-window").double()
    x, state = torch.randn(2, 1, D, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        layer.value.weight.zero_()
    _, moved = layer(x, state, return_state=True)
    want = torch.einsum("bnij,bjn->bin", layer.transition(x)[:, 0], state)
    assert relative_error(moved, want) < PRODUCTS


@each_layer
def test_autocast_projects_in_its_dtype_and_keeps_the_state_wide(name):
    layer = make(name, initial_state="learned")
    x = torch.randn(2, 6, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(x, return_state=True)
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert relative_error(y, layer(x)) < 0.05


@pytest.mark.parametrize("name", ["bdlru", "hlru-window"])
def test_autocast_casts_no_doubles_and_no_integers(name):
    layer, x = make(name), torch.randn(2, 3, D)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        for other in (x.double(), x.int()):
            with pytest.raises(
                TypeError, match=f"layer's dtype torch.float32; got {other.dtype}: cast one of"
            ):
                layer(other)


@each_layer
def test_shapes_are_found_on_the_meta_device_with_and_without_gradients(name):
    layer, x = make(name).to("meta"), torch.empty(2, 3, D, device="meta")
    y, state = layer(x, return_state=True)
    assert y.requires_grad and y.shape == x.shape and state.shape == layer.initial_state_for(2).shape
    with torch.no_grad():
        assert layer(x).shape == x.shape


@each_layer
def test_an_exported_layer_runs_at_other_lengths(name):
    layer, x = make(name), torch.randn(2, 8, D)
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time", min=2, max=4096)
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: batch, 1: time}})
    for shape in ((1, 3), (3, 50)):
        x = torch.randn(*shape, D)
        torch.testing.assert_close(program.module()(x), layer(x))


@each_layer
def test_a_compiled_step_refuses_a_state_of_another_batch(name):
    torch._dynamo.reset()
    layer = make(name)
    step = torch.compile(layer.step, backend="eager")
    with pytest.raises(ValueError, match=r"state must be \(B, M, N\)"):
        step(torch.randn(2, D), layer.initial_state_for(1))


@each_layer
def test_a_layer_compiles_whole_and_trains_the_same(name):
    torch._dynamo.reset()
    layer = make(name, initial_state="learned")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 6, D)
    layer(x).square().sum().backward()
    want = {n: p.grad.clone() for n, p in layer.named_parameters()}
    layer.zero_grad()
    compiled(x).square().sum().backward()
    for n, p in layer.named_parameters():
        assert relative_error(p.grad, want[n]) < 1e-5


@each_layer
def test_a_compiled_layer_takes_masks_whole_and_trains_the_same(name):
    torch._dynamo.reset()
    layer = make(name, initial_state="learned").double()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    masks = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    for mask, state in ((masks, None), (masks.flip(1), torch.randn_like(layer.initial_state_for(3)))):
        x = torch.randn(3, 5, D, dtype=torch.float64).masked_fill(~mask[..., None], torch.nan)
        found = []
        for call in (layer, compiled):
            layer.zero_grad()
            y, end = call(x, state, mask=mask, return_state=True)
            (y.square().sum() + end.square().sum()).backward()
            found.append([y, end, *(p.grad for p in layer.parameters() if p.grad is not None)])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(other, one)


@each_layer
def test_masks_may_be_mapped_and_exported_and_have_shapes_alone(name):
    layer, x, masks = make(name), torch.randn(2, 3, 4, D), torch.rand(2, 3, 4) < 0.6
    each = torch.stack([layer(some, mask=mask) for some, mask in zip(x, masks, strict=True)])
    mapped = torch.func.vmap(lambda some, mask: layer(some, mask=mask))(x, masks)
    torch.testing.assert_close(mapped, each)
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        layer, (x[0],), {"mask": masks[0]}, dynamic_shapes={"x": sizes, "mask": sizes}
    )
    for rows, steps in ((3, 4), (2, 3)):
        given, mask = x[1, :rows, :steps], masks[1, :rows, :steps]
        torch.testing.assert_close(program.module()(given, mask=mask), layer(given, mask=mask))
    assert copy.deepcopy(layer).to("meta")(x[0].to("meta"), mask=masks[0].to("meta")).shape == (3, 4, D)


@each_layer
@pytest.mark.parametrize("recompute_gates", [False, True])
def test_adapters_around_projections_count_as_in_the_merged_weights(name, recompute_gates):
    layer = make(name, recompute_gates=recompute_gates).double()
    adapt(layer)
    merged = copy.deepcopy(layer)
    merge(merged)
    x = torch.randn(1, 11, D, dtype=torch.float64)
    bounds, mask = torch.tensor([0, 4, 11], dtype=torch.int32), torch.rand(1, 11) < 0.7
    for options in ({}, {"cu_seqlens": bounds}, {"mask": mask}):
        torch.testing.assert_close(layer(x, **options), merged(x, **options))
    state = None
    for t in range(11):
        y, state = layer.step(x[:, t], state)
    torch.testing.assert_close(y, merged(x)[:, -1])
    layer(x).square().sum().backward()
    adapters = [p for name, p in layer.named_parameters() if name.endswith((".down", ".up"))]
    assert adapters and all(p.grad.abs().max() > 0 for p in adapters)


@each_layer
def test_hooks_of_projections_run_and_may_bring_their_weights(name):
    layer = make(name)
    x = torch.randn(2, 5, D)
    wanted, weight = layer(x), layer.value.weight

    def bring(module, args):
        module.weight = weight

    def take(module, args, output):
        module.weight = torch.nn.Parameter(torch.empty_like(weight, device="meta"))

    layer.value.register_forward_pre_hook(bring)
    layer.value.register_forward_hook(take)
    take(layer.value, None, None)
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer.step(x[:, 0])[0], wanted[:, 0])


@each_layer
def test_hooks_of_all_modules_run_for_every_projection_and_may_change_what_it_takes(name):
    layer = make(name)
    doubled = copy.deepcopy(layer)
    with torch.no_grad():
        for module in doubled.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(2)
    x = torch.randn(2, 60, D)

    def double(module, args):
        return (2 * args[0],) if isinstance(module, torch.nn.Linear) else None

    with torch.nn.modules.module.register_module_forward_pre_hook(double):
        y = layer(x)
    torch.testing.assert_close(y, doubled(x))


def test_state_alone_is_not_returned_unless_asked():
    layer = make("bdlru")
    y = layer(torch.randn(1, 3, D), layer.initial_state_for(1))
    assert isinstance(y, torch.Tensor)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: BDLRU(8, num_blocks=0, block_size=2), ValueError, "BDLRU: num_blocks must be"),
        (lambda: HLRU(8, num_channels=2, order=0), ValueError, "HLRU: order must be an integer of at least 1; got 0"),
        (lambda: BDLRU(8, num_blocks=2.5, block_size=2), ValueError, "num_blocks must be an integer .* got 2.5"),
        (lambda: HLRU("8", num_channels=2, order=2), ValueError, "HLRU: d_model must be an integer .* got '8'"),
        (lambda: BDLRU(8, num_blocks=2, block_size=2, dtype=torch.int32), TypeError, "dtype must be one of"),
        (lambda: HLRU(8, num_channels=2, order=2, dtype=torch.complex64), TypeError, "dtype must be one of"),
        (lambda: BDLRU(0, num_blocks=2, block_size=2), ValueError, "BDLRU: d_model must be an integer of at least 1"),
        (lambda: BDLRU(8, num_blocks=2, block_size=2, normalization="l2"), ValueError, "normalization must be"),
        (lambda: BDLRU(8, num_blocks=2, block_size=2, initial_state="ones"), ValueError, "initial_state must be"),
        (lambda: BDLRU(8, num_blocks=2, block_size=2, backend="gpu"), ValueError, "backend must be"),
        (lambda: BDLRU(8, num_blocks=2, block_size=2, gate_init="best"), ValueError, "gate_init must be"),
        (lambda: BDLRU(8, num_blocks=2, block_size=2, weight_init="best"), ValueError, "weight_init must be"),
        (
            lambda: BDLRU(8, num_blocks=2, block_size=2, gate_init="closed", normalization="tanh"),
            ValueError,
            "gate_init 'closed' needs a normalization that low logits shut",
        ),
        (lambda: HLRU(8, num_channels=2, order=2, gate_noise=-1), ValueError, "gate_noise must be a number from 0"),
        (
            lambda: BDLRU(8, num_blocks=2, block_size=2, block_dropout=1.0),
            ValueError,
            "block_dropout must be a share from 0 on, below 1; got 1.0",
        ),
        (
            lambda: HLRU(8, num_channels=2, order=2, gate_noise=float("nan")),
            ValueError,
            "gate_noise must be a number from 0",
        ),
        (
            lambda: BDLRU(8, num_blocks=2, block_size=2, gate_noise=1.0, recompute_gates=True),
            ValueError,
            "gate_noise and recompute_gates cannot be had together",
        ),
        (lambda: HLRU(8, num_channels=2, order=2, readout="all"), ValueError, "readout must be one of .None, 'window'"),
        (lambda: make("bdlru", block_dropout=None), ValueError, "BDLRU: block_dropout must be a share .*; got None"),
        (lambda: make("bdlru", gate_noise="a"), ValueError, "BDLRU: gate_noise must be a number from 0 on; got 'a'"),
        (lambda: make("bdlru", device="foo"), ValueError, "BDLRU: the device must be .* such as 'cpu' or 'cuda:1'; got 'foo'"),
        (lambda: make("bdlru", normalization="sofmax"), ValueError, "got 'sofmax'; nearest: softmax"),
        (lambda: make("bdlru", selective="no"), ValueError, "BDLRU: selective must be one of .True, False.; got 'no'"),
        (lambda: make("hlru-window", recompute_gates="yes"), ValueError, "HLRU: recompute_gates must be one of .True, False."),
        (lambda: make("bdlru")(torch.randn(3, D)), ValueError, r"got \(3, 12\): a batch of one is x\[None\]"),
        (lambda: make("bdlru")(torch.randn(2, 3, D + 1)), ValueError, "project it to that width, or make .* d_model=13"),
        (lambda: make("bdlru").step([1.0]), TypeError, "BDLRU: x must be a torch.Tensor; got list: make it one"),
        (lambda: make("bdlru")(torch.randn(2, 3, D), mask=torch.ones(2, 4).bool()), ValueError, "give one entry for each step"),
        (lambda: make("bdlru").initial_state_for(-1), ValueError, "BDLRU.initial_state_for: batch must be an integer of at least 0; got -1"),
        (lambda: make("bdlru", initial_state="learned").initial_state_for(1.5), ValueError, "batch must be an integer .* got 1.5"),
        (lambda: make("bdlru")(torch.randn(2, D)), ValueError, r"x must be \(B, T, D\) with D = d_model = 12"),
        (lambda: make("bdlru")(torch.randn(2, 3, D + 1)), ValueError, r"got \(2, 3, 13\)"),
        (lambda: make("bdlru")(torch.randn(2, 3, D).double()), TypeError, "the layer's dtype torch.float32"),
        (lambda: make("bdlru")(torch.randn(2, 3, D, device="meta")), ValueError, "the layer's device cpu"),
        (lambda: make("bdlru").transition(torch.randn(2, D)), ValueError, r"x must be \(B, T, D\)"),
        (lambda: make("hlru-window").transition(torch.randn(2, 3, D + 1)), ValueError, r"got \(2, 3, 13\)"),
        (lambda: make("bdlru")(torch.randn(2, 3, D).to_sparse()), TypeError, "a dense tensor; got torch.sparse_coo"),
        (lambda: make("bdlru")(torch.nested.as_nested_tensor([torch.randn(2, D), torch.randn(3, D)], layout=torch.jagged)),
         TypeError, "one dense tensor; got a nested one"),
        (lambda: make("bdlru")(torch.randn(2, 3, D), mask=torch.ones(2, 3, device="meta").bool()), ValueError,
         "mask must be on cpu as x is; got meta"),
        (lambda: make("bdlru").step(torch.randn(2, 3, D)), ValueError, r"x must be \(B, D\)"),
        (lambda: make("bdlru")(torch.randn(2, 3, D), torch.randn(1, 3, 5)), ValueError, "BDLRU: state must be"),
        (lambda: make("bdlru")(torch.randn(2, 3, D), mask=torch.ones(2, 3)), TypeError, "mask must be a bool"),
        (lambda: make("bdlru")(torch.randn(2, 3, D), mask=torch.ones(2, 4).bool()), ValueError, r"mask must be \(B, T\)"),
        (
            lambda: make("bdlru")(torch.randn(1, 3, D), mask=torch.ones(1, 3).bool(),
                                  cu_seqlens=torch.tensor([0, 3], dtype=torch.int32)),
            ValueError, "mask and cu_seqlens cannot be given together",
        ),
        (lambda: make("hlru-window")(torch.randn(2, 3, D), cu_seqlens=torch.tensor([0, 3], dtype=torch.int32)),
         ValueError, "HLRU: cu_seqlens needs a batch of 1"),
    ],
)  # fmt: skip
def test_bad_use_of_a_layer_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
