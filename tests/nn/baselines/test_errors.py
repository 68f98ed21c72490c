"""What baselines refuse, and how they say what to do."""

import pytest
import torch

from statemix.nn import baselines

WIDTH = 8
SWITCHES = [
    (name, switch)
    for name, switches in {
        "CausalAttention": ["rotary"],
        "DeltaNet": ["negative_eigenvalues", "convolution", "output_gate"],
        "GatedDeltaNet": ["negative_eigenvalues", "convolution", "output_gate"],
        "GatedDeltaProduct": ["negative_eigenvalues", "convolution", "output_gate"],
        "MLSTM": ["output_gate"],
        "Mamba": ["convolution", "output_gate"],
        "Mamba2": ["convolution", "output_gate"],
        "RGLRU": ["convolution", "output_gate"],
    }.items()
    for switch in switches
]


@pytest.mark.parametrize(("name", "switch"), SWITCHES, ids=map("-".join, SWITCHES))
def test_a_word_is_no_switch(name, switch):
    sizes = {"hidden_size": 4} if name == "RGLRU" else {}
    with pytest.raises(ValueError, match=rf"{name}: {switch} must be one of \(True, False\); got 'no'"):
        getattr(baselines, name)(WIDTH, **sizes, **{switch: "no"})


@pytest.mark.parametrize("name", ["Mamba", "Mamba2"])
@pytest.mark.parametrize("expand", [0, 0.05, -1.0, float("nan"), "2", None])
def test_an_expansion_that_leaves_no_channel_is_refused_by_its_name(name, expand):
    with pytest.raises(ValueError, match=rf"{name}: expand must be a number that leaves .* got {expand!r}"):
        getattr(baselines, name)(WIDTH, expand=expand)


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        (torch.zeros(2, 4), ValueError, "2 tensors, .* got 1: give all of them as one tuple"),
        ("start", TypeError, "2 tensors; got str: take the state of return_state=True"),
        ((torch.zeros(1, 4),) * 2, ValueError, r"\(2, 4\), .* got \(1, 4\): give it as a call returns it"),
        ((torch.zeros(2, 4).half(),) * 2, TypeError, r"float32; got torch.float16: .* cast with"),
    ],
    ids=["one of two", "a word", "of another batch", "of another dtype"],
)
def test_a_state_that_no_call_returned_is_refused_with_what_to_do(state, error, says):
    layer = baselines.Recurrent("lstm", WIDTH, hidden_size=4)
    with pytest.raises(error, match=rf"Recurrent: state must be .*{says}"):
        layer(torch.randn(2, 3, WIDTH), state)
