"""``statemix demo``: what it prints and writes, that it goes on, and that its findings are true."""

import itertools
import math
import os
import re
import signal

import pytest
import torch

from statemix import kernel_counts, reset_kernel_counts
from statemix.analysis.report.state_tracking import Tracker
from statemix.cli import demo as command
from statemix.cli import main
from statemix.experiments import demo
from statemix.models import LanguageModel
from statemix.tasks import group
from statemix.training import Observer, train


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder of a finished quick demo, and what it printed."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        with_output = _captured(["--quick", "--out", str(out)])
    return out, *with_output


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "report.html").write_text("of another program")
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path}: it holds something else" in said and "delete" not in said
    assert (tmp_path / "report.html").read_text() == "of another program"
    assert not any((tmp_path / "runs").iterdir())


def _captured(arguments):
    import contextlib
    import io

    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        status = command.main(arguments)
    return status, written.getvalue()


def exact_model():
    """A demo model whose first block applies exactly the permutation that each token names."""
    config = demo.contenders(quick=True)[0].config.resolved()
    model = LanguageModel(config.model)
    layer = model.blocks[0].mixer
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(6, config.model.d_model))
        layer.gate.bias.zero_()
        gates = layer.gate.weight.view(3, 4, layer.num_blocks, -1)
        gates.zero_()
        for token, image in enumerate(itertools.permutations(range(3))):
            for old, new in enumerate(image):
                gates[new, old, 0, token] = 100.0
    return model


def test_it_ends_well_without_a_terminal_and_says_where_the_report_is(quick):
    out, status, printed = quick
    assert status == 0
    assert printed.rstrip().endswith(str((out / "report.html").resolve()))
    assert "\x1b" not in printed


def test_it_shows_every_model_and_every_coder(quick):
    _, _, printed = quick
    for name in (
        "BD-LRU, m = 3",
        "BD-LRU, m = 1",
        "H-LRU, m = 3",
        "LSTM",
        "gzip",
        "unigram",
        "BD-LRU, m = 4",
    ):
        assert re.search(rf"│ {re.escape(name)} +│", printed), name


def test_a_quick_demo_claims_nothing(quick):
    out, _, printed = quick
    assert "these numbers say nothing" in printed
    assert "✓" not in printed and "✗" not in printed
    assert 'class="good"' not in (out / "report.html").read_text("utf-8")


def test_the_report_has_its_parts_and_the_command(quick):
    out, _, _ = quick
    page = (out / "report.html").read_text("utf-8")
    for part in ("In short", "The recurrence", "Tracking a state", "What the blocks learned",
                 "Accuracy against length.", "Learning curves.", "in the unit circle.", "Bits per byte.",
                 "A sample it wrote", "Do it again"):  # fmt: skip
        assert part in page, part
    assert f"statemix demo --out {out} --seed 0 --quick" in page
    assert page.count("<details>") == 5
    assert torch.__version__ in page


def test_a_second_call_trains_nothing_and_finds_the_same(quick):
    out, _, printed = quick
    reset_kernel_counts()
    status, again = _captured(["--quick", "--out", str(out)])
    assert status == 0
    assert not [name for name in kernel_counts() if "backward" in name]

    def numbers(text):
        return re.findall(r"\d+\.\d %|\d\.\d\d ", text[text.index("What came out") :])

    assert numbers(again) == numbers(printed)


def test_an_interrupted_demo_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    arguments = ["--quick", "--out", str(tmp_path)]
    logged = command._Lines.logged

    def interrupting(self, row):
        if self._name == "H-LRU, m = 3":
            os.kill(os.getpid(), signal.SIGTERM)
        logged(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(command._Lines, "logged", interrupting)
        assert command.main(arguments) == 128 + signal.SIGTERM
    stopped = capsys.readouterr().out
    assert "The same command goes on" in stopped and "LSTM:" not in stopped
    assert command.main(arguments) == 0
    assert "H-LRU, m = 3: goes on after step 5" in capsys.readouterr().out


def test_a_folder_with_other_settings_is_refused_with_the_remedy(quick, capsys):
    out, _, _ = quick
    assert command.main(["--quick", "--seed", "1", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "seed: 0 and 1" in said and "--out" in said


def test_a_seed_that_is_none_is_refused(tmp_path, capsys):
    assert main(["demo", "--seed", "-1", "--out", str(tmp_path)]) == 2
    assert "statemix demo: config: seed must be at least 0; got -1" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--out", "--seed", "--quick"))


def test_all_contenders_train_alike_and_carry_the_same_state():
    contenders = demo.contenders(seed=3)
    assert (
        len({(c.config.steps, c.config.batch_size, c.config.optimizer, c.config.seed) for c in contenders})
        == 1
    )
    assert {m.num_blocks * m.block_size for c in contenders for m in [c.config.model.mixer]} == {
        demo.STATE_SIZE
    }
    assert contenders[0].config.seed == 3


def test_elements_are_called_what_the_group_makes_of_them():
    """The order of an element: how often it must be repeated to come back to where it began."""
    product = group("S3").product
    for element, kind in enumerate(demo._KIND_OF_ELEMENT):
        power, order = element, 1
        while power != 0:
            power, order = product[element, power], order + 1
        assert order == {"identity": 1, "swaps": 2, "3-cycles": 3}[kind]
    assert ["".join(str(i + 1) for i in p) for p in itertools.permutations(range(3))] == list(demo.ELEMENTS)


def test_blocks_that_permute_have_the_spectra_of_permutations_and_keep_their_state():
    model = exact_model()
    contender = demo.contenders(quick=True)[0]
    blocks = demo.learned_blocks(contender, model, steps=40)
    first = {name: values[:, 0] for name, values in blocks.eigenvalues.items()}
    assert torch.allclose(first["identity"], torch.ones(1, 3, dtype=torch.complex128), atol=1e-6)
    assert torch.allclose(first["swaps"].real.sort(-1).values, torch.tensor([-1.0, 1, 1]).double(), atol=1e-6)
    assert torch.allclose(first["3-cycles"].imag.amax(-1), torch.tensor(math.sqrt(3) / 2).double(), atol=1e-6)
    assert blocks.contrast == pytest.approx([1.0] * 41, abs=1e-5)
    assert blocks.bound.holds and blocks.bound.steps == 40


def test_the_block_that_is_shown_is_the_one_that_permutes():
    shown = demo.clearest_block(exact_model())
    assert [name for name, _, _ in shown] == list(demo.ELEMENTS)
    for name, _, matrix in shown:
        wanted = torch.zeros(3, 3, dtype=torch.float64)
        for old, new in enumerate(name):
            wanted[int(new) - 1, old] = 1
        assert torch.allclose(matrix, wanted, atol=1e-6)


def test_no_block_is_shown_where_none_tells_the_elements_apart():
    model = exact_model()
    with torch.no_grad():
        model.blocks[0].mixer.gate.weight.zero_()
    assert demo.clearest_block(model) == []


@pytest.mark.parametrize(
    ("share", "expected", "good", "says"),
    [
        (0.995, (512, 0.99, 1.0), True, "99.5 % right at length 512: because."),
        (0.95, (512, 0.99, 1.0), False, "95.0 % right at length 512; expected was at least 99.0 %."),
        (0.6, (512, 0.0, 0.5), False, "60.0 % right at length 512; expected was at most 50.0 %."),
        (0.6, None, None, "60.0 % right at length 512: because."),
    ],
)
def test_a_verdict_says_what_was_measured_and_whether_it_was_expected(share, expected, good, says):
    tracker = Tracker(
        name="model", series=1, parameters=1, state_size=1, seconds=1.0, accuracy={32: 1.0, 512: share},
        steps=[], training_accuracy=[], note="because", expected=expected,
    )  # fmt: skip
    assert tracker.verdict == (says, good)


@pytest.mark.parametrize("index", [0, 1])
def test_what_the_demo_promises_of_its_models_comes_true(index):
    """The whole training of two contenders, a few seconds each."""
    contender = demo.contenders()[index]
    result = train(contender.config, progress=False)
    assert demo.tracker(contender, result).verdict[1] is True, result.scores


def test_a_loss_that_is_no_number_ends_the_demo_with_its_name(tmp_path):
    config = demo.contenders(quick=True)[1].config

    class Poison(Observer):
        def logged(self, row):
            row["loss"] = math.nan

    with pytest.raises(RuntimeError, match=f"{config.name}: the loss is no number"):
        demo.continued(config, tmp_path / "run", [Poison()])
