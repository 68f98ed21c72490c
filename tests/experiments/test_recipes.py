"""Every recipe that is shipped runs."""

import json
from dataclasses import replace

import pytest

from statemix.experiments import RECIPES, recipe
from statemix.experiments.sweep.trials import check_models, seeded
from statemix.experiments.variants import VARIANTS, variants
from statemix.models import make_model
from statemix.models.sizing import count_state
from statemix.training import ShardData, TaskData, from_json, to_json, train


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_and_can_be_written_down(name):
    config = recipe(name)
    assert config.name == name and RECIPES[name].__doc__
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    data = config.data
    if isinstance(data, TaskData):
        data = replace(data, test_lengths=(data.task.length,), test_bins=(), test_examples=2)
    elif isinstance(data, ShardData):
        data = replace(data, length=16, evaluation_tokens=256)
        if config.model.d_model > 128:
            # Too large for a test: the same recipe over a smaller backbone.
            config = replace(config, model=replace(config.model, d_model=32, num_layers=2), accumulate=1)
    else:
        data = replace(data, evaluation_bytes=256)
    result = train(replace(config, data=data, steps=2, batch_size=2), progress=False)
    assert result.status == "finished" and result.scores


def test_an_unknown_recipe_lists_the_nearest():
    with pytest.raises(ValueError, match="no recipe 's3-compositions'; nearest: s3-composition"):
        recipe("s3-compositions")


def test_permutations_of_three_are_composed_far_beyond_the_trained_length():
    """The headline, on a quarter of the batch so that it takes seconds."""
    config = recipe("s3-composition")
    data = replace(config.data, test_lengths=(128,), test_examples=64)
    result = train(replace(config, data=data, batch_size=32, steps=250), progress=False)
    assert result.scores["accuracy_at_128"] > 0.95


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_a_recipe_can_be_made(name):
    found = variants(name, recipe("s3-composition"))
    assert len(found) > 3
    for config in found.values():
        make_model(config.resolved().model)


@pytest.mark.parametrize("name", ["mixers", "block-sizes"])
def test_variants_hold_equal_states(name):
    for model, config in variants(name, recipe("s3-composition")).items():
        if model != "attention":
            states = count_state(config.model) // (2 if model == "LSTM" else 1)
            assert states == 48


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("base", [name for name in RECIPES if not name.startswith("lm")])
def test_variants_of_every_recipe_that_is_swept_can_be_built(name, base):
    check_models([trial for model, config in variants(name, recipe(base)).items()
                  for trial in seeded(config, model, 1)])  # fmt: skip


def test_layers_that_are_compared_have_the_help_that_the_recipe_counts_on():
    own = recipe("regular-modular-arithmetic").model.mixer
    found = variants("mixers", recipe("regular-modular-arithmetic"))
    for model in ("BD-LRU m=8", "BD-LRU m=1", "BD-LRU m=8, zero initial state", "H-LRU m=8"):
        mixer = found[model].model.mixer
        assert (mixer.gate_noise, mixer.block_dropout, mixer.weight_init) == (1.0, 0.5, "fan-in")
    assert found["BD-LRU m=8"].model.mixer == own


def test_unknown_variants_list_the_nearest():
    with pytest.raises(ValueError, match="no variants 'mixer'; nearest: mixers"):
        variants("mixer", recipe("parity"))
