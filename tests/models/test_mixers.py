"""Every mixer keeps one interface: pieces, steps, packing and padding all mean the same sequence."""

import contextlib
import re
import typing
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from statemix.models import MIXERS, Mixer, MixerConfig, make_mixer
from statemix.models.mixers import options_of
from statemix.nn.baselines import MLSTM, RWKV7, CausalAttention, DeltaNet, Recurrent
from statemix.training.optimizer import decays

WIDTH = 8
CLOSE = {"atol": 1e-9, "rtol": 1e-9}

CONFIGS = {
    "bdlru": MixerConfig(name="bdlru", block_size=3, initial_state="learned"),
    "bdlru zeros tanh": MixerConfig(name="bdlru", block_size=2, normalization="tanh"),
    "bdlru not selective": MixerConfig(name="bdlru", block_size=2, selective=False),
    "bdlru convolved": MixerConfig(block_size=2, convolution=True, initial_state="learned"),
    "hlru": MixerConfig(name="hlru", block_size=3, initial_state="learned"),
    "hlru convolved": MixerConfig(name="hlru", block_size=2, convolution=True),
    "hlru latest": MixerConfig(name="hlru", block_size=2, readout="latest"),
    "lru": MixerConfig(name="lru", num_blocks=3, block_size=2),
    "selective-lru": MixerConfig(name="selective-lru", initial_state="learned"),
    "rg-lru": MixerConfig(name="rg-lru", num_blocks=5),
    "rg-lru, bare": MixerConfig(name="rg-lru", convolution=False, output_gate=False, initial_state="learned"),
    "mingru": MixerConfig(name="mingru", initial_state="learned"),
    "mamba": MixerConfig(name="mamba", state_size=3),
    "mamba, bare": MixerConfig(name="mamba", convolution=False, output_gate=False, initial_state="learned"),
    "mamba2": MixerConfig(name="mamba2", state_size=6, head_dim=4),
    "mamba2, bare": MixerConfig(name="mamba2", convolution=False, output_gate=False, initial_state="learned"),
    "pd-ssm": MixerConfig(name="pd-ssm", num_blocks=5, block_size=1),
    "pd-ssm, learned state": MixerConfig(name="pd-ssm", initial_state="learned"),
    "mlstm": MixerConfig(name="mlstm", num_heads=2),
    "mlstm, learned state": MixerConfig(name="mlstm", head_dim=3, output_gate=False, initial_state="learned"),
    "rwkv7": MixerConfig(name="rwkv7", num_heads=2),
    "rwkv7, learned state": MixerConfig(name="rwkv7", head_dim=5, initial_state="learned"),
    "lstm": MixerConfig(name="lstm"),
    "gru": MixerConfig(name="gru", block_size=4, num_blocks=3),
    "lstm loop, learned state": MixerConfig(name="lstm", backend="torch", initial_state="learned"),
    "gru loop": MixerConfig(name="gru", backend="torch"),
    "deltanet": MixerConfig(name="deltanet", num_heads=2, negative_eigenvalues=True, convolution=False),
    "gated-deltanet": MixerConfig(name="gated-deltanet", num_heads=2, initial_state="learned"),
    "deltaproduct": MixerConfig(name="deltaproduct", head_dim=3, householder_steps=3, output_gate=False),
    "attention": MixerConfig(name="attention", num_heads=2),
    "attention, rotary": MixerConfig(name="attention", num_heads=2, rotary=True),
    "attention, learned state": MixerConfig(name="attention", head_dim=3, initial_state="learned"),
}


@pytest.fixture(autouse=True)
def float64():
    """Two ways to one result then differ by rounding alone, however the weights were drawn."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=CONFIGS)
def mixer(request):
    torch.manual_seed(0)
    layer = make_mixer(CONFIGS[request.param], WIDTH)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer.eval()


def leaves(state):
    return state if isinstance(state, tuple) else (state,)


def assert_same(one, other):
    for a, b in zip(leaves(one), leaves(other), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_every_name_in_the_table_is_tested():
    assert {config.name for config in CONFIGS.values()} == set(MIXERS)


def test_the_table_of_the_documentation_names_every_baseline_and_its_options():
    text = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text()
    rows = {
        name: line
        for line in text.splitlines()
        for name in re.findall(r"`([^`]+)`", line.split("|")[1] if line.startswith("|") else "")
    }
    for name in set(MIXERS) - {"bdlru", "hlru"}:
        said = rows[name]
        if "the same" in said:
            said += rows["deltanet"]
        for option in set(options_of(name)) - {"initial_state"}:
            assert f"`{option}`" in said, (name, option)


def test_weight_decay_leaves_states_rates_and_phases_alone(mixer):
    by_name = decays(mixer)
    for name in by_name:
        if "weight" not in name and name != "dictionary":
            assert not by_name[name], name


def test_pieces_of_any_length_make_the_whole(mixer):
    @settings(max_examples=15)
    @given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), batch=st.integers(1, 3))
    def check(lengths, batch):
        x = torch.randn(batch, sum(lengths), WIDTH, generator=torch.Generator().manual_seed(len(lengths)))
        whole, end = mixer(x, return_state=True)
        state, parts = None, []
        for piece in x.split(lengths, 1):
            y, state = mixer(piece, state, return_state=True)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), whole, **CLOSE)
        assert_same(state, end)

    check()


def test_steps_make_the_whole(mixer):
    x = torch.randn(2, 7, WIDTH)
    whole, end = mixer(x, return_state=True)
    state, outputs = None, []
    for token in x.unbind(1):
        y, state = mixer.step(token, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole, **CLOSE)
    assert_same(state, end)


def test_without_return_state_the_output_comes_alone(mixer):
    x = torch.randn(2, 3, WIDTH)
    y, state = mixer(x, return_state=True)
    torch.testing.assert_close(mixer(x), y)
    torch.testing.assert_close(mixer(x, state), mixer(x, state, return_state=True)[0])


def test_packed_sequences_are_strangers_to_each_other(mixer):
    lengths = [4, 1, 6]
    x = torch.randn(1, sum(lengths), WIDTH)
    bounds = torch.tensor([0, 4, 5, 11], dtype=torch.int32)
    apart = [mixer(piece) for piece in x.split(lengths, 1)]
    torch.testing.assert_close(mixer(x, cu_seqlens=bounds), torch.cat(apart, 1), **CLOSE)


def test_packed_sequences_of_unlike_lengths_mean_what_each_means_and_go_on_from_their_states(mixer):
    lengths = [3, 70, 0, 1, 40, 2, 5]
    x = torch.randn(1, sum(lengths), WIDTH, requires_grad=True)
    weight = torch.randn(1, sum(lengths), WIDTH)
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    y, states = mixer(x, return_state=True, cu_seqlens=bounds)
    apart = [mixer(piece, return_state=True) for piece in x.split(lengths, 1)]
    whole = torch.cat([piece for piece, _ in apart], 1)
    torch.testing.assert_close(y, whole, **CLOSE)
    of_packed, of_each = (torch.autograd.grad((z * weight).sum(), x)[0] for z in (y, whole))
    torch.testing.assert_close(of_packed, of_each, **CLOSE)

    more = torch.randn(1, 2 * len(lengths), WIDTH)
    after = mixer(more, states, cu_seqlens=torch.arange(0, more.shape[1] + 1, 2, dtype=torch.int32))
    wanted = [mixer(piece, end) for piece, (_, end) in zip(more.split(2, 1), apart, strict=True)]
    torch.testing.assert_close(after, torch.cat(wanted, 1), **CLOSE)


@pytest.mark.parametrize("name", [n for n in CONFIGS if not n.startswith("attention")])
def test_packed_states_are_those_at_the_ends(name):
    mixer = make_mixer(CONFIGS[name], WIDTH)
    x = torch.randn(1, 9, WIDTH)
    bounds = torch.tensor([0, 4, 4, 9], dtype=torch.int32)
    before = [mixer(torch.randn(1, 2, WIDTH), return_state=True)[1] for _ in range(3)]
    joined = [torch.cat(parts) for parts in zip(*map(leaves, before), strict=True)]
    state = tuple(joined) if isinstance(before[0], tuple) else joined[0]
    y, end = mixer(x, state, return_state=True, cu_seqlens=bounds)
    first, first_end = mixer(x[:, :4], before[0], return_state=True)
    last, last_end = mixer(x[:, 4:], before[2], return_state=True)
    torch.testing.assert_close(y, torch.cat([first, last], 1), **CLOSE)
    for found, *wanted in zip(*map(leaves, (end, first_end, before[1], last_end)), strict=True):
        torch.testing.assert_close(found, torch.cat(wanted), **CLOSE)


def test_packed_states_that_do_not_fit_are_refused(mixer):
    _, state = mixer(torch.randn(2, 4, WIDTH), return_state=True)
    x, bounds = torch.randn(1, 84, WIDTH), torch.tensor([0, 1, 82, 84], dtype=torch.int32)
    with pytest.raises(ValueError, match="state must be"):
        mixer(x, state, cu_seqlens=bounds)


def test_padded_places_are_as_if_they_were_not_there(mixer):
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]).bool()
    x = torch.randn(4, 5, WIDTH)
    y, state = mixer(torch.where(mask[..., None], x, 1e6), return_state=True, mask=mask)
    assert (y[~mask] == 0).all()
    for row in (0, 2, 3):
        alone, end = mixer(x[row : row + 1, mask[row]], return_state=True)
        torch.testing.assert_close(y[row, mask[row]], alone[0], **CLOSE)
        if not isinstance(mixer, CausalAttention):
            for found, wanted in zip(leaves(state), leaves(end), strict=True):
                torch.testing.assert_close(found[row : row + 1], wanted, **CLOSE)


def test_the_future_leaves_the_past_alone(mixer):
    x = torch.randn(2, 9, WIDTH)
    changed = x.clone()
    changed[:, 5:] = torch.randn(2, 4, WIDTH)
    torch.testing.assert_close(mixer(changed)[:, :5], mixer(x)[:, :5], **CLOSE)
    assert not torch.allclose(mixer(changed)[:, 5:], mixer(x)[:, 5:])


def test_no_steps_leave_the_state_as_it_is(mixer):
    _, before = mixer(torch.randn(2, 3, WIDTH), return_state=True)
    y, after = mixer(torch.randn(2, 0, WIDTH), before, return_state=True)
    assert y.shape == (2, 0, WIDTH)
    for one, other in zip(leaves(before), leaves(after), strict=True):
        assert torch.equal(one, other)


def test_a_batch_of_no_sequences_or_no_steps_goes_through(mixer):
    for batch, time in ((0, 3), (2, 0), (0, 0)):
        x = torch.randn(batch, time, WIDTH, requires_grad=True)
        y, state = mixer(x, return_state=True)
        y.sum().backward()
        again, _ = mixer(x, state, return_state=True)
        padded = mixer(x, mask=torch.ones(batch, time, dtype=torch.bool))
        assert y.shape == again.shape == padded.shape == x.shape


def test_a_state_that_does_not_fit_is_refused_and_not_stretched(mixer):
    x = torch.randn(3, 4, WIDTH)
    _, state = mixer(x, return_state=True)
    wrap = tuple if isinstance(state, tuple) else lambda tensors: next(iter(tensors))
    for rows in (1, 2):
        few = wrap(tensor[:rows] for tensor in leaves(state))
        with pytest.raises(ValueError, match="state must be"):
            mixer(x, few)
        with pytest.raises(ValueError, match="state must be"):
            mixer.step(x[:, 0], few)
    if not isinstance(mixer, CausalAttention):  # whose cache has the dtype of keys and values
        with pytest.raises(TypeError, match=r"state must be torch\.float64"):
            mixer(x, wrap(tensor.bfloat16() for tensor in leaves(state)))
    if isinstance(state, tuple):
        with pytest.raises(ValueError, match=rf"state must be {len(state)} tensors"):
            mixer(x, state[0])
    with pytest.raises(TypeError, match=r"state must be .*; got int"):
        mixer(x, 3)


def test_an_input_of_another_dtype_is_named(mixer):
    with pytest.raises(TypeError, match=r"x must have the layer's dtype torch\.float64; got torch\.float32"):
        mixer(torch.randn(1, 3, WIDTH).float())


def test_mask_and_packing_exclude_each_other(mixer):
    bounds, mask = torch.tensor([0, 3], dtype=torch.int32), torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="mask"):
        mixer(torch.randn(1, 3, WIDTH), cu_seqlens=bounds, mask=mask)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_loop_of_a_cell_is_the_fused_kernel(cell):
    fused, loop = (Recurrent(cell, 5, hidden_size=7, backend=backend) for backend in ("auto", "torch"))
    loop.load_state_dict(fused.state_dict())
    x = torch.randn(3, 9, 5)
    mask = torch.rand(3, 9) < 0.6
    for options in ({}, {"mask": mask}):
        wanted, end = fused(x, return_state=True, **options)
        got, loop_end = loop(x, return_state=True, **options)
        torch.testing.assert_close(got, wanted, **CLOSE)
        assert_same(loop_end, end)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_an_lstm_is_the_equations_of_an_lstm(backend):
    layer = Recurrent("lstm", 3, hidden_size=4, backend=backend)
    weights = [p.detach() for p in layer.recurrence.parameters()]
    w_in, w_hidden, b_in, b_hidden = weights
    x = torch.randn(2, 5, 3)
    hidden = cell = torch.zeros(2, 4)
    for t in range(5):
        i, f, g, o = (x[:, t] @ w_in.T + hidden @ w_hidden.T + b_in + b_hidden).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
    y, state = layer(x, return_state=True)
    assert_same(state, (hidden, cell))
    torch.testing.assert_close(y[:, -1], hidden @ layer.output.weight.T, **CLOSE)


def test_attention_weighs_the_past_by_softmax():
    layer = CausalAttention(6, num_heads=2)
    x = torch.randn(1, 4, 6)
    query, key, value = (part[0].view(4, 2, 3) for part in layer.query_key_value(x).chunk(3, -1))
    rows = []
    for t in range(4):
        heads = []
        for h in range(2):
            scores = torch.stack([query[t, h] @ key[s, h] / 3**0.5 for s in range(t + 1)]).softmax(0)
            heads.append(sum(scores[s] * value[s, h] for s in range(t + 1)))
        rows.append(torch.cat(heads) @ layer.output.weight.T)
    torch.testing.assert_close(layer(x)[0], torch.stack(rows), **CLOSE)


def test_rotary_scores_depend_on_distance_alone():
    torch.manual_seed(0)
    layer = make_mixer(MixerConfig(name="attention", num_heads=2, rotary=True), WIDTH)
    x = torch.randn(1, 6, WIDTH)
    same = layer(x[:, :1].expand(-1, 6, -1), return_state=True)[1][0]
    scores = same @ same.transpose(2, 3)
    for distance in range(6):
        diagonal = scores.diagonal(distance, 2, 3)
        torch.testing.assert_close(diagonal, diagonal[..., :1].expand_as(diagonal), **CLOSE)
    assert not torch.allclose(scores[..., 0, 1], scores[..., 0, 5])
    with pytest.raises(ValueError, match="rotary needs an even head_dim; got 3"):
        make_mixer(MixerConfig(name="attention", head_dim=3, rotary=True), WIDTH)


def test_an_unknown_mixer_lists_the_nearest():
    with pytest.raises(ValueError, match="no mixer 'bd-lru'; nearest: bdlru"):
        MixerConfig(name="bd-lru")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 0}, "block_size must be an integer of at least 1; got 0"),
        ({"block_size": 2.5}, r"block_size must be an integer of at least 1; got 2\.5"),
        ({"num_blocks": 0}, "num_blocks must be an integer of at least 1; got 0"),
        ({"num_heads": "2"}, "num_heads must be an integer of at least 1; got '2'"),
    ],
)
def test_sizes_that_are_no_integers_from_one_on_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MixerConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "gru", "convolution": True},
            "gru has no option convolution: .* it has initial_state, backend",
        ),
        ({"name": "lstm", "readout": "latest", "normalization": "tanh"}, "no option normalization, readout"),
        ({"name": "attention", "expand": 2.0}, "attention has no option expand"),
    ],
)
def test_options_that_a_mixer_lacks_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MixerConfig(**settings)


def test_a_mixer_of_ones_own_without_options_says_that_it_has_none(monkeypatch):
    own = Mixer(layer=nn.Linear, sizes=lambda config, width: {"out_features": width}, grows_with="expand")
    monkeypatch.setitem(MIXERS, "own", own)
    assert make_mixer(MixerConfig(name="own"), 7).out_features == 7
    with pytest.raises(ValueError, match="own has no option readout: leave it out; it has none of these"):
        MixerConfig(name="own", readout="latest")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"normalization": "sofmax"},
            "mixer bdlru: normalization must be one of .*; got 'sofmax'; nearest: softmax",
        ),
        ({"name": "hlru", "gate_init": "close"}, "mixer hlru: gate_init must be one of .* nearest: closed"),
        (
            {"name": "hlru", "readout": "last"},
            r"readout must be one of \('window', 'latest', None\); got 'last'",
        ),
        ({"initial_state": 0}, "initial_state must be one of .*; got 0"),
        ({"selective": "no"}, r"selective must be one of \(True, False\); got 'no'"),
        (
            {"backend": "tritn"},
            r"backend must be one of \('auto', .* 'triton'\); got 'tritn'; nearest: triton",
        ),
        (
            {"name": "lstm", "backend": "cuda"},
            r"mixer lstm: backend must be one of \('auto', 'torch'\); got 'cuda'",
        ),
        ({"gate_noise": "a"}, "mixer bdlru: gate_noise must be a number from 0 on; got 'a'"),
        ({"block_dropout": 1.0}, "mixer bdlru: block_dropout must be a share from 0 on, below 1; got 1.0"),
        ({"name": "mamba", "expand": "a"}, "mixer mamba: expand must be a number above 0; got 'a'"),
        ({"name": 3}, "no mixer 3"),
    ],
)
def test_choices_that_do_not_exist_are_refused_when_the_config_is_made(settings, message):
    with pytest.raises(ValueError, match=message):
        MixerConfig(**settings)


@pytest.mark.parametrize("name", [name for name in MIXERS if "backend" in options_of(name)])
def test_a_layer_runs_on_exactly_the_backends_that_the_table_gives_it(name):
    every = typing.get_args(typing.get_type_hints(MixerConfig)["backend"])
    for backend in every:
        refused = pytest.raises(ValueError, match="backend must be one of")
        with contextlib.nullcontext() if backend in MIXERS[name].backends else refused:
            MIXERS[name].layer(WIDTH, **MIXERS[name].sizes(MixerConfig(name=name), WIDTH), backend=backend)


def test_a_config_takes_another_name_with_what_that_one_has():
    config = MixerConfig(name="hlru", readout="latest", initial_state="learned", block_size=3)
    assert config.named("gru") == MixerConfig(name="gru", initial_state="learned", block_size=3)


@pytest.mark.parametrize("layer", [CausalAttention, DeltaNet, MLSTM, RWKV7])
@pytest.mark.parametrize("sizes", [{"num_heads": 0}, {"head_dim": 0}, {"num_heads": 2, "head_dim": 0}])
def test_no_heads_and_heads_of_no_width_are_refused(layer, sizes):
    with pytest.raises(ValueError, match=rf"{layer.__name__}: \w+ must be an integer of at least 1; got 0"):
        layer(WIDTH, **sizes)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="must divide the width 8; got 3"):
        make_mixer(MixerConfig(name="attention", num_heads=3), WIDTH)
