"""Documents that collators pack into rows say what each says alone."""

import pytest
import torch
from transformers import DataCollatorWithFlattening

from .small import causal_lm

DOCUMENTS = [[5, 6, 7, 8], [9], [10, 11, 12], [13, 14]]


def alone(model, documents=DOCUMENTS):
    return torch.cat([model(torch.tensor([document])).logits[0] for document in documents])


@pytest.mark.parametrize("mixer", ["bdlru", "hlru", ["bdlru", "attention"], "gru"], ids=str)
@pytest.mark.parametrize("bounds", [False, True], ids=["positions", "bounds"])
def test_flattened_documents_do_not_see_each_other(mixer, bounds):
    model = causal_lm(mixer=mixer, initial_state="learned") if mixer == "bdlru" else causal_lm(mixer=mixer)
    collate = DataCollatorWithFlattening(return_position_ids=not bounds, return_flash_attn_kwargs=bounds)
    batch = collate([{"input_ids": document} for document in DOCUMENTS])
    output = model(**batch, output_hidden_states=True)
    torch.testing.assert_close(output.logits[0], alone(model), atol=1e-4, rtol=1e-4)
    assert {hidden.shape for hidden in output.hidden_states} == {(1, 10, 32)}
    losses = [
        torch.nn.functional.cross_entropy(
            model(torch.tensor([document])).logits[0, :-1],
            torch.tensor(document[1:], dtype=torch.long),
            reduction="sum",
        )
        for document in DOCUMENTS
    ]
    assert output.loss.item() == pytest.approx(sum(losses).item() / 6, rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning")
def test_rows_of_packed_documents_learn_as_the_documents_do():
    rows, positions = [[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]], [[0, 1, 2, 3, 0], [0, 1, 2, 0, 1]]
    model, other = causal_lm().train(), causal_lm().train()
    ids = torch.tensor(rows)
    model.gradient_checkpointing_enable()
    model(ids, position_ids=torch.tensor(positions)).logits.flatten(0, 1).square().sum().backward()
    alone(other).square().sum().backward()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-3, rtol=1e-4)


def test_positions_of_plain_rows_and_of_padded_ones_change_nothing():
    model, ids = causal_lm(), torch.tensor([[0, 0, 7], [4, 5, 6]])
    mask = torch.tensor([[0, 0, 1], [1, 1, 1]])
    wanted = model(ids, attention_mask=mask)
    found = model(ids, attention_mask=mask, position_ids=torch.tensor([[0, 0, 0], [0, 1, 2]]))
    assert torch.equal(found.logits, wanted.logits)
    plain = model(ids, position_ids=torch.arange(3)[None])
    assert torch.equal(plain.logits, model(ids).logits)
    assert getattr(plain, "past_key_values", None) is not None or getattr(plain, "cache", None) is not None


def test_bounds_that_do_not_fit_are_named():
    model, ids = causal_lm(), torch.zeros(2, 3, dtype=torch.long)
    bounds = torch.tensor([0, 3], dtype=torch.int32)
    with pytest.raises(ValueError, match="in a batch of 1; got a batch of 2"):
        model(ids, cu_seq_lens_q=bounds)
    with pytest.raises(ValueError, match="no attention_mask and no cache"):
        model(ids[:1], cu_seq_lens_q=bounds, attention_mask=torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"position_ids must be \(B, T\) = \(2, 3\); got \(2, 4\)"):
        model(ids, position_ids=torch.zeros(2, 4, dtype=torch.long))
