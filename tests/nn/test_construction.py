"""Weights set by hand: what row-normalised blocks hold exactly, at any length."""

import pytest
import torch
import torch.nn.functional as F

from statemix import BDLRU
from statemix.tasks import make

SHARP = 25.0  # a logit above the others; what leaks is e^-25 a step


def set_by_hand(layer: BDLRU, rows: torch.Tensor, written: torch.Tensor, start: int) -> None:
    """Let input k take each state i from state ``rows[k, i]``, or from ``written[k, i]`` where that is -1.

    Inputs are one-hot. A row of gates that selects one source is exact, so any permutation and any value
    that overwrites is; two states that flow into one are not, since a row's magnitudes sum to one.
    """
    states = rows.shape[1]
    sources = torch.where(rows < 0, torch.full_like(rows, states), rows)
    logits = SHARP * F.one_hot(sources, states + 1).float()  # (inputs, M, M + 1)
    with torch.no_grad():
        layer.gate.weight.copy_(logits.flatten(1).T)
        layer.gate.bias.zero_()
        layer.value.weight.copy_(written.T)
        layer.output.weight.copy_(torch.eye(states))
        layer.initial_state.copy_(F.one_hot(torch.tensor([start]), states).T)


@pytest.mark.parametrize("length", [41, 257, 2001])
def test_two_layers_of_one_block_of_five_do_arithmetic_modulo_five_at_any_length(length):
    """The first layer holds the product since the last + or -, the second the value of all so far.

    * keeps the product; + and - set it to 1 and -1; a number c permutes it, or sets it to 0. The second
    layer's gates see the token and the product: they add the product at a number, and take it off at *.
    """
    task = make("modular-arithmetic", length=length, asked="every")
    batch = task.sample(16, seed=0)
    tokens, number, (plus, minus, times) = batch.inputs, range(5), range(5, 8)
    count = task.num_tokens
    keep = torch.arange(5)

    rows, written = keep.repeat(count, 1), torch.zeros(count, 5)
    for c in number:
        rows[c] = torch.tensor([i * pow(c, -1, 5) % 5 if c else -1 for i in range(5)])
    rows[[plus, minus]] = -1
    for token, product in ((0, 0), (plus, 1), (minus, 4)):
        written[token, product] = 1
    first = BDLRU(count, num_blocks=1, block_size=5, initial_state="learned")
    first.output = torch.nn.Linear(5, 5, bias=False)
    set_by_hand(first, rows, written, start=1)

    rows = keep.repeat(count, 5, 1)
    for product in range(5):
        for c in number:
            rows[c, product] = (keep - product) % 5
        rows[times, product] = (keep + product) % 5
    second = BDLRU(5 * count, num_blocks=1, block_size=5, initial_state="learned")
    second.output = torch.nn.Linear(5, 5, bias=False)
    set_by_hand(second, rows.flatten(0, 1), torch.zeros(5 * count, 5), start=0)

    one_hot = F.one_hot(tokens, count).float()
    with torch.no_grad():
        products = first(one_hot)
        # A ReLU layer sees which token meets which product.
        pairs = F.relu(one_hot[..., None] + products[..., None, :] - 1)
        values = second(pairs.flatten(2))
    asked = batch.targets >= 0
    assert asked[:, -1].all()
    assert torch.equal(values.argmax(-1)[asked], batch.targets[asked])
    assert values.max(-1).values[asked].min() > 0.99
