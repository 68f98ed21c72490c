"""The backbone: shapes that follow the config, states that go on, tokens that are sampled."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statemix.models import LanguageModel, MixerConfig, ModelConfig


def model_of(**settings) -> LanguageModel:
    torch.manual_seed(0)
    config = {"vocab_size": 11, "d_model": 16, "mixer": MixerConfig(block_size=2)} | settings
    model = LanguageModel(ModelConfig(**config)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@settings(max_examples=20)
@given(
    batch=st.integers(1, 3), time=st.integers(2, 9), layers=st.integers(1, 3), cut=st.integers(1, 8),
    name=st.sampled_from(["bdlru", "hlru", "lstm", "gru", "attention"]),
    mlp=st.sampled_from(["swiglu", "gelu", "none"]),
)  # fmt: skip
def test_going_on_from_states_equals_reading_at_once(batch, time, layers, cut, name, mlp):
    model = model_of(num_layers=layers, mixer=MixerConfig(name=name, block_size=2), mlp=mlp)
    tokens = torch.randint(11, (batch, time))
    whole = model(tokens)
    assert whole.shape == (batch, time, 11)
    cut = min(cut, time - 1)
    first, states = model(tokens[:, :cut], return_states=True)
    outputs = [first]
    for token in tokens[:, cut:].unbind(1):
        logits, states = model.step(token, states)
        outputs.append(logits[:, None])
    torch.testing.assert_close(torch.cat(outputs, 1), whole, atol=1e-5, rtol=1e-4)


def test_packing_and_masks_reach_the_mixers():
    model = model_of(num_layers=2)
    tokens = torch.randint(11, (1, 9))
    apart = torch.cat([model(tokens[:, :4]), model(tokens[:, 4:])], 1)
    bounds = torch.tensor([0, 4, 9], dtype=torch.int32)
    torch.testing.assert_close(model(tokens, cu_seqlens=bounds), apart, atol=1e-5, rtol=1e-4)
    mask = torch.tensor([[1, 1, 0, 1, 1, 0, 0, 1, 1]]).bool()
    alone = model(tokens[:, mask[0]])
    torch.testing.assert_close(model(tokens, mask=mask)[:, mask[0]], alone, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="not both"):
        model(tokens, cu_seqlens=bounds, mask=mask)


def test_a_block_adds_mixer_and_mlp_of_what_is_normed():
    model = model_of(mixer=MixerConfig(name="gru"))
    x = torch.randn(2, 5, 16)

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    block = model.blocks[0]
    wanted = x + block.mixer(norm(x, block.mixer_norm.weight))
    gate, value = (norm(wanted, block.mlp_norm.weight) @ block.mlp.up.weight.T).chunk(2, -1)
    wanted = wanted + (gate * gate.sigmoid() * value) @ block.mlp.down.weight.T
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-4)


def test_the_two_mlps_have_the_same_number_of_weights():
    sizes = {
        mlp: sum(p.numel() for p in model_of(d_model=96, mlp=mlp).blocks[0].mlp.parameters())
        for mlp in ("swiglu", "gelu")
    }
    assert sizes["swiglu"] == sizes["gelu"] == 2 * 96 * 384


def test_weights_start_as_the_config_says():
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=500, d_model=128, embedding_std=0.5, num_layers=2))
    assert model.embedding.weight.std().item() == pytest.approx(0.5, rel=0.02)
    for weight in (model.head.weight, model.blocks[1].mlp.up.weight, model.blocks[1].mlp.down.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert abs(weight.mean().item()) < 5e-4
    for norm in (model.norm, model.blocks[0].mixer_norm, model.blocks[0].mlp_norm):
        assert (norm.weight == 1).all()


def test_weights_may_start_so_that_signals_keep_their_size():
    torch.manual_seed(0)
    mixer = MixerConfig(num_blocks=32, weight_init="fan-in")
    block = LanguageModel(ModelConfig(vocab_size=11, mlp_init="fan-in", mixer=mixer)).blocks[0]
    weights = (block.mlp.up.weight, block.mlp.down.weight, block.mixer.gate.weight, block.mixer.output.weight)
    for weight in weights:
        assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.05)
    with pytest.raises(ValueError, match=r"mlp_init must be one of .*; got 'best'"):
        ModelConfig(mlp_init="best")


def test_a_tied_head_is_the_embedding():
    model = model_of(tie_embeddings=True, mlp="none")
    assert model.head is None
    tokens = torch.randint(11, (2, 4))
    hidden = model.norm(model.blocks[0](model.embedding(tokens)))
    torch.testing.assert_close(model(tokens), hidden @ model.embedding.weight.T)
    with pytest.raises(ValueError, match="tied embeddings need output_size = vocab_size; got 3 and 11"):
        ModelConfig(vocab_size=11, output_size=3, tie_embeddings=True)


def test_a_pattern_repeats_over_the_layers():
    model = model_of(num_layers=5, pattern=("gru", "attention"))
    names = [type(block.mixer).__name__ for block in model.blocks]
    assert names == ["Recurrent", "CausalAttention"] * 2 + ["Recurrent"]
    with pytest.raises(ValueError, match="no mixer 'atention'; nearest: attention"):
        ModelConfig(pattern=("gru", "atention"))


def test_the_coldest_sampling_takes_the_likeliest_token():
    model = model_of()
    prompt = torch.randint(11, (3, 4))
    tokens = model.generate(prompt, 6, temperature=0)
    wanted = prompt
    for _ in range(6):
        wanted = torch.cat([wanted, model(wanted)[:, -1].argmax(-1, keepdim=True)], 1)
    assert tokens.tolist() == wanted.tolist()
    assert model.generate(prompt, 6, top_k=1).tolist() == wanted.tolist()


def test_tokens_are_sampled_as_often_as_the_model_says():
    model = model_of()
    prompt = torch.randint(11, (1, 4)).expand(20_000, -1)
    drawn = model.generate(prompt, 1, temperature=0.7, top_k=4, generator=torch.Generator().manual_seed(1))[
        :, -1
    ]
    logits = model(prompt[:1])[0, -1] / 0.7
    wanted = torch.zeros(11)
    best = logits.topk(4).indices
    wanted[best] = logits[best].softmax(0)
    found = drawn.bincount(minlength=11) / len(drawn)
    assert (found - wanted).abs().max() < 0.015
    again = model.generate(prompt, 1, temperature=0.7, top_k=4, generator=torch.Generator().manual_seed(1))
    assert again[:, -1].tolist() == drawn.tolist()


def test_generation_holds_one_state_however_long():
    model = model_of(num_layers=2, pattern=("bdlru", "gru"))
    sizes = set()
    step = model.step

    def watched(tokens, states):
        sizes.add(sum(state.numel() for state in states))
        return step(tokens, states)

    model.step = watched
    list(itertools.islice(model.stream(torch.randint(11, (1, 30))), 50))
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1.0}, "temperature must be a number of at least 0; got -1.0"),
        ({"top_k": 0}, "top_k must be an integer of at least 1; got 0"),
        (
            {"prompt": torch.zeros(1, 0, dtype=torch.long)},
            r"prompt must be \(B, T\) with T >= 1; got \(1, 0\)",
        ),
        ({"prompt": torch.tensor([[3, 11]])}, "must hold tokens from 0 to 10, .*; got 3 to 11: encode it"),
        ({"prompt": torch.tensor([[-1, 3]])}, "must hold tokens from 0 to 10, .*; got -1 to 3"),
    ],
)
def test_sampling_refuses_what_it_cannot_mean(arguments, message):
    prompt = arguments.pop("prompt", torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=message):
        model_of().generate(prompt, 3, **arguments)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda m: m(torch.rand(2, 3)), TypeError, r"LanguageModel: tokens must be integers; got torch.float32: cast with .long\(\)"),
        (lambda m: m([[1, 2]]), TypeError, r"LanguageModel: tokens must be a torch.Tensor \(B, T\) of integers; got list: make one with"),
        (lambda m: m(torch.tensor([1, 2])), ValueError, r"LanguageModel: tokens must be \(B, T\); got \(2,\): add the batch with \[None\]"),
        (lambda m: m.step(torch.rand(2)), TypeError, "LanguageModel: tokens must be integers; got torch.float32"),
        (lambda m: m.step(torch.tensor([[1]])), ValueError, r"LanguageModel: tokens must be \(B,\); got \(1, 1\)$"),
        (lambda m: m.read([[1]]), TypeError, "LanguageModel: read: tokens must be a torch.Tensor .* got list"),
        (
            lambda m: m.read(torch.zeros(1, 9, dtype=torch.long), mask=[[True] * 9]),
            TypeError,
            "LanguageModel: read: mask must be a bool tensor.* got list",
        ),
        (
            lambda m: m.read(torch.zeros(1, 9, dtype=torch.long), mask=torch.ones(1, 5).bool(), piece=4),
            ValueError,
            r"LanguageModel: read: mask must be \(B, T\) = \(1, 9\)",
        ),
        (lambda m: m.generate([[1]], 2), TypeError, r"generate: prompt must be a torch.Tensor \(B, T\) of integers; got list"),
        (lambda m: m.generate(torch.rand(2, 3), 2), TypeError, "generate: prompt must be integers; got torch.float32"),
        (lambda m: m.generate(torch.tensor([1]), 2), ValueError, r"generate: prompt must be \(B, T\); got \(1,\): add the batch"),
        (lambda m: m.generate(torch.tensor([[1]]), 2, mask=[[True]]), TypeError, "generate: mask must be a bool tensor.* got list"),
        (lambda m: m.generate(torch.tensor([[1]]), 2, mask=torch.ones(1, 1)), TypeError, "generate: mask must be a bool tensor.* got torch.float32"),
    ],
)  # fmt: skip
def test_what_are_no_tokens_is_named_with_what_makes_them(use, error, message):
    with pytest.raises(error, match=message):
        use(model_of())


def test_states_for_another_number_of_layers_are_refused():
    with pytest.raises(ValueError, match="one for each layer: 1; got 2"):
        model_of()(torch.zeros(1, 1, dtype=torch.long), (None, None))
    with pytest.raises(TypeError, match=r"states must be a tuple, one for each layer, .*; got Tensor"):
        model_of()(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 4, 4))


@pytest.mark.parametrize(
    "settings",
    [
        {"d_model": 0},
        {"num_layers": 0},
        {"num_layers": 1.5},
        {"vocab_size": 0},
        {"embedding_std": 0.0},
        {"mlp": "relu"},
        {"mlp_ratio": "a"},
        {"tie_embeddings": "no"},
        {"mlp_ratio": 0.0},
        {"norm_eps": -1.0},
        *({name: float("nan")} for name in ("embedding_std", "mlp_ratio", "norm_eps")),
    ],
)
def test_sizes_that_make_no_model_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ModelConfig(**settings)


def test_the_name_of_a_mixer_is_refused_with_the_config_that_it_means():
    with pytest.raises(
        TypeError, match=r"mixer must be a MixerConfig; got 'gru': write MixerConfig\(name='gru'\)"
    ):
        ModelConfig(mixer="gru")  # pyright: ignore[reportArgumentType]


def test_a_pattern_in_one_text_is_refused_with_the_tuple_that_it_means():
    with pytest.raises(TypeError, match=r"got the text 'bdlru, attention': write \('bdlru', 'attention'\)"):
        ModelConfig(pattern="bdlru, attention")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("count", [-1, 1.5, True])
def test_a_number_of_new_tokens_that_is_none_is_refused(count):
    with pytest.raises(ValueError, match=f"max_new_tokens must be an integer of at least 0; got {count}"):
        model_of().generate(torch.zeros(1, 1, dtype=torch.long), count)


def test_a_model_without_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size must be given"):
        LanguageModel(ModelConfig())


@pytest.mark.parametrize("wrong", [11, -1])
def test_a_token_that_the_vocabulary_does_not_have_is_named(wrong):
    message = rf"LanguageModel: tokens must be from 0 to 10, .*; got {wrong}: encode .* or make .* vocab_size"
    with pytest.raises(ValueError, match=message):
        model_of()(torch.tensor([[1, 2, wrong]]))
    with pytest.raises(ValueError, match=message):
        model_of().step(torch.tensor([3, wrong]))


def test_a_compiled_or_exported_model_embeds_as_it_is():
    model, tokens = model_of(), torch.randint(11, (2, 5))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens), model(tokens))
    exported = torch.export.export(model, (tokens,), strict=True)
    torch.testing.assert_close(exported.module()(tokens), model(tokens))


def test_padded_prompts_are_written_on_as_each_alone():
    model = model_of(num_layers=2, pattern=("bdlru", "attention"))
    rows = [torch.randint(1, 11, (n,)) for n in (6, 2)]
    prompt = torch.stack([rows[0], torch.cat([torch.zeros(4, dtype=torch.long), rows[1]])])
    mask = torch.tensor([[True] * 6, [False] * 4 + [True] * 2])
    together = model.generate(prompt, 9, mask=mask, temperature=0)
    for row, alone in enumerate(rows):
        wanted = model.generate(alone[None], 9, temperature=0)[0, len(alone) :]
        assert together[row, 6:].tolist() == wanted.tolist()


@pytest.mark.parametrize("options", [{"gate_noise": 3.0}, {"block_dropout": 0.5}], ids=str)
@pytest.mark.parametrize("name", ["bdlru", "hlru"])
def test_what_training_draws_is_no_part_of_what_a_model_writes(name, options):
    model = model_of(num_layers=2, mixer=MixerConfig(name=name, block_size=2, **options))
    prompt = torch.randint(11, (2, 4))
    model.train()
    model.blocks[1].eval()  # frozen, as where adapters are trained
    numbers = torch.get_rng_state()
    written = model.generate(prompt, 30, temperature=0)
    assert torch.equal(torch.get_rng_state(), numbers)  # training goes on as it would have
    assert model.training and model.blocks[0].mixer.training and not model.blocks[1].mixer.training
    model.eval()
    likeliest = model(written).argmax(-1)
    assert written[:, 4:].tolist() == likeliest[:, 3:-1].tolist()


def test_between_two_tokens_of_a_stream_a_model_may_be_trained():
    model = model_of().train()
    for _ in itertools.islice(model.stream(torch.zeros(1, 2, dtype=torch.long)), 3):
        assert model.training and all(block.training for block in model.blocks)


def test_rows_end_at_stop_tokens():
    model = model_of()
    prompt = torch.randint(11, (2, 4))
    free = model.generate(prompt, 12, temperature=0)[:, 4:]
    stop = int(free[0, 3])
    ended = model.generate(prompt, 12, temperature=0, stop_tokens=(stop,))[:, 4:]
    lengths = []
    for row in range(2):
        tokens = free[row].tolist()
        end = tokens.index(stop) + 1 if stop in tokens else len(tokens)
        lengths.append(end)
        assert ended[row, :end].tolist() == tokens[:end]
        assert set(ended[row, end:].tolist()) <= {stop}
    assert ended.shape[1] == max(lengths) and lengths[0] <= 4


def test_a_long_text_is_read_in_pieces():
    model = model_of(num_layers=2, pattern=("bdlru", "hlru"))
    tokens, mask = torch.randint(11, (2, 20)), torch.rand(2, 20) < 0.7
    mask[:, -1] = True
    wanted, states = model(tokens, return_states=True, mask=mask)
    logits, after = model.read(tokens, mask=mask, piece=6)
    torch.testing.assert_close(logits, wanted[:, -1], atol=1e-5, rtol=1e-4)
    for got, want in zip(after, states, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    on, _ = model.read(tokens[:, :3], after, piece=2)
    torch.testing.assert_close(on, model(tokens[:, :3], states)[:, -1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("piece", [3, 4096])
def test_a_padded_text_is_read_up_to_its_last_real_token(piece):
    model, tokens = model_of(), torch.randint(11, (4, 8))
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[0, :5] = mask[1, 2] = mask[2, 4:] = mask[3, ::2] = True
    logits, states = model.read(tokens, mask=mask, piece=piece)
    for row in range(4):
        wanted, (end,) = model.read(tokens[row : row + 1, mask[row]])
        torch.testing.assert_close(logits[row : row + 1], wanted, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states[0][row : row + 1], end, atol=1e-5, rtol=1e-4)


def test_reading_wants_a_token_and_a_piece_to_read():
    tokens = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"read: tokens must be \(B, T\) with T >= 1; got \(2, 0\)"):
        model_of().read(tokens[:, :0])
    with pytest.raises(ValueError, match="read: piece must be an integer of at least 1; got 0"):
        model_of().read(tokens, piece=0)


@pytest.mark.parametrize("tie", [True, False])
def test_hidden_vectors_and_the_head_make_the_logits(tie):
    model = model_of(tie_embeddings=tie)
    tokens = torch.randint(11, (2, 5))
    hidden, states = model(tokens, return_hidden=True, return_states=True)
    assert hidden.shape == (2, 5, 16) and len(states) == 1
    torch.testing.assert_close(hidden @ model.head_weight.T, model(tokens))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 3, dtype=torch.bool), r"mask must be \(B, T\) = \(2, 3\)"),
        (
            torch.tensor([[True, True, True], [True, True, False]]),
            "pad prompts of unequal length on the left",
        ),
    ],
)
def test_masks_of_prompts_that_cannot_be_written_on_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        model_of().generate(torch.zeros(2, 3, dtype=torch.long), 2, mask=mask)
