"""The compression model: everything passes through one vector, and positions are one table."""

import pytest
import torch
import torch.nn.functional as F

from statemix.models import Autoencoder, LanguageModel, MixerConfig, ModelConfig, make_model
from statemix.models.loss import next_token_loss


def config(**options) -> ModelConfig:
    return ModelConfig(
        vocab_size=8,
        d_model=16,
        architecture="autoencoder",
        max_length=10,
        mixer=MixerConfig(name="gru", num_blocks=8),
        **options,
    )


def test_the_factory_builds_what_the_config_names():
    assert type(make_model(config())) is Autoencoder
    assert type(make_model(ModelConfig(vocab_size=3))) is LanguageModel
    with pytest.raises(ValueError, match=r"must be one of .*; got 'encoder'; nearest: autoencoder"):
        ModelConfig(vocab_size=3, architecture="encoder")


def test_all_passes_through_the_last_vector_and_one_position_table():
    model = Autoencoder(config(num_layers=2)).double()
    tokens = torch.randint(8, (3, 7))
    x = model.embedding(tokens) + model.positions[:7]
    for block in model.blocks:
        x = block(x)
    vector = model.norm(x)[:, -1]
    logits = [model.head(F.gelu(model.decoder(vector + model.positions[t]))) for t in range(7)]
    torch.testing.assert_close(model(tokens), torch.stack(logits, 1))
    torch.testing.assert_close(model.decode(vector, 7) @ model.head_weight.T, model(tokens))


def test_padded_sequences_are_read_from_their_last_real_token():
    model = Autoencoder(config())
    tokens = torch.randint(8, (2, 6))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    vectors = model.encode(tokens, mask=mask)
    torch.testing.assert_close(vectors[:1], model.encode(tokens[:1, :4]))
    torch.testing.assert_close(vectors[1:], model.encode(tokens[1:]))


def test_it_learns_to_read_back_short_sequences():
    torch.manual_seed(0)
    model = Autoencoder(config(embedding_std=1.0))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(300):
        tokens = torch.randint(8, (64, 3))
        loss = next_token_loss(model, tokens, tokens).mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens = torch.randint(8, (64, 3))
    assert (model(tokens).argmax(-1) == tokens).float().mean() > 0.9


@pytest.mark.parametrize("time", [0, 11])
def test_sequences_outside_the_table_are_refused(time):
    with pytest.raises(ValueError, match=f"1 to max_length = 10 tokens; got {time}"):
        Autoencoder(config())(torch.zeros(1, time, dtype=torch.long))
    with pytest.raises(ValueError, match=f"1 to max_length = 10 tokens; got {time}"):
        Autoencoder(config()).decode(torch.zeros(1, config().d_model), time)


def test_a_sequence_without_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"tokens must be \(B, T\); got \(4,\)"):
        Autoencoder(config())(torch.zeros(4, dtype=torch.long))


def test_packed_sequences_are_refused():
    tokens = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="give a mask"):
        Autoencoder(config())(tokens, cu_seqlens=torch.tensor([0, 4], dtype=torch.int32))


def test_configs_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="vocab_size must be given"):
        Autoencoder(ModelConfig())
    with pytest.raises(ValueError, match="tie_embeddings=False"):
        Autoencoder(config(tie_embeddings=True, output_size=8))
    with pytest.raises(ValueError, match="max_length must be an integer of at least 1"):
        ModelConfig(max_length=0)
