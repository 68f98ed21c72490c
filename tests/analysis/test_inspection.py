"""What each layer of a model does, against closed forms, and the page that tells it."""

import pytest
import torch
from torch import nn

from statemix import BDLRU, HLRU
from statemix.analysis import inspect_layers
from statemix.analysis.report import ModelFindings, model_page

from .test_report import parsed


def layer_of(matrix):
    """A layer whose every block does the same at every step, whatever the input."""
    size = len(matrix)
    layer = BDLRU(4, num_blocks=3, block_size=size, selective=False, normalization="none")
    with torch.no_grad():
        layer.gate_logits.zero_()
        layer.gate_logits[:, :size] = torch.tensor(matrix)[:, :, None].expand_as(layer.gate_logits[:, :size])
    return layer.eval()


def test_a_block_that_copies_keeps_everything_for_ever():
    turn = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    (found,) = inspect_layers(layer_of(turn), torch.randn(2, 40, 4))
    summary = found.spectrum.summary()
    assert summary.complex_share == 1 and summary.radius == pytest.approx(1)
    assert found.kept == found.decided == 1
    assert found.best_contrast == pytest.approx([1.0] * 41) and found.lasting == pytest.approx(1)
    torch.testing.assert_close(found.example, torch.tensor(turn).double().expand(8, 3, 3))


def test_a_state_that_fades_is_told_by_its_rate():
    (found,) = inspect_layers(layer_of([[0.5]]), torch.randn(1, 10, 4))
    assert found.best_contrast == pytest.approx([0.5**step for step in range(11)])
    assert found.median_contrast == found.best_contrast
    assert found.spectrum.summary().median_memory == pytest.approx(1.4427, rel=1e-3)
    assert found.kept == found.decided == 0.5


def test_an_output_that_no_input_moves_has_no_reach():
    (found,) = inspect_layers(layer_of([[0.5]]), torch.randn(1, 10, 4))
    assert found.reach == [0.0] * 10


def test_the_window_of_a_higher_order_layer_says_nothing_of_what_is_decided():
    layer = HLRU(4, num_channels=3, order=2, selective=False, normalization="none")
    with torch.no_grad():
        layer.gate_logits.zero_()
        layer.gate_logits[0] = 0.25
    (found,) = inspect_layers(layer.eval(), torch.randn(1, 10, 4))
    assert (found.kind, found.blocks, found.size) == ("HLRU", 3, 2)
    assert found.kept == found.decided == 0.25


def test_layers_are_found_in_the_order_in_which_they_run_with_their_sizes():
    model = nn.Sequential(
        BDLRU(8, num_blocks=4, block_size=2), nn.GELU(), HLRU(8, num_channels=6, order=3)
    ).eval()
    first, second = inspect_layers(model, torch.randn(2, 12, 8))
    assert (first.name, first.kind, first.blocks, first.size) == ("0", "BDLRU", 4, 2)
    assert (second.name, second.kind, second.blocks, second.size) == ("2", "HLRU", 6, 3)
    for found in (first, second):
        assert found.spectrum.eigenvalues.shape == (2, 12, found.blocks, found.size)
        assert len(found.best_contrast) == 13 and len(found.reach) == 12 and found.reach[0] == 1
        assert found.bound.holds and found.bound.steps == 12 and 0 < found.decided <= found.kept <= 1


def test_a_model_is_inspected_however_it_wants_to_be_called():
    layer, x = BDLRU(8, num_blocks=4, block_size=2).eval(), torch.randn(2, 12, 8)
    mask = torch.ones(2, 12, dtype=torch.bool)
    (found,), (wanted,) = inspect_layers(layer, x=x, mask=mask), inspect_layers(layer, x)
    assert torch.equal(found.spectrum.eigenvalues, wanted.spectrum.eigenvalues)


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)])
def test_nothing_to_read_is_refused(shape):
    with pytest.raises(ValueError, match="at least one sequence and step"):
        inspect_layers(BDLRU(8, num_blocks=4, block_size=2), torch.zeros(shape))


def page_of(layers, **more):
    return model_page(ModelFindings(name="<mine>", parameters=1234, read="noise", layers=layers, **more))


def test_the_page_holds_every_layer_and_only_what_is_known():
    model = nn.Sequential(*(BDLRU(4, num_blocks=2, block_size=3) for _ in range(9))).eval()
    layers = inspect_layers(model, torch.randn(1, 9, 4))
    page = page_of(layers, symbols=["<a>", "b"])
    titles = [section.title for section in page.sections]
    assert titles == [
        "The layers",
        "Eigenvalues",
        "How long a state lasts",
        "What one block does",
        "Made with",
    ]
    for section in page.sections:
        parsed(section.body)
    circles = parsed(page.sections[1].body).findall(".//svg[@class='circle']")
    assert len(circles) == 9
    assert "&lt;a&gt;" in page.html() and "&lt;mine&gt;" in page.html() and "<mine>" not in page.html()


def test_training_and_tests_are_shown_where_a_run_has_them():
    layers = inspect_layers(BDLRU(4, num_blocks=2, block_size=3).eval(), torch.randn(1, 9, 4))
    page = page_of(
        layers,
        training={"accuracy": ([1, 2, 3], [0.1, 0.5, 0.9])},
        accuracy={8: 1.0, 32: 0.5},
        trained_at=8,
        scores={"perplexity": 3.5},
    )
    (training,) = (section.body for section in page.sections if section.title == "Training")
    parsed(training)
    assert "trained at this length" in training and "3.5000" in training
