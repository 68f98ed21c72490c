"""Gates made sharper in the weights are those of larger logits, and hold for longer."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.prune import l1_unstructured

from statemix.kernels.reference.normalization import normalize
from statemix.models import LanguageModel, ModelConfig
from statemix.models.huggingface import StatemixConfig, StatemixForCausalLM
from statemix.nn import BDLRU, HLRU, sharpen_gates
from statemix.nn.sharpening import SHARPENED, gate_parameters


@settings(max_examples=20)
@given(
    blocks=st.integers(1, 5), size=st.integers(1, 4), factor=st.floats(0.25, 8.0),
    normalization=st.sampled_from(SHARPENED), selective=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_sharpened_layer_has_the_transitions_of_the_multiplied_logits(
    blocks, size, factor, normalization, selective, seed
):
    torch.manual_seed(seed)
    layer = BDLRU(
        6, num_blocks=blocks, block_size=size, normalization=normalization, selective=selective,
        dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        for gate in gate_parameters(layer).values():
            gate.normal_()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    logits = (
        layer.gate(x).unflatten(2, (size, size + 1, blocks)) if selective else layer.gate_logits[None, None]
    )
    wanted = normalize(factor * logits, 3, normalization)[..., :size, :]
    assert sharpen_gates(layer, factor) == 1
    torch.testing.assert_close(layer.transition(x), wanted.movedim(-1, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("selective", [True, False])
def test_gates_that_two_layers_share_are_multiplied_once(selective):
    model = nn.Sequential(
        *(BDLRU(6, num_blocks=2, block_size=2, selective=selective) for _ in range(2)),
    )
    shared = "gate" if selective else "gate_logits"
    setattr(model[1], shared, getattr(model[0], shared))
    with torch.no_grad():
        for gate in gate_parameters(model).values():
            gate.normal_()
    before = copy.deepcopy(model.state_dict())
    assert sharpen_gates(model, 3.0) == 2
    assert set(gate_parameters(model)) <= set(dict(model.named_parameters()))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] * 3.0 if shared in name else before[name]), name


@pytest.mark.parametrize("margin", [2.0, 4.0])
def test_what_is_kept_of_a_state_follows_from_the_margin(margin):
    # One channel that keeps its state where its logit is `margin` above that of the (zero) value.
    layer = BDLRU(
        1, num_blocks=1, block_size=1, selective=False, initial_state="learned", dtype=torch.float64
    )
    with torch.no_grad():
        layer.gate_logits.zero_()
        layer.gate_logits[0, 0] = margin
        layer.initial_state.fill_(1.0)
    steps = torch.zeros(1, 100, 1, dtype=torch.float64)
    for factor in (1.0, 2.0):
        trial = copy.deepcopy(layer)
        sharpen_gates(trial, factor)
        kept = trial(steps, return_state=True)[1].item()
        assert kept == pytest.approx(torch.tensor(factor * margin).double().sigmoid().item() ** 100, rel=1e-9)


@pytest.mark.parametrize("mixer", ["bdlru", "hlru"])
def test_all_layers_of_a_model_are_sharpened_and_nothing_else_changes(mixer):
    config = ModelConfig(vocab_size=5, d_model=8, num_layers=3, pattern=(mixer, "attention", mixer))
    model = LanguageModel(config)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    assert sharpen_gates(model, 3.0) == 2
    changed = {name for name, p in model.state_dict().items() if not torch.equal(p, before[name])}
    assert (
        changed
        <= set(gate_parameters(model))
        == {f"blocks.{layer}.mixer.gate.{part}" for layer in (0, 2) for part in ("weight", "bias")}
    )
    for name in changed:
        torch.testing.assert_close(model.state_dict()[name], 3 * before[name])


def test_a_hugging_face_model_is_sharpened_and_keeps_it(tmp_path):
    torch.manual_seed(0)
    model = StatemixForCausalLM(
        StatemixConfig(vocab_size=7, hidden_size=8, num_hidden_layers=1, block_size=2)
    ).eval()
    tokens = torch.randint(7, (1, 9))
    before = model(tokens).logits
    assert sharpen_gates(model, 50.0) == 1
    model.save_pretrained(tmp_path)
    loaded = StatemixForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert not torch.allclose(loaded(tokens).logits, before)


@pytest.mark.parametrize(
    ("make", "factor", "error", "words"),
    [
        (lambda: nn.Linear(2, 2), 2.0, ValueError, "must hold a BD-LRU or an H-LRU layer; got none"),
        (lambda: BDLRU(4, num_blocks=2, block_size=2), 0.0, ValueError, "factor must be a number above 0"),
        (lambda: BDLRU(4, num_blocks=2, block_size=2), float("nan"), ValueError, "got nan"),
        (
            lambda: HLRU(4, num_channels=2, order=2, normalization="relu"),
            2.0,
            ValueError,
            "must normalize with one of .* got 'relu'",
        ),
    ],
)
def test_what_cannot_be_sharpened_is_refused(make, factor, error, words):
    with pytest.raises(error, match=words):
        sharpen_gates(make(), factor)


@pytest.mark.parametrize("change", ["parametrized", "pruned"])
def test_constant_gates_that_are_computed_are_refused(change):
    layer = HLRU(4, num_channels=2, order=2, selective=False)
    if change == "pruned":
        l1_unstructured(layer, "gate_logits", 0.5)
    else:
        nn.utils.parametrize.register_parametrization(layer, "gate_logits", nn.Tanh())
    with pytest.raises(
        TypeError, match=r"gate_logits of layer .*HLRU must be a parameter; got Tensor: merge"
    ):
        sharpen_gates(layer, 2.0)


def test_a_gate_with_an_adapter_is_refused_before_anything_changes():
    layer = BDLRU(4, num_blocks=2, block_size=2)
    weight = layer.gate.weight.clone()
    layer.gate = nn.Sequential(layer.gate)
    with pytest.raises(TypeError, match="plain linear layer; got Sequential: merge"):
        sharpen_gates(nn.Sequential(BDLRU(4, num_blocks=2, block_size=2), layer), 2.0)
    assert torch.equal(layer.gate[0].weight, weight)


@pytest.mark.parametrize("factor", ["2", None, True, float("nan"), float("inf"), torch.ones(2)], ids=repr)
def test_a_factor_that_is_no_number_is_refused_and_changes_nothing(factor):
    layer = BDLRU(4, num_blocks=2, block_size=2)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match="sharpen_gates: factor must be a number above 0; got "):
        sharpen_gates(layer, factor)
    assert all(torch.equal(before[name], now) for name, now in layer.state_dict().items())
