"""``generate`` says what the full forward pass says, however the tokens are batched, cached or searched."""

import copy

import pytest
import torch

from statemix.models.huggingface import StatemixCache
from statemix.models.huggingface.modeling import CACHE

from .small import causal_lm, padded

MIXERS = ["bdlru", "hlru", ["bdlru", "attention", "hlru"]]
EXACT = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def greedy_by_forward_passes(model, prompt: list[int], new: int) -> list[int]:
    tokens = torch.tensor([prompt])
    for _ in range(new):
        logits = model(tokens, use_cache=False).logits[:, -1]
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    return tokens[0].tolist()


@pytest.mark.parametrize("mixer", ["bdlru", "hlru"])
@torch.no_grad()
def test_500_greedy_tokens_are_those_of_the_full_forward_pass_padding_included(mixer):
    model = causal_lm(mixer=mixer, initial_state="learned")
    rows = [[1, 2, 3, 4, 5, 6, 7], [9, 8, 7]]
    made = model.generate(**padded(rows), max_new_tokens=500, **EXACT)
    for row, tokens in zip(rows, made, strict=True):
        tokens = tokens[-500 - len(row) :]
        # One pass over what was made: at every place, the next token is the likeliest of the whole's logits.
        logits = model(tokens[None], use_cache=False).logits[0]
        assert tokens[len(row) :].tolist() == logits[len(row) - 1 : -1].argmax(-1).tolist()
    assert len(set(made[0].tolist())) > 5


@pytest.mark.parametrize("mixer", MIXERS, ids=str)
@torch.no_grad()
def test_logits_of_steps_are_those_of_the_full_forward_pass(mixer):
    model = causal_lm(mixer=mixer)
    tokens = torch.randint(1, 256, (3, 40))
    whole = model(tokens, use_cache=False).logits
    cache = StatemixCache()
    pieces = [model(some, cache=cache).logits for some in tokens.split([11, 1, 20, 1, 7], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=0)
    assert cache.get_seq_length() == 40


@pytest.mark.parametrize("mixer", MIXERS, ids=str)
@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": False},
        {"do_sample": True, "top_k": 5},
        {"do_sample": True, "top_p": 0.8, "num_return_sequences": 2},
        {"do_sample": False, "num_beams": 3},
        {"do_sample": True, "num_beams": 2},
        {"do_sample": False, "num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.5},
    ],
    ids=str,
)
@torch.no_grad()
def test_a_cache_changes_nothing(mixer, how):
    model = causal_lm(mixer=mixer)
    batch = padded([[1, 2, 3, 4, 5, 6], [9, 8, 7]])
    options = {"max_new_tokens": 15, "eos_token_id": None, "pad_token_id": 0, **how}
    made = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        made.append(model.generate(**batch, use_cache=use_cache, **options).tolist())
    assert made[0] == made[1]


@torch.no_grad()
def test_prompts_may_be_read_in_chunks():
    model = causal_lm(mixer=["bdlru", "hlru"])
    batch = padded([list(range(1, 12)), [9, 8, 7]])
    whole = model.generate(**batch, max_new_tokens=12, **EXACT)
    for size in (1, 4):
        chunked = model.generate(**batch, max_new_tokens=12, prefill_chunk_size=size, **EXACT)
        assert chunked.tolist() == whole.tolist()


@pytest.mark.parametrize("mixer", MIXERS, ids=str)
@torch.no_grad()
def test_generation_goes_on_from_a_cache(mixer):
    model = causal_lm(mixer=mixer)
    batch = padded([[1, 2, 3, 4, 5], [9, 8]])
    whole = model.generate(**batch, max_new_tokens=24, **EXACT)
    cache = StatemixCache()
    first = model.generate(**batch, max_new_tokens=10, cache=cache, **EXACT)
    mask = torch.cat([batch["attention_mask"], torch.ones(2, 10, dtype=torch.long)], 1)
    kept = copy.deepcopy(cache)
    for some in (cache, kept):  # a copy may be gone on from as well
        rest = model.generate(first, attention_mask=mask, max_new_tokens=14, cache=some, **EXACT)
        assert rest.tolist() == whole.tolist()
    assert cache.get_seq_length() == whole.shape[1] - 1


@pytest.mark.parametrize("mixer", MIXERS, ids=str)
def test_a_cache_that_was_made_with_gradients_is_copied_too(mixer):
    model = causal_lm(mixer=mixer)
    ids, cache = torch.tensor([[1, 2, 3], [9, 8, 7]]), StatemixCache()
    model(ids, cache=cache)
    kept = copy.deepcopy(cache)
    wanted = model(ids, cache=cache).logits
    assert kept.get_seq_length() == 3 and cache.get_seq_length() == 6
    assert torch.equal(model(ids, cache=kept).logits, wanted)


@pytest.mark.parametrize(
    "how",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
    ],
    ids=str,
)
@torch.no_grad()
def test_beams_and_samples_go_on_from_a_cache_of_the_prompts(how):
    model = causal_lm(mixer=["bdlru", "attention", "hlru"])
    batch = padded([[1, 2, 3, 4, 5], [9, 8]])
    options = {"max_new_tokens": 9, **EXACT, **how}
    read = cache_after(model, batch["input_ids"][:, :3], batch["attention_mask"][:, :3])
    repeated = copy.deepcopy(read)
    repeated.batch_repeat_interleave(3)
    made = []
    for cache in (None, read, repeated):
        torch.manual_seed(3)
        made.append(model.generate(**batch, cache=cache, **options).tolist())
    assert made[0] == made[1] == made[2]


@torch.no_grad()
def test_padding_may_stand_anywhere():
    model = causal_lm(mixer=["bdlru", "attention", "hlru"])
    tokens, mask = torch.randint(1, 256, (2, 12)), torch.rand(2, 12) < 0.6
    mask[:, -1] = True
    logits = model(tokens, attention_mask=mask.long(), use_cache=False).logits
    for row in range(2):
        alone = model(tokens[row, mask[row]][None], use_cache=False).logits[0]
        torch.testing.assert_close(logits[row, mask[row]], alone, atol=1e-4, rtol=0)


def test_the_state_does_not_grow_with_the_text():
    model = causal_lm(mixer=["bdlru", "hlru"])
    sizes = set()
    for length in (3, 300):
        cache = cache_after(model, torch.randint(256, (2, length)))
        sizes.add(sum(state.nbytes for state in cache.states))
    assert sizes == {4 * 2 * (2 * 4 * 8 + 2 * 8)}


def test_rows_of_a_cache_are_selected_and_repeated():
    model = causal_lm()
    tokens = torch.randint(256, (3, 5))
    cache = cache_after(model, tokens)
    cache.batch_select_indices(torch.tensor([2, 0]))
    wanted = cache_after(model, tokens[[2, 0]])
    cache.batch_repeat_interleave(2)
    assert cache.batch_size == 4
    for got, want in zip(cache.states, wanted.states, strict=True):
        torch.testing.assert_close(got, want[[0, 0, 1, 1]])
    cache.reset()
    assert cache.batch_size == -1 and cache.get_seq_length() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(torch.zeros(1, 0, dtype=torch.long)), "there are no tokens to read"),
        (lambda m: m(), "one of them"),
        (lambda m: m(torch.tensor([[1, 999]])), "Statemix: tokens must be from 0 to 255, .* got 999: encode"),
        (
            lambda m: m(torch.zeros(3, 2, dtype=torch.long), cache=cache_of(m, 2)),
            "the cache holds the states of 2 sequences and input_ids has 3",
        ),
        (
            lambda m: m(torch.zeros(2, 2, dtype=torch.long), cache=cache_of(causal_lm(num_hidden_layers=1), 2)),
            "the cache is of a model of 1 layers, and this one has 3",
        ),
        (  # the states of both are of one shape
            lambda m: m(torch.zeros(2, 2, dtype=torch.long), cache=cache_of(causal_lm(mixer="hlru"), 2)),
            "the cache is of a model whose layer 0 is hlru, and here it is bdlru: start with an empty",
        ),
        (
            lambda m: m(torch.zeros(2, 4, dtype=torch.long), attention_mask=torch.ones(2, 3)),
            r"attention_mask must be \(B, T\) = \(2, 4\)",
        ),
        (lambda m: m(torch.zeros(2, 4, dtype=torch.long), attention_mask=torch.ones(1, 1, 4, 4)), "attention_mask must be"),
        (lambda m: m(torch.zeros(2, 4, dtype=torch.long), attention_mask=torch.ones(2, 6)), "attention_mask must be"),
        (
            lambda m: m(torch.zeros(2, 2, dtype=torch.long), cache=cache_of(m, 2), attention_mask=torch.ones(2, 3)),
            r"or \(2, 4\) with the 2 tokens in the cache; got \(2, 3\)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(causal_lm())


def test_caches_of_others_are_refused_and_ours_cannot_forget():
    from transformers import DynamicCache

    model = causal_lm()
    with pytest.raises(TypeError, match="must be a StatemixCache; got DynamicCache"):
        model.generate(torch.ones(1, 2, dtype=torch.long), cache=DynamicCache(), max_new_tokens=2)
    with pytest.raises(NotImplementedError, match=r"copy\.deepcopy"):
        cache_of(model, 1).crop(1)


def cache_of(model, batch: int) -> StatemixCache:
    return cache_after(model, torch.zeros(batch, 2, dtype=torch.long))


def cache_after(model, tokens, mask=None) -> StatemixCache:
    return getattr(model(tokens, attention_mask=mask, use_cache=True), CACHE)


def test_a_cache_goes_by_either_name_but_not_by_both():
    model = causal_lm()
    tokens = torch.randint(256, (1, 6))
    wanted = model(tokens).logits[:, 3:]
    for name in ("cache", "past_key_values"):
        found = model(tokens[:, 3:], **{name: cache_after(model, tokens[:, :3])}).logits
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="two names of one thing"):
        model(tokens, cache=StatemixCache(), past_key_values=StatemixCache())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mixer", ["bdlru", "hlru"])
@torch.no_grad()
def test_a_gpu_writes_what_its_forward_pass_says(mixer):
    model = causal_lm(mixer=mixer, initial_state="learned").cuda()
    batch = {name: tensor.cuda() for name, tensor in padded([[1, 2, 3, 4, 5, 6, 7], [9, 8, 7]]).items()}
    made = model.generate(**batch, max_new_tokens=500, **EXACT)
    for length, tokens in zip((7, 3), made, strict=True):
        tokens = tokens[-500 - length :]
        logits = model(tokens[None], use_cache=False).logits[0]
        assert tokens[length:].tolist() == logits[length - 1 : -1].argmax(-1).tolist()
    beams = [
        model.generate(**batch, max_new_tokens=20, num_beams=3, use_cache=use, **EXACT).tolist()
        for use in (True, False)
    ]
    assert beams[0] == beams[1]
