"""``statemix inspect``, as it is typed: of a task, of text, of a folder of Transformers, of the shipped model."""

import pytest

from statemix.cli import main
from statemix.models import MixerConfig, ModelConfig
from statemix.tasks import Compression, Counting
from statemix.training import RunConfig, TaskData, TextData, train

MODEL = ModelConfig(d_model=16, mixer=MixerConfig(block_size=2, num_blocks=4), mlp_ratio=1.0)


def run(data, out, model=MODEL, **more):
    config = RunConfig(model=model, data=data, steps=2, batch_size=4, tensorboard=False, threads=1, **more)
    train(config, out=out, progress=False)
    return out


@pytest.fixture
def counting():
    return TaskData(task=Counting(length=16), test_lengths=(8, 16), test_examples=4)


def test_a_run_is_told_layer_by_layer_with_its_training_and_tests(counting, tmp_path, capsys):
    folder = run(counting, tmp_path / "run")
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "blocks.0.mixer: BDLRU 4 x 2" in shown and str(folder / "inspection.html") in shown
    page = (folder / "inspection.html").read_text()
    for part in ("What run learned", "Accuracy against length", "trained at this length", "Training: loss"):
        assert part in page
    assert "4 test sequences of its task, Counting, of length 16" in page


def test_a_row_of_metrics_that_was_torn_off_is_left_out(counting, tmp_path):
    folder = run(counting, tmp_path / "run", log_every=1)
    metrics = folder / "metrics.csv"
    header, first, second = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(header + first + second[:4])
    assert main(["inspect", str(folder)]) == 0


def test_the_same_run_reads_as_many_and_as_long_sequences_as_asked(counting, tmp_path):
    folder, out = run(counting, tmp_path / "run"), tmp_path / "pages" / "mine.html"
    assert main(["inspect", str(folder), "--length", "40", "--sequences", "2", "--out", str(out)]) == 0
    assert "2 test sequences of its task, Counting, of length 40" in out.read_text()


def test_a_run_of_text_reads_what_it_held_out(tmp_path):
    (tmp_path / "song.txt").write_text("la la la\n" * 600)
    folder = run(TextData(corpus=str(tmp_path / "song.txt"), length=64), tmp_path / "run")
    assert main(["inspect", str(folder)]) == 0
    page = (folder / "inspection.html").read_text()
    assert "held-out documents of 64 tokens" in page and "Training: accuracy" not in page


def test_a_folder_of_transformers_reads_text_of_ones_own(counting, tmp_path):
    (tmp_path / "long.txt").write_text("la la la\n" * 600)
    (tmp_path / "song.txt").write_text("la la la\n" * 20)
    folder = run(TextData(corpus=str(tmp_path / "long.txt"), length=32), tmp_path / "run")
    assert main(["convert", str(folder), str(tmp_path / "theirs")]) == 0
    command = ["inspect", str(tmp_path / "theirs"), "--data", str(tmp_path / "song.txt"), "--length", "4000"]
    assert main(command) == 0
    # One document of 180 bytes and its end: no text is as long as was asked.
    assert "1 held-out documents of 181 tokens" in (tmp_path / "theirs" / "inspection.html").read_text()


def test_the_shipped_model_is_there_to_be_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("In the beginning God created the heaven and the earth.\n" * 4)
    assert main(["inspect", "--data", "words.txt", "--length", "64"]) == 0
    assert "What the shipped model learned" in (tmp_path / "inspection.html").read_text()


def test_a_model_that_compresses_is_no_language_model_and_is_told_as_well(tmp_path):
    data = TaskData(task=Compression(length=16), test_lengths=(16,), test_examples=4)
    model = ModelConfig(architecture="autoencoder", d_model=16, mixer=MixerConfig(block_size=2, num_blocks=4))
    folder = run(data, tmp_path / "run", model)
    assert main(["inspect", str(folder)]) == 0
    assert "Compression" in (folder / "inspection.html").read_text()


def test_a_model_without_such_layers_is_refused_by_name(counting, tmp_path, capsys):
    model = ModelConfig(d_model=16, mixer=MixerConfig(name="lstm"))
    folder = run(counting, tmp_path / "run", model)
    assert main(["inspect", str(folder)]) == 2
    assert "holds 0 recurrent layers of statemix" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--length", "--sequences"])
def test_sizes_that_mean_nothing_are_refused(counting, tmp_path, capsys, flag):
    folder = run(counting, tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(folder), flag, "0"])
    shown = capsys.readouterr()
    assert ended.value.code == 2 and f"{flag} must be an integer of at least 1; got 0" in " ".join(
        shown.err.split()
    )


def test_a_folder_is_no_name_of_a_page_and_nothing_is_left_beside_it(counting, tmp_path, capsys):
    folder, pages = run(counting, tmp_path / "run"), tmp_path / "pages"
    pages.mkdir()
    assert main(["inspect", str(folder), "--out", str(pages)]) == 1
    assert f"--out {pages}: it cannot be written (Is a directory); choose" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pages", "run"]
