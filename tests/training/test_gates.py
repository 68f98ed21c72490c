"""Noise on the gates that rises with the steps, and gates that validation data make sharp at the end."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from statemix.models import MixerConfig
from statemix.nn import BDLRU
from statemix.training import evaluate, load_run, open_source, train, train_replicas
from statemix.training.schedule import share_at
from statemix.training.sharpening import sharpen_by_validation

from .small import At, numbers, small, terminate


def with_mixer(config, **changes):
    return replace(config, model=replace(config.model, mixer=replace(config.model.mixer, **changes)))


def rising(**changes):
    """Twelve steps, quiet in the first half, as loud as it gets in the last ones."""
    return replace(with_mixer(small(**changes), gate_noise=2.0), gate_noise_rise=(0.5, 0.8))


@given(steps=st.integers(1, 300), ends=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
@example(steps=2, ends=(0.0, 1.0))
def test_a_share_rises_from_nothing_to_one_between_its_ends(steps, ends):
    shares = [share_at(step, steps, tuple(ends)) for step in range(steps)]
    assert shares == sorted(shares) and all(0 <= share <= 1 for share in shares)
    for step, share in enumerate(shares):
        place = step / max(1, steps - 1)
        assert share == 1 or place < ends[1]
        assert share == 0 or place >= ends[0]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("ignore")  # compilers warn of their own affairs
def test_noise_that_has_not_risen_changes_nothing_and_then_it_does(compiled, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    quiet = train(small(), progress=False).history
    loud = train(rising(compile=compiled), progress=False).history
    found = [abs(one["loss"] - other["loss"]) < 1e-6 for one, other in zip(quiet, loud, strict=True)]
    # Steps 1 to 6 draw no noise; the loss of step 7 is the first that could.
    assert all(found[:6]) and not any(found[8:])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_replicas_hear_noise_rise_as_a_run_alone_does(compiled, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    configs = [rising(seed=seed) for seed in range(2)]
    group = train_replicas([replace(c, compile=compiled) for c in configs], progress=False)
    alone = [train(c, progress=False) for c in configs]
    quiet = [train(small(seed=seed), progress=False) for seed in range(2)]
    for one, other, silent in zip(group, alone, quiet, strict=True):
        losses = [[row["loss"] for row in result.history] for result in (one, other, silent)]
        assert losses[0][:6] == pytest.approx(losses[1][:6], rel=1e-4)
        assert losses[0][8:] != pytest.approx(losses[2][8:], rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_hears_noise_rise():
    configs = [rising(seed=seed, device="cuda", precision="float32") for seed in range(2)]
    quiet = [small(seed=seed, device="cuda", precision="float32") for seed in range(2)]
    for loud, silent in zip(
        train_replicas(configs, capture=True, progress=False),
        train_replicas(quiet, progress=False),
        strict=True,
    ):
        losses = [[row["loss"] for row in result.history] for result in (loud, silent)]
        assert losses[0][:6] == pytest.approx(losses[1][:6], rel=1e-4)
        assert losses[0][8:] != pytest.approx(losses[1][8:], rel=1e-3)


def test_a_run_that_stopped_while_noise_rose_goes_on_the_same(tmp_path):
    whole = train(rising(), progress=False)
    assert train(rising(), out=tmp_path, observers=[At(8, terminate)], progress=False).step == 8
    resumed = train(rising(), out=tmp_path, resume=True, progress=False)
    assert numbers(resumed.history) == numbers(whole.history)


def test_a_trained_model_has_its_whole_noise_as_a_number():
    (layer,) = (m for m in train(rising(), progress=False).model.modules() if isinstance(m, BDLRU))
    assert layer.gate_noise_share == 1.0 and not isinstance(layer.gate_noise_share, torch.Tensor)


@pytest.mark.parametrize("rise", [(0.5, 0.4), (-0.1, 0.5), (0.5, 1.1)])
def test_a_rise_that_is_none_is_refused(rise):
    with pytest.raises(
        ValueError, match="gate_noise_rise must be two shares of the steps, 0 <= first <= last"
    ):
        replace(with_mixer(small(), gate_noise=1.0), gate_noise_rise=rise)


def test_a_rise_without_noise_is_refused_where_there_could_be_some():
    with pytest.raises(ValueError, match=r"gate_noise_rise must have a gate noise that can rise; got .* 0"):
        small(gate_noise_rise=(0.4, 0.6))
    other = replace(small().model, mixer=MixerConfig(name="gru"))
    assert small(model=other, gate_noise_rise=(0.4, 0.6)).gate_noise_rise == (0.4, 0.6)


def scripted(*values):
    scores = iter(values)
    return lambda: {"accuracy_at_8": next(scores), "accuracy_at_16": 0.5}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [((0.5, 0.7, 0.6), 1), ((0.7, 0.7, 0.7), 0), ((0.1, 0.2, 0.2), 1), ((0.1, 0.0, 0.2), 2)],
)
def test_the_factor_that_validates_best_is_taken_and_the_first_of_equals(values, wanted):
    layer = BDLRU(4, num_blocks=2, block_size=2)
    before = layer.gate.weight.detach().clone()
    chosen, tried = sharpen_by_validation(layer, (2.0, 5.0), scripted(*values))
    assert chosen == wanted and [one.factor for one in tried] == [1.0, 2.0, 5.0]
    assert torch.equal(layer.gate.weight, before * tried[wanted].factor)


def test_fewer_bits_per_byte_are_better():
    layer = BDLRU(4, num_blocks=2, block_size=2)
    scores = iter([{"bits_per_byte": 2.0, "perplexity": 9.0}, {"bits_per_byte": 1.5, "perplexity": 4.0}])
    assert sharpen_by_validation(layer, (2.0,), lambda: next(scores))[0] == 1


def tried_of(result):
    """The mean validation score of each factor, by the name of its row."""
    rows = [row for row in result.evaluations if row["split"].startswith("validation, gates")]
    return {row["split"]: sum(v for k, v in row.items() if k.startswith("accuracy")) for row in rows}


def test_a_run_keeps_the_gates_that_validate_best_in_result_checkpoint_and_scores(tmp_path):
    config = small(steps=60, sharpen_gates=(0.1, 8.0))
    plain = train(replace(config, sharpen_gates=()), progress=False)
    found = train(config, out=tmp_path, progress=False)
    tried = tried_of(found)
    assert list(tried) == ["validation, gates x 1", "validation, gates x 0.1", "validation, gates x 8"]
    best = {"1": 1.0, "0.1": 0.1, "8": 8.0}[max(tried, key=tried.get).split()[-1]]
    for name, weight in plain.model.state_dict().items():
        wanted = weight * best if ".gate." in name else weight
        torch.testing.assert_close(found.model.state_dict()[name], wanted)
    source = open_source(config.resolved().data)
    assert evaluate(load_run(tmp_path), source, "test") == found.scores
    # What is finished is not sharpened again.
    again = train(config, out=tmp_path, resume=True, progress=False)
    assert again.scores == found.scores


def test_replicas_are_sharpened_one_by_one_as_alone():
    configs = [small(steps=40, sharpen_gates=(0.1, 8.0), seed=seed) for seed in range(3)]
    group, alone = train_replicas(configs, progress=False), [train(c, progress=False) for c in configs]
    for one, other in zip(group, alone, strict=True):
        assert tried_of(one) == pytest.approx(tried_of(other), abs=0.05)
        for name, weight in other.model.state_dict().items():
            torch.testing.assert_close(one.model.state_dict()[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mixer", [{"name": "gru"}, {"normalization": "relu"}])
def test_mixers_without_gates_that_get_sharper_are_left_alone(mixer):
    config = small(sharpen_gates=(2.0,))
    config = replace(config, model=replace(config.model, mixer=MixerConfig(**mixer)))
    found = train(config, progress=False)
    assert found.status == "finished" and tried_of(found) == {}


def test_factors_that_are_no_positive_numbers_are_refused():
    for factor in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="sharpen_gates must be numbers above 0"):
            small(sharpen_gates=(factor,))
