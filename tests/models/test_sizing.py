"""Equal budgets: what is solved for is what a built model has, and impossible budgets name the nearest one."""

import math

import pytest
import torch

from statemix.models import (
    MIXERS,
    TIERS,
    Mixer,
    MixerConfig,
    ModelConfig,
    fit,
    fit_tier,
    make_mixer,
    make_model,
)
from statemix.models.sizing import count_parameters, count_state

GROWING_STATE = {"attention"}


def config(name: str = "bdlru", *, width: int = 64, layers: int = 2, **mixer) -> ModelConfig:
    if name in ("bdlru", "hlru"):
        mixer = {"block_size": 3, **mixer}
    return ModelConfig(vocab_size=16, d_model=width, num_layers=layers, mixer=MixerConfig(name=name, **mixer))


@pytest.mark.parametrize("name", MIXERS)
def test_a_fitted_model_has_what_the_solver_says(name):
    found = fit(config(name, width=32), parameters=150_000, tolerance=0.2)
    built = sum(p.numel() for p in make_model(found.config).parameters())
    assert built == found.got
    assert abs(built / 150_000 - 1) == abs(found.miss) <= 0.2


@pytest.mark.parametrize("name", MIXERS)
def test_no_other_size_comes_nearer(name):
    found = fit(config(name, width=32), mixer_parameters=60_000, tolerance=0.5)
    for change in (0.5, 0.9, 1.1, 2):
        nearby = fit(config(name, width=32), mixer_parameters=int(60_000 * change), tolerance=0.5)
        assert abs(nearby.got - 60_000) >= abs(found.got - 60_000)


@pytest.mark.parametrize("name", [n for n in MIXERS if n not in GROWING_STATE])
def test_the_state_that_is_counted_is_the_state_that_a_layer_returns(name):
    model = config(name, width=16, layers=3)
    layer = make_mixer(model.mixer, 16)
    _, state = layer(torch.randn(1, 2, 16), return_state=True)
    shapes = [s.shape[1:] for s in (state if isinstance(state, tuple) else (state,))]
    windows = len(getattr(layer, "window_shapes", ()))
    recurrent = shapes[: len(shapes) - windows]
    assert count_state(model) == 3 * sum(shape.numel() for shape in recurrent)


@pytest.mark.parametrize(
    ("name", "numbers"), [("bdlru", 2 * 64 * 3), ("hlru", 2 * 64 * 3), ("lstm", 2 * 2 * 96)]
)
def test_equal_state_is_the_papers_count(name, numbers):
    options = {"num_blocks": 64, "block_size": 3} if name != "lstm" else {"num_blocks": 32, "block_size": 3}
    assert count_state(config(name, **options)) == numbers
    assert fit(config(name, block_size=3), state=numbers).config.mixer.num_blocks == options["num_blocks"]


def test_sizes_are_multiples_where_asked():
    found = fit(config(width=256), parameters=3_000_000, multiple_of=32)
    assert found.config.mixer.num_blocks % 32 == 0
    assert str(found).startswith(f"bdlru num_blocks = {found.config.mixer.num_blocks}: ")
    assert f"({found.miss:+.2%})" in str(found)


@pytest.mark.parametrize("name", ["deltanet", "deltaproduct", "mlstm", "rwkv7", "attention", "mamba2"])
def test_inner_widths_are_multiples_where_asked(name):
    base = ModelConfig(vocab_size=16, d_model=120, num_layers=2, mixer=MixerConfig(name=name))
    found = fit(base, mixer_parameters=2_000_000, multiple_of=16, tolerance=0.5)
    outputs = [block.mixer.output.weight for block in make_model(found.config).blocks]
    assert [weight.shape[1] % 16 for weight in outputs] == [0, 0]


@pytest.mark.parametrize("channels", [37, 38])
def test_an_inner_width_may_be_any_number_where_no_multiple_is_asked_for(channels):
    wanted = channels * 16 * 2  # a state of 16 numbers a channel, in two layers
    assert fit(config("mamba", width=16), state=wanted, tolerance=0.0).got == wanted


def test_a_pattern_grows_by_the_mixer_that_the_config_names():
    base = ModelConfig(vocab_size=16, d_model=64, num_layers=4, pattern=("bdlru", "attention"))
    found = fit(base, parameters=500_000)
    attention, bdlru = 4 * 64 * 64, found.config.mixer.num_blocks * (20 * 65 + 8 * 64)
    without = count_parameters(ModelConfig(vocab_size=16, d_model=64, num_layers=4, pattern=("attention",)))
    assert found.got == without - 2 * attention + 2 * bdlru


@pytest.mark.parametrize("tier", ["0.33M", "1M", "33M", "100M"])
def test_every_tier_is_met_by_every_block_size(tier):
    for block_size in (1, 2, 4, 8):
        base = ModelConfig(
            vocab_size=16, num_layers=2, mlp_ratio=2.0, mixer=MixerConfig(block_size=block_size)
        )
        found = fit_tier(base, tier)
        assert found.config.d_model == TIERS[tier].d_model
        assert abs(found.miss) < 0.05


def test_a_tier_can_count_mixers_alone():
    found = fit_tier(config(), "1M-wide", of="mixers")
    assert found.what == "mixer parameters"
    assert found.config.d_model == 1024


def test_an_autoencoder_is_counted_as_an_autoencoder():
    autoencoder = ModelConfig(vocab_size=16, d_model=64, architecture="autoencoder", max_length=32)
    found = fit(autoencoder, parameters=200_000)
    assert sum(p.numel() for p in make_model(found.config).parameters()) == found.got


def test_an_impossible_budget_names_the_nearest_possible_one():
    smallest = count_parameters(config(num_blocks=1))
    with pytest.raises(ValueError, match=f"nearest possible is {smallest:,} with num_blocks = 1: try fewer"):
        fit(config(), parameters=10_000)


@pytest.mark.parametrize(
    ("mixer", "budget", "remedies"),
    [
        (
            "gated-deltanet",
            {"mixer_parameters": 200_000},
            "num_heads = 2: try a smaller head_dim or a larger tol",
        ),
        (
            "mamba2",
            {"state": 1024},
            "expand = 0.5: try a smaller head_dim or fewer layers or a smaller state_size$",
        ),
        ("attention", {"mixer_parameters": 10}, "num_heads = 1: try a smaller head_dim or fewer layers$"),
        ("gru", {"mixer_parameters": 10}, "num_blocks = 1: try fewer layers$"),
        ("gru", {"state": 3}, "num_blocks = 1: try a larger tolerance"),
    ],
)
def test_a_budget_between_two_sizes_or_below_the_smallest_comes_with_what_reaches_it(mixer, budget, remedies):
    wide = ModelConfig(vocab_size=16, d_model=128, num_layers=2, mixer=MixerConfig(name=mixer, block_size=1))
    with pytest.raises(ValueError, match=remedies):
        fit(wide, **budget)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "exactly one of parameters, mixer_parameters and state; got none"),
        ({"parameters": 1000, "state": 5}, "exactly one"),
        ({"state": 0}, "at least 1, such as 1_000_000; got 0 state numbers"),
        ({"parameters": math.nan}, "finite number of at least 1, .*; got nan parameters"),
        ({"parameters": math.inf}, "finite number of at least 1, .*; got inf parameters"),
        (
            {"parameters": "1M"},
            "fit: a budget must be a finite number .*; got '1M' parameters: fit_tier takes the",
        ),
        ({"state": True}, "finite number of at least 1, .*; got True state numbers"),
        ({"state": 99, "multiple_of": 0}, "multiple_of must be an integer of at least 1; got 0"),
        ({"state": 99, "multiple_of": 2.5}, "fit: multiple_of must be an integer of at least 1; got 2.5"),
        ({"parameters": 10_000, "tolerance": math.nan}, "tolerance must be a share of at least 0; got nan"),
    ],
)
def test_budgets_that_say_nothing_are_refused(budget, message):
    with pytest.raises(ValueError, match=message):
        fit(config(), **budget)


def test_a_smaller_block_is_a_remedy_where_there_are_blocks():
    with pytest.raises(ValueError, match=r"num_blocks = 1: try fewer layers or a smaller block_size$"):
        fit(config(), mixer_parameters=10)


def test_what_a_tier_counts_is_not_guessed():
    with pytest.raises(ValueError, match='of must be "model" or "mixers"; got \'mixer\''):
        fit_tier(config(), "1M", of="mixer")


def test_a_growing_state_has_no_budget():
    with pytest.raises(ValueError, match="CausalAttention grows with the sequence"):
        fit(config("attention"), state=100)


def test_an_unknown_tier_lists_the_tiers():
    with pytest.raises(ValueError, match=r"must be one of \('0.33M'.*got '2M'"):
        fit_tier(config(), "2M")


class Average(torch.nn.Module):
    """A mixer of one's own: an average in each of ``hidden_size`` channels, handed on with a count."""

    def __init__(self, d_model, *, hidden_size=3):
        super().__init__()
        self.into, self.out = torch.nn.Linear(d_model, hidden_size), torch.nn.Linear(hidden_size, d_model)

    def forward(self, x, state=None, *, return_state=False):
        hidden = self.into(x)
        return self.out(hidden), (hidden[:, -1], hidden[:, -1, :1])


@pytest.fixture
def own_mixers(monkeypatch):
    sizes = {
        "fixed": lambda config, width: {},
        "own": lambda config, width: {"hidden_size": config.num_blocks or 1},
    }
    for name, size in sizes.items():
        monkeypatch.setitem(MIXERS, name, Mixer(layer=Average, sizes=size, grows_with="num_blocks"))


def test_a_mixer_of_ones_own_is_sized_like_those_that_ship(own_mixers):
    model = ModelConfig(vocab_size=16, d_model=8, num_layers=2, mixer=MixerConfig(name="own"))
    # Channels and a count in each of two layers; a weight and a bias in, a weight out for each channel.
    assert fit(model, state=2 * 41).config.mixer.num_blocks == 40
    assert fit(model, mixer_parameters=2 * (40 * (8 + 1 + 8) + 8)).config.mixer.num_blocks == 40


@pytest.mark.parametrize("budget", ["parameters", "mixer_parameters", "state"])
def test_a_layer_that_no_size_changes_is_named(own_mixers, budget):
    model = ModelConfig(vocab_size=16, d_model=8, num_layers=2, mixer=MixerConfig(name="fixed"))
    with pytest.raises(ValueError, match=r"num_blocks changes nothing in this model, whose layers are fixed"):
        fit(model, **{budget: 10**6})


def test_a_size_that_no_layer_of_a_pattern_has_is_named():
    model = ModelConfig(vocab_size=16, d_model=16, mixer=MixerConfig(name="bdlru"), pattern=("attention",))
    with pytest.raises(
        ValueError, match=r"num_blocks changes nothing .* whose layers are attention and have"
    ):
        fit(model, parameters=100_000)
