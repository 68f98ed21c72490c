"""The parts of training, each against something independent."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from statemix.models import LanguageModel, MixerConfig, ModelConfig
from statemix.tasks import IGNORED, Counting, Permutation
from statemix.training import (
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TaskData,
    TextData,
    bits_per_token,
    evaluate,
    from_json,
    open_source,
    task_accuracy,
    to_json,
    train,
    train_replicas,
)
from statemix.training.config import differences
from statemix.training.optimizer import decays, make_optimizer
from statemix.training.schedule import rate_at

from .small import small


@pytest.mark.parametrize("steps", [25, 100, 400])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_one_cycle_is_that_of_pytorch(steps, share):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, pct_start=share)
    config = ScheduleConfig(warmup_share=share)
    for step in range(steps):
        assert rate_at(step, steps, config) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        if step + 1 < steps:
            theirs.step()


@given(
    name=st.sampled_from(["one-cycle", "cosine", "constant"]), steps=st.integers(1, 500),
    warmup=st.floats(0, 1), start=st.floats(0, 1), end=st.floats(0, 1),
)  # fmt: skip
def test_rates_stay_between_zero_and_the_peak(name, steps, warmup, start, end):
    config = ScheduleConfig(name=name, warmup_share=warmup, start_share=start, end_share=end)
    rates = [rate_at(step, steps, config) for step in range(steps)]
    assert all(-1e-12 <= rate <= 1 + 1e-12 for rate in rates)
    if warmup * steps >= 2:
        assert rates[0] == pytest.approx(start)


def test_a_constant_rate_stays_up_after_its_warmup():
    config = ScheduleConfig(name="constant", warmup_share=0.1, start_share=0.0)
    rates = [rate_at(step, 101, config) for step in range(101)]
    assert rates[:11] == pytest.approx([step / 10 for step in range(11)]) and set(rates[10:]) == {1.0}


def test_only_matrices_decay():
    config = ModelConfig(
        vocab_size=5, d_model=8, num_layers=3, pattern=("bdlru", "lstm", "hlru"),
        mixer=MixerConfig(block_size=2, initial_state="learned"),
    )  # fmt: skip
    found = decays(LanguageModel(config))
    kept = {name for name, decay in found.items() if not decay}
    expected = {"embedding.weight", "norm.weight"}
    for layer in range(3):
        expected |= {f"blocks.{layer}.mixer_norm.weight", f"blocks.{layer}.mlp_norm.weight"}
    for layer in (0, 2):
        expected |= {f"blocks.{layer}.mixer.gate.bias", f"blocks.{layer}.mixer.initial_state"}
    expected |= {f"blocks.1.mixer.recurrence.bias_{side}_l0" for side in ("ih", "hh")}
    expected |= {f"blocks.1.mixer.initial_state.{vector}" for vector in (0, 1)}
    assert kept == expected
    assert found["head.weight"] and found["blocks.0.mixer.gate.weight"] and found["blocks.1.mlp.up.weight"]


def test_constant_gates_do_not_decay():
    model = LanguageModel(ModelConfig(vocab_size=5, d_model=8, mixer=MixerConfig(selective=False)))
    assert decays(model)["blocks.0.mixer.gate_logits"] is False


def test_the_optimizer_makes_the_steps_of_adamw():
    model = nn.Sequential(nn.Linear(3, 2))
    weight, bias = (p.detach().clone() for p in model.parameters())
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, betas=(0.9, 0.99), eps=1e-8)
    optimizer = make_optimizer(model, config)
    moments = {"weight": [0.0, 0.0], "bias": [0.0, 0.0]}
    values = {"weight": weight, "bias": bias}
    for step in range(1, 4):
        optimizer.zero_grad()
        (model(torch.ones(1, 3) * step) ** 2).sum().backward()
        for name, parameter in model[0].named_parameters():
            gradient, (first, second) = parameter.grad, moments[name]
            first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
            moments[name] = [first, second]
            decay = 0.5 if name == "weight" else 0.0
            update = first / (1 - 0.9**step) / ((second / (1 - 0.99**step)).sqrt() + 1e-8)
            values[name] = values[name] * (1 - 0.1 * decay) - 0.1 * update
        optimizer.step()
        for name, parameter in model[0].named_parameters():
            torch.testing.assert_close(parameter.detach(), values[name], atol=1e-5, rtol=1e-5)


CONFIGS = [
    RunConfig(),
    small(seed=3),
    small(data=TextData(corpus="/somewhere", length=9), model=ModelConfig(pattern=("gru", "hlru"))),
    RunConfig(data=TaskData(task=Permutation(group="A5", asked="last"), start_length=2)),
    RunConfig(optimizer=OptimizerConfig(betas=(0.1, 0.2), clip_norm=math.inf)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_a_config_survives_json(config):
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_differences_are_named_with_both_values():
    other = small(seed=4, data=TaskData(task=Counting(length=9), test_lengths=(8, 16), test_examples=32))
    assert differences(small(), small()) == []
    assert differences(small(), other) == ["data.task.length: 8 and 9", "seed: 0 and 4"]


def test_fields_of_another_version_are_named():
    values = to_json(small())
    values["model"]["mixer"]["twist"] = 1
    with pytest.raises(ValueError, match=r"config\.model\.mixer: unknown fields twist"):
        from_json(values)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: small(steps=0), "steps must be at least 1; got 0"),
        (lambda: small(seed=-1), "seed must be at least 0; got -1"),
        (lambda: small(model=ModelConfig(vocab_size=7)).resolved(), "vocab_size is 7, but the data has 2"),
        (lambda: TaskData(test_lengths=(0,)), "test_lengths must be an integer of at least 1; got 0"),
        (lambda: TaskData(start_length=33), "between 1 and the task's length 32; got 33"),
        (lambda: TaskData(growing_share=0.0), r"growing_share must be in \(0, 1\]; got 0"),
        (lambda: TextData(length=0), "data: length must be an integer of at least 1; got 0"),
        (lambda: ScheduleConfig(name="linear"), "schedule: name must be one of .*; got 'linear'"),
        (lambda: ScheduleConfig(end_share=2.0), r"end_share must be a share in \[0, 1\]; got 2"),
        (lambda: ScheduleConfig(warmup_share="all"), r"warmup_share must be a share in \[0, 1\]; got 'all'"),
        (lambda: OptimizerConfig(learning_rate=None), "learning_rate must be at least 0; got None"),
        (lambda: OptimizerConfig(clip_norm="1"), "clip_norm must be above 0; got '1'"),
        (lambda: OptimizerConfig(learning_rate=-1.0), "learning_rate must be at least 0; got -1"),
        (lambda: OptimizerConfig(clip_norm=0.0), "clip_norm must be above 0; got 0"),
        (lambda: OptimizerConfig(learning_rate=math.nan), "learning_rate must be at least 0; got nan"),
        (lambda: OptimizerConfig(clip_norm=math.nan), "clip_norm must be above 0; got nan"),
        (lambda: OptimizerConfig(betas=(0.9, 1.0)), r"betas must be two .* in \[0, 1\); got \(0.9, 1.0\)"),
        (lambda: OptimizerConfig(betas=(0.9,)), r"betas must be two numbers .*; got \(0.9,\)"),
        (lambda: small(precision="float16"), "precision must be one of .*; got 'float16'"),
        (
            lambda: small(gate_noise_rise=(0.5,)),
            "gate_noise_rise must be two shares of the steps, .*; got 0.5",
        ),
        (lambda: small(seed=2**64), r"seed must be below 2\*\*64; got 18446744073709551616"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: small(sharpen_gates=1.5), r"sharpen_gates must be a tuple of numbers; got 1\.5: write \(1\.5,\)"),
        (lambda: small(gate_noise_rise=0.5), r"gate_noise_rise must be a tuple of numbers; got 0\.5"),
        (lambda: OptimizerConfig(betas=0.9), r"betas must be a tuple of numbers; got 0\.9"),
        (lambda: OptimizerConfig(betas=("a", "b")), "betas must be a tuple of numbers; got 'a' among them"),
        (lambda: small(name=3), "config: name must be a str; got 3"),
    ],
)  # fmt: skip
def test_what_is_of_another_kind_is_refused(build, message):
    with pytest.raises(TypeError, match=message):
        build()


@pytest.mark.parametrize("name", ["steps", "batch_size", "accumulate", "seed", "threads", "evaluate_every"])
@pytest.mark.parametrize("value", [2.0, math.nan, "3", True])
def test_counts_are_integers(name, value):
    with pytest.raises(TypeError, match=f"config: {name} must be an integer; got {value!r}"):
        small(**{name: value})


def test_a_batch_depends_on_its_step_alone():
    source = open_source(TaskData(task=Counting(length=8)))
    arguments = {"batch_size": 4, "seed": 1, "steps": 100}
    forward = [source.batch(step, **arguments).inputs.tolist() for step in range(6)]
    backward = [source.batch(step, **arguments).inputs.tolist() for step in reversed(range(6))]
    assert forward == backward[::-1]
    assert len({str(batch) for batch in forward}) == 6


def test_windows_of_a_text_depend_on_their_step_alone(tmp_path):
    (tmp_path / "a.txt").write_text("the quick brown fox " * 100)
    source = open_source(TextData(corpus=str(tmp_path / "a.txt"), length=12))
    arguments = {"batch_size": 4, "seed": 1, "steps": 100}
    again = open_source(TextData(corpus=str(tmp_path / "a.txt"), length=12))
    assert source.batch(5, **arguments).inputs.tolist() == again.batch(5, **arguments).inputs.tolist()
    assert source.batch(5, **arguments).inputs.tolist() != again.batch(6, **arguments).inputs.tolist()
    with pytest.raises(ValueError, match="too few for windows of 5000; pass a smaller length"):
        open_source(TextData(corpus=str(tmp_path / "a.txt"), length=5000))


class Oracle(nn.Module):
    """Answers parity right up to a place, then always 0."""

    def __init__(self, until: int) -> None:
        super().__init__()
        self.until = until
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        answers = tokens.cumsum(1) % 2
        answers[:, self.until :] = 0
        return nn.functional.one_hot(answers, 2).float()


class Silent(Counting):
    """It asks nothing."""

    def generate(self, batch, length, random):
        inputs, targets = super().generate(batch, length, random)
        return inputs, np.full_like(targets, IGNORED)


def test_accuracy_where_nothing_is_asked_is_refused():
    with pytest.raises(
        ValueError, match="Silent: nothing is asked in 4 sequences of length 6, so that no share"
    ):
        task_accuracy(Oracle(10), Silent(length=6), 4)


def test_accuracy_is_the_share_of_right_answers():
    task = Counting(length=20)
    assert task_accuracy(Oracle(20), task, 100) == 1.0
    targets = task.sample(100, 0, split="test").targets
    wanted = (10 * 100 + int((targets[:, 10:] == 0).sum())) / 2000
    assert task_accuracy(Oracle(10), task, 100) == pytest.approx(wanted)
    last = Counting(length=20, asked="last")
    assert task_accuracy(Oracle(10), last, 100) == pytest.approx((targets[:, -1] == 0).float().mean().item())


def test_bits_carry_the_state_from_window_to_window():
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=5, d_model=8))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    tokens = torch.randint(5, (3, 21))
    logits = model(tokens[:, :-1]).log_softmax(-1)
    wanted = -logits.gather(2, tokens[:, 1:, None]).mean().item() / math.log(2)
    for window in (1, 7, 100):
        found = bits_per_token(model, tokens[:, :-1], tokens[:, 1:], window=window)
        assert found == pytest.approx(wanted, rel=1e-5)


def test_a_model_that_knows_nothing_needs_all_bits():
    model = LanguageModel(ModelConfig(vocab_size=8, d_model=8))
    nn.init.zeros_(model.head.weight)
    tokens = torch.randint(8, (2, 33))
    assert bits_per_token(model, tokens[:, :-1], tokens[:, 1:], window=8) == pytest.approx(3.0)


def test_evaluation_names_its_scores_and_leaves_the_mode(tmp_path):
    config = small().resolved()
    model = LanguageModel(config.model).train()
    scores = evaluate(model, open_source(config.data))
    assert set(scores) == {"accuracy_at_8", "accuracy_at_16"} and model.training
    (tmp_path / "a.txt").write_text("the quick brown fox " * 100)
    text = open_source(TextData(corpus=str(tmp_path / "a.txt"), length=12))
    wide = LanguageModel(ModelConfig(vocab_size=256, d_model=8))
    assert evaluate(wide, text)["bits_per_byte"] == pytest.approx(8, abs=0.2)


def test_validation_and_test_are_other_examples():
    task = Counting(length=20)
    seen = []

    class Watch(Oracle):
        def forward(self, tokens):
            seen.append(tokens)
            return super().forward(tokens)

    for split in ("validation", "test", "test"):
        task_accuracy(Watch(20), task, 10, split)
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[1], task.sample(10, 0).inputs)


@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: RunConfig(model={}), TypeError, "config: model must be a ModelConfig; got {}"),
        (
            lambda: RunConfig(data="shards"),
            TypeError,
            "data must be a TaskData or TextData or ShardData; got 'sh",
        ),
        (lambda: RunConfig(optimizer=1e-3), TypeError, "optimizer must be a OptimizerConfig; got 0.001"),
        (lambda: train("parity"), TypeError, "must be a RunConfig; got 'parity': write .*recipe.'parity'"),
        (lambda: train(RunConfig(steps=1), resume=True), ValueError, "resume=True goes on .* give out"),
        (lambda: train_replicas(RunConfig(steps=1)), TypeError, "got one: write .config."),
        (
            lambda: train_replicas([RunConfig(steps=1)], resume=True),
            ValueError,
            "resume=True goes on .* give out",
        ),
    ],
)
def test_what_cannot_be_trained_is_named(use, error, says):
    with pytest.raises(error, match=says):
        use()
