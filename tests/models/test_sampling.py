"""Tokens are drawn from what temperature, top-k and top-p leave; rows end at stop tokens."""

import math

import pytest
import torch

from statemix.models.sampling import Sampler

LOGITS = torch.tensor([[2.0, 0.5, 1.0, -1.0, 0.0]])


def shares(draws: int = 20_000, **settings) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = Sampler(**settings).next(LOGITS.expand(draws, -1), generator)
    return drawn.bincount(minlength=5) / draws


def close(found: torch.Tensor, wanted: list[float]) -> bool:
    total = sum(wanted)
    return bool((found - torch.tensor([w / total for w in wanted])).abs().max() < 0.012)


def test_a_temperature_below_one_sharpens_and_zero_takes_the_likeliest():
    assert close(shares(), [math.exp(z) for z in LOGITS[0].tolist()])
    assert close(shares(temperature=0.5), [math.exp(2 * z) for z in LOGITS[0].tolist()])
    assert Sampler(temperature=0).next(LOGITS).tolist() == [0]


def test_top_k_keeps_the_likeliest():
    assert close(shares(top_k=2), [math.exp(2), 0, math.exp(1), 0, 0])
    assert close(shares(top_k=99), [math.exp(z) for z in LOGITS[0].tolist()])


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-9, {0}), (0.6, {0, 2}), (0.8, {0, 2, 1}), (1.0, {0, 1, 2, 3, 4})]
)
def test_top_p_keeps_the_fewest_that_reach_the_sum(top_p, kept):
    weights = [math.exp(z) for z in LOGITS[0].tolist()]
    by_likelihood = sorted(range(5), key=lambda i: -weights[i])
    enough, reached = set(), 0.0
    for token in by_likelihood:
        if reached >= top_p * sum(weights):
            break
        enough.add(token)
        reached += weights[token]
    assert enough == kept
    assert close(shares(top_p=top_p), [w if i in kept else 0 for i, w in enumerate(weights)])


def test_a_token_behind_a_sum_that_is_exactly_reached_is_not_drawn():
    even = torch.zeros(100, 2)  # one of two tokens of probability 1/2 makes a sum of 1/2
    drawn = Sampler(top_p=0.5).next(even, torch.Generator().manual_seed(0))
    assert len(drawn.unique()) == 1


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_keeps_no_more_tokens_where_several_are_equally_likely(top_k):
    logits = torch.tensor([[0.0, 4.0, 4.0, 4.0, 1.0], [4.0, 4.0, 5.0, 4.0, 4.0]]).repeat_interleave(500, 0)
    drawn = Sampler(top_k=top_k).next(logits, torch.Generator().manual_seed(0)).view(2, 500)
    assert [len(row.unique()) for row in drawn] == [top_k, top_k]
    assert set(drawn[0].tolist()) <= {1, 2, 3} and 2 in drawn[1]


def test_top_p_counts_what_top_k_left():
    assert set(shares(top_k=2, top_p=0.7).nonzero()[:, 0].tolist()) == {0}
    assert set(shares(top_k=2, top_p=0.8).nonzero()[:, 0].tolist()) == {0, 2}


def test_a_row_that_ended_repeats_its_end():
    sampler = Sampler(temperature=0, stop_tokens=(1, 4))
    script = [[0, 2], [1, 2], [3, 2], [3, 4], [0, 0]]
    made = []
    for tokens in script:
        if not sampler.finished:
            logits = torch.nn.functional.one_hot(torch.tensor(tokens), 5).float()
            made.append(sampler.next(logits).tolist())
    assert made == [[0, 2], [1, 2], [1, 2], [1, 4]]


def test_no_temperature_is_too_low_to_sample_at():
    logits = torch.tensor([[1.0, 3.0, 2.0], [-5.0, -7.0, -6.0]])
    for temperature in (1e-30, 1e-38, 1e-45, 1e-300):
        assert Sampler(temperature=temperature).next(logits).tolist() == [1, 0]


def test_a_stop_token_alone_is_refused_with_what_to_write():
    with pytest.raises(TypeError, match=r"stop_tokens must be a tuple of integers; got 3: write \(3,\)"):
        Sampler(stop_tokens=3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature must be a number of at least 0; got -0.1"),
        ({"temperature": float("nan")}, "temperature must be a number of at least 0"),
        ({"temperature": "a"}, "temperature must be a number of at least 0; got 'a'"),
        ({"top_k": 0}, "top_k must be an integer of at least 1; got 0"),
        ({"top_k": 2.5}, "top_k must be an integer of at least 1; got 2.5"),
        ({"top_p": 0.0}, "top_p must be a number above 0 and at most 1; got 0.0"),
        ({"top_p": 1.1}, "top_p must be a number above 0 and at most 1; got 1.1"),
        ({"top_p": "a"}, "top_p must be a number above 0 and at most 1; got 'a'"),
        ({"stop_tokens": ("a",)}, "stop_tokens must be an integer of at least 0; got 'a'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**settings)
