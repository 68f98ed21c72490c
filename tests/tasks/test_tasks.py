"""What every name in the catalog promises, and the streams that batches are drawn from."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statemix.models import ModelConfig
from statemix.tasks import CATALOG, IGNORED, SPLITS, TASKS, Counting, Task, entry, make, name_of, stream
from statemix.tasks.streams import fixed_stream
from statemix.training import RunConfig, TaskData
from statemix.training.config import from_json, to_json


@pytest.mark.parametrize("name", CATALOG)
def test_a_sample_depends_on_seed_split_and_step_alone(name):
    task = make(name)
    first, again = task.sample(5, 7, step=3), make(name).sample(5, 7, step=3)
    assert torch.equal(first.inputs, again.inputs) and torch.equal(first.targets, again.targets)
    for other in (
        task.sample(5, 8, step=3),
        task.sample(5, 7, step=4),
        task.sample(5, 7, step=3, split="test"),
        task.sample(5, 7, step=3, split="validation"),
    ):
        assert (first.inputs != other.inputs).any()


@pytest.mark.parametrize("start_token", [False, True])
@pytest.mark.parametrize("name", CATALOG)
def test_every_length_from_the_minimum_on_works_and_none_below(name, start_token):
    small = {k: v for k, v in CATALOG[name].small.items() if k != "length"}
    shortest = make(name, **small, start_token=start_token).minimum_length
    for length in range(shortest, shortest + 14):
        task = make(name, **small, start_token=start_token, length=length)
        inputs, targets = task.sample(6, seed=length)
        assert inputs.shape == targets.shape == (6, length)
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.is_contiguous() and targets.is_contiguous()
        assert int(inputs.min()) >= 0 and int(inputs.max()) < task.vocab_size
        asked = targets != IGNORED
        assert asked.any(1).all(), "a sequence asks for nothing"
        assert int(targets[asked].min()) >= 0 and int(targets[asked].max()) < task.output_size
    with pytest.raises(ValueError, match=f"length must be at least {shortest}; got {shortest - 1}"):
        make(name, **small, start_token=start_token, length=shortest - 1)


@pytest.mark.parametrize("value", [3.5, 64.0, True, "64"])
@pytest.mark.parametrize("name", CATALOG)
def test_a_whole_number_that_is_none_is_refused_where_the_task_is_made(name, value):
    kind = type(make(name)).__name__
    for field in fields(make(name)):
        if type(getattr(make(name), field.name)) is int:
            said = rf"{kind}: {field.name} must be an integer( or None)?; got {re.escape(repr(value))}"
            with pytest.raises(TypeError, match=said):
                make(name, **{field.name: value})


def test_settings_of_other_kinds_are_refused_where_the_task_is_made():
    with pytest.raises(TypeError, match=r"Permutation: num_generators must be an integer or None; got 4\.0"):
        make("word-problem", num_generators=4.0)
    with pytest.raises(TypeError, match=r"InContextRecall: noise must be a number; got '0\.2'"):
        make("noisy-recall", noise="0.2")
    with pytest.raises(TypeError, match="Counting: start_token must be True or False; got 1"):
        make("counting", start_token=1)
    with pytest.raises(TypeError, match="Permutation: group must be a string; got 3"):
        make("permutation", group=3)
    assert make("noisy-recall", noise=0).noise == 0
    assert make("counting", length=np.int64(9)).sample(1).inputs.shape == (1, 9)


@pytest.mark.parametrize("name", CATALOG)
def test_a_start_token_stands_before_the_same_sequence(name):
    plain, started = make(name), make(name, start_token=True)
    assert started.vocab_size == plain.vocab_size + 1 and started.output_size == plain.output_size
    inputs, targets = started.sample(4, seed=2)
    assert (inputs[:, 0] == plain.vocab_size).all() and (targets[:, 0] == IGNORED).all()
    without = plain.with_length(started.length - 1).sample(4, seed=2)
    assert torch.equal(inputs[:, 1:], without.inputs) and torch.equal(targets[:, 1:], without.targets)


@pytest.mark.parametrize("name", CATALOG)
def test_a_task_survives_the_json_of_a_run(name):
    task = make(name, start_token=True)
    assert name_of(task) in TASKS
    model = ModelConfig(architecture="autoencoder" if task.needs_autoencoder else "language-model")
    config = RunConfig(model=model, data=TaskData(task=task, test_lengths=task.test_lengths))
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@dataclass(frozen=True, kw_only=True)
class Own(Task):
    """A task of one's own, which generates what it is told."""

    made: Callable[[tuple[int, int]], object] = np.zeros
    num_tokens, output_size = 3, 3

    def generate(self, batch, length, random):
        return self.made((batch, length))


def test_a_task_of_ones_own_is_saved_and_found_again_once_it_has_a_name(monkeypatch):
    config = RunConfig(data=TaskData(task=Own(length=5), test_lengths=(5,)))
    with pytest.raises(ValueError, match=r"Own has no name .* statemix.tasks.TASKS\['my-task'\] = Own"):
        to_json(config)
    monkeypatch.setitem(TASKS, "own", Own)
    saved = to_json(config)
    assert make("own", length=5) == Own(length=5)
    assert from_json(saved) == config
    monkeypatch.delitem(TASKS, "own")
    with pytest.raises(
        ValueError, match="no task 'own' here: if it is one of your own, enter its class first"
    ):
        from_json(saved)


@pytest.mark.parametrize(
    ("made", "error", "says"),
    [
        (lambda size: np.zeros(size, int), TypeError, "inputs and targets, two arrays; got ndarray"),
        (
            lambda size: (np.zeros(size, int), np.zeros(size)),
            TypeError,
            "targets must be integers; got float64",
        ),
        (lambda size: (np.zeros((2, 3), int),) * 2, ValueError, r"inputs must be \(2, 5\); got \(2, 3\)"),
        (
            lambda size: (np.full(size, 3), np.zeros(size, int)),
            ValueError,
            "inputs must lie from 0 to 2; got 3 to",
        ),
        (
            lambda size: (np.zeros(size, int), np.full(size, -1)),
            ValueError,
            "targets .* 0 to 2, or -100; got -1",
        ),
    ],
)
def test_what_a_task_of_ones_own_generates_is_looked_at(made, error, says):
    with pytest.raises(error, match=f"Own: what it generates.*{says}"):
        Own(length=5, made=made).sample(2)


@pytest.mark.parametrize("name", CATALOG)
def test_every_axis_of_difficulty_can_be_sampled(name):
    for setting, values in entry(name).axes.items():
        base = make(name)
        for value in values:
            assert getattr(base, setting) != value, "an axis holds its own default"
            task = make(name, **{setting: value})
            assert task.sample(2, seed=1).inputs.shape == (2, task.length)


@pytest.mark.parametrize("name", CATALOG)
def test_the_lengths_of_the_protocol_can_be_sampled(name):
    task = make(name)
    shortest, longest = task.train_lengths
    assert task.minimum_length <= shortest <= longest == task.length
    assert list(task.test_lengths) == sorted(set(task.test_lengths)) and task.test_lengths[0] == longest
    for length in {shortest, longest, *task.test_lengths}:
        assert task.with_length(length).sample(2).inputs.shape == (2, length)


@pytest.mark.parametrize("name", CATALOG)
def test_guessing_among_the_answers_is_right_as_often_as_said(name):
    """Answers that come up are uniform enough that the most frequent is no much better guess than chance."""
    task = make(name)
    targets = task.sample(600, seed=5).targets
    counts = torch.bincount(targets[targets != IGNORED], minlength=task.output_size).double()
    counts = counts[counts > 0]
    assert len(counts) <= round(1 / task.chance)
    # Where a zero or an end is common, as in products and numbers, the best guess is better than chance.
    assert task.chance * 0.99 <= float(counts.max() / counts.sum()) < 2.1 * task.chance + 0.02


@pytest.mark.parametrize("name", CATALOG)
def test_a_batch_takes_a_few_milliseconds(name):
    """Under 5 ms for 128 sequences on one core; a busy machine may need twice as much of its processor."""
    task = make(name)
    task.sample(128)
    times = []
    for step in range(8):
        start = time.process_time()
        task.sample(128, step=step)
        times.append(time.process_time() - start)
    assert min(times) < 0.01


@pytest.mark.parametrize("name", CATALOG)
def test_a_rendered_sample_shows_every_token_and_answer(name):
    task = make(name, **CATALOG[name].small, start_token=True)
    batch = task.sample(2, seed=3)
    text = task.render(batch, 1, width=200)
    tokens, answers = (line.split()[1:] for line in text.splitlines())
    assert len(tokens) == len(answers) == task.length and tokens[0] == "^"
    said = [answer for answer in answers if answer != "."]
    wanted = batch.targets[1][batch.targets[1] != IGNORED].tolist()
    assert said == [task.answer_name(answer) for answer in wanted]
    names = [task.token_name(token) for token in range(task.num_tokens)]
    assert len(set(names)) == task.num_tokens, "two tokens are written alike"
    assert tokens[1:] == [names[token] for token in batch.inputs[1, 1:].tolist()]


@pytest.mark.parametrize("name", CATALOG)
def test_an_answer_follows_from_what_was_read_before_it(name):
    """No two sequences with one beginning ask for different answers at its end: nothing is asked too early."""
    small = {setting: value for setting, value in CATALOG[name].small.items() if setting != "length"}
    if name == "selective-copying":
        small |= {"num_copied": 2, "vocabulary": 5}
    task = make(name, **small, length=2 * make(name, **small).minimum_length)
    answers, repeated = {}, 0
    inputs, targets = task.sample(3000, seed=1)
    for row, place in (targets != IGNORED).nonzero().tolist():
        beginning = inputs[row, : place + 1].numpy().tobytes()
        answer = int(targets[row, place])
        repeated += beginning in answers
        assert answers.setdefault(beginning, answer) == answer
    assert repeated > 20, "too few beginnings came twice for this to mean anything"


def test_compression_alone_cannot_be_asked_step_by_step():
    assert [name for name in CATALOG if make(name).needs_autoencoder] == ["compression"]


def test_a_long_sequence_is_broken_into_lines():
    task = make("counting", length=100)
    text = task.render(task.sample(1), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert sum(len(line.split()) - 1 for line in text.splitlines() if line.startswith("tokens")) == 100
    assert task.render(task.sample(1), width=1).count("tokens") == 100, "at least one token stands on a line"


@given(
    modulus=st.integers(2, 7), symbols=st.integers(2, 5), length=st.integers(1, 40), seed=st.integers(0, 99)
)
@settings(max_examples=30)
def test_counting_asks_for_the_sum_so_far(modulus, symbols, length, seed):
    task = make("counting", modulus=modulus, symbols=symbols, length=length)
    inputs, targets = task.sample(3, seed)
    assert task.vocab_size == symbols and task.output_size == modulus
    for numbers, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        total = 0
        for number, answer in zip(numbers, answers, strict=True):
            total = (total + number) % modulus
            assert answer == total


def test_parity_is_asked_at_the_end_and_nowhere_else():
    inputs, targets = make("parity", length=9).sample(50, seed=2)
    assert (targets[:, :-1] == IGNORED).all()
    assert (targets[:, -1] == inputs.sum(1) % 2).all()


@pytest.mark.parametrize("name", ["even-pairs", "cycle-navigation", "parity", "word-problem"])
def test_asking_at_every_step_asks_what_shorter_sequences_ask_at_their_end(name):
    every, last = make(name, asked="every"), make(name, asked="last")
    inputs, targets = every.sample(8, seed=3)
    assert (targets != IGNORED).all()
    ends = last.sample(8, seed=3)
    assert torch.equal(ends.inputs, inputs) and torch.equal(ends.targets[:, -1], targets[:, -1])
    assert (ends.targets[:, :-1] == IGNORED).all()


def test_the_british_spelling_is_known():
    assert make("memorisation") == make("memorization")


def test_an_unknown_task_lists_the_nearest():
    with pytest.raises(ValueError, match="no task 'permutations'; nearest: permutation"):
        make("permutations")


def test_an_unknown_setting_lists_the_nearest():
    with pytest.raises(TypeError, match="'permutation' has no setting 'groop'; nearest: group"):
        make("permutation", groop="S3")


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("counting", {"modulus": 1}, "modulus must be at least 2; got 1"),
        ("counting", {"symbols": 1}, "symbols must be at least 2; got 1"),
        ("counting", {"asked": "never"}, r"asked must be one of \('every', 'last'\); got 'never'"),
        ("cycle-navigation", {"cycle": 1}, "cycle must be at least 2; got 1"),
        ("modular-arithmetic", {"operators": "+/"}, r"must be some of '\+-\*', each at most once; got '\+/'"),
        ("modular-arithmetic", {"operators": "++"}, "each at most once"),
        ("modular-arithmetic", {"operators": ""}, "must be some of"),
        ("modular-arithmetic-brackets", {"modulus": 1}, "modulus must be at least 2; got 1"),
        ("bucket-sort", {"symbols": 1}, "BucketSort: symbols must be at least 2; got 1"),
        ("in-context-recall", {"noise": 1.0}, r"noise must lie in \[0, 1\); got 1.0"),
        ("in-context-recall", {"noise": 0.1}, "noise 0.1 needs a noise_vocabulary of at least 1; got 0"),
        ("noisy-recall", {"vocabulary": 17}, "vocabulary must be at least 18, for two ordinary tokens, 16"),
        ("in-context-recall", {"train_on": "all"}, r"train_on must be one of \('asked', 'next'\); got 'all'"),
        ("fuzzy-recall", {"key_size": 8}, "key_size must be at most 7"),
        ("fuzzy-recall", {"value_size": 0}, "value_size must be at least 1; got 0"),
        ("fuzzy-recall", {"full_keys": "no"}, r"full_keys must be one of \('never', 'test', 'always'\)"),
        ("selective-copying", {"num_copied": 0}, "num_copied must be at least 1; got 0"),
        ("selective-copying", {"num_copied": 128}, "length must be at least 257; got 256"),
        ("selective-copying", {"vocabulary": 3}, "vocabulary must be at least 4; got 3"),
        ("memorization", {"dictionary_seed": -1}, "dictionary_seed must be at least 0; got -1"),
        ("permutation", {"num_generators": 2}, 'pass tokens="generators"'),
        (
            "permutation",
            {"tokens": "some"},
            r"tokens must be one of \('elements', 'generators'\); got 'some'",
        ),
        ("word-problem", {"num_generators": 60}, "must lie between 1 and 59, .* got 60"),
        ("word-problem", {"num_generators": 1}, "no 1 elements of A5 were found that generate it; take more"),
        ("word-problem", {"generator_seed": -1}, "generator_seed must be at least 0; got -1"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_what_is_allowed(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        make(name, **wrong)


def test_a_batch_of_none_is_refused():
    with pytest.raises(ValueError, match="batch must be at least 1; got 0"):
        Counting().sample(0)


@pytest.mark.parametrize("wrong", [{"batch": 2.5}, {"seed": 1.5}, {"step": 0.5}, {"seed": None}])
def test_what_is_drawn_is_named_by_whole_numbers_and_nothing_is_rounded(wrong):
    (name,) = wrong
    with pytest.raises(TypeError, match=f"{name} must be an integer; got {wrong[name]}"):
        Counting().sample(**{"batch": 2, **wrong})
    assert torch.equal(Counting().sample(np.int64(2), np.uint8(7)).inputs, Counting().sample(2, 7).inputs)


def test_no_two_streams_share_a_number():
    """64-bit numbers: two of 50 x 500 drawn independently coincide once in 6e10 tries."""
    names = [(seed, split, step) for seed in (0, 1) for split in SPLITS for step in range(8)]
    streams = [*(stream(*name) for name in names), fixed_stream(0), fixed_stream(1)]
    drawn = np.concatenate([random.bit_generator.random_raw(500) for random in streams])
    assert len(np.unique(drawn)) == len(drawn)


def test_a_stream_refuses_what_has_no_name():
    with pytest.raises(ValueError, match="split must be one of"):
        stream(0, "training")
    with pytest.raises(ValueError, match="at least 0; got 0 and -1"):
        stream(0, "train", -1)
    with pytest.raises(ValueError, match="seed must be below 2\\*\\*64; got 18446744073709551616"):
        stream(2**64)
    with pytest.raises(ValueError, match="seed must be below 2\\*\\*64"):
        make("memorization", dictionary_seed=2**64).sample(1)
