"""``statemix evaluate``, as it is typed, against the numbers of the run itself."""

import csv
import shutil

import pytest

from statemix.cli import main
from statemix.models import MixerConfig, ModelConfig
from statemix.tasks import Counting
from statemix.text import PrepareOptions, prepare
from statemix.training import RunConfig, ShardData, TaskData, TextData, train


def text(n=400):
    return "".join(f"line {i % 17} of the song, {'la ' * (i % 5)}\n" for i in range(n))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    base = tmp_path_factory.mktemp("evaluate")
    (base / "song.txt").write_text(text())
    prepare([str(base / "song.txt")], base / "out", PrepareOptions(validation_share=0.2), progress=False)
    return base / "out"


def run(data, out, steps=30):
    model = ModelConfig(d_model=16, mixer=MixerConfig(block_size=2, num_blocks=4), mlp_ratio=1.0)
    config = RunConfig(model=model, data=data, steps=steps, batch_size=8, tensorboard=False, threads=1)
    return train(config, out=out, progress=False)


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_measured_as_it_was_when_it_ended(shards, tmp_path, capsys):
    result = run(ShardData(path=str(shards), length=64), tmp_path / "run")
    assert main(["evaluate", str(tmp_path / "run"), "--csv", str(tmp_path / "t.csv")]) == 0
    shown = capsys.readouterr().out
    *buckets, total = table(tmp_path / "t.csv")
    assert float(total["bits_per_byte"]) == pytest.approx(result.scores["bits_per_byte"], rel=1e-6)
    assert float(total["perplexity"]) == pytest.approx(result.scores["perplexity"], rel=1e-6)
    assert [row["context_from"] for row in buckets] == ["0", "16", "32"]
    assert sum(int(row["tokens"]) for row in buckets) == int(total["tokens"])
    mean = sum(int(r["tokens"]) * float(r["bits_per_byte"]) for r in buckets) / int(total["tokens"])
    assert mean == pytest.approx(float(total["bits_per_byte"]))
    assert "32 to 63" in shown and f"{float(total['bits_per_byte']):.4f}" in shown


def test_a_model_whose_tokens_are_no_text_reads_none(tmp_path, capsys):
    run(TaskData(task=Counting(length=16), test_lengths=(16,), test_examples=8), tmp_path / "run", steps=1)
    (tmp_path / "other.txt").write_text(text(50))
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "other.txt")]) == 1
    assert f"{tmp_path / 'run'}: its tokens are no text" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["shards", "text"])
def test_a_run_whose_text_is_gone_asks_for_other_text(shards, tmp_path, capsys, kind):
    gone = tmp_path / "gone"
    if kind == "shards":
        shutil.copytree(shards, gone)
        run(ShardData(path=str(gone), length=64), tmp_path / "run", steps=2)
    else:
        gone.write_text(text())
        run(TextData(corpus=str(gone), length=64), tmp_path / "run", steps=2)
    gone.rename(tmp_path / "elsewhere")
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert f"that run was trained on, {gone}, is not here: give --data" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "elsewhere")]) == 0


def test_any_text_can_be_measured_at_any_length(shards, tmp_path, capsys):
    run(ShardData(path=str(shards), length=64), tmp_path / "run")
    (tmp_path / "other.txt").write_text(text(50))
    arguments = ["evaluate", str(tmp_path / "run"), "--length", "200", "--csv", str(tmp_path / "t.csv")]
    assert main([*arguments, "--data", str(tmp_path / "other.txt")]) == 0
    *_, last, total = table(tmp_path / "t.csv")
    assert int(total["tokens"]) == len(text(50)) + 1 and last["context_to"] == "200"
    (tmp_path / "noise.txt").write_text("".join(chr(33 + i * i % 89) for i in range(3000)))
    song = float(total["bits_per_byte"])
    assert main([*arguments, "--data", str(tmp_path / "noise.txt")]) == 0
    assert float(table(tmp_path / "t.csv")[-1]["bits_per_byte"]) > song + 0.5
    capsys.readouterr()


def test_runs_on_plain_text_and_on_tasks_are_measured_too(tmp_path, capsys):
    (tmp_path / "song.txt").write_text(text())
    result = run(TextData(corpus=str(tmp_path / "song.txt"), length=64), tmp_path / "text")
    assert main(["evaluate", str(tmp_path / "text"), "--csv", str(tmp_path / "t.csv")]) == 0
    found = float(table(tmp_path / "t.csv")[-1]["bits_per_byte"])
    # The run reads its held-out text in sixteen stretches, and this from its beginning.
    assert found == pytest.approx(result.scores["bits_per_byte"], rel=0.1)
    data = TaskData(task=Counting(length=8), test_lengths=(8, 16), test_examples=32)
    task = run(data, tmp_path / "task", steps=2)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "task")]) == 0
    assert f"accuracy at 16 {100 * task.scores['accuracy_at_16']:.1f} %" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--length", "--tokens"])
def test_a_run_of_a_task_refuses_flags_that_would_change_nothing(tmp_path, capsys, flag):
    run(TaskData(task=Counting(length=8), test_lengths=(8,), test_examples=8), tmp_path / "run", steps=1)
    assert main(["evaluate", str(tmp_path / "run"), flag, "64"]) == 2
    assert f"a run of a task takes no {flag}, which is of text" in capsys.readouterr().err


def test_text_of_another_tokenizer_is_refused(shards, tmp_path, capsys):
    pytest.importorskip("tokenizers")
    (tmp_path / "song.txt").write_text(text())
    for size in (280, 290):
        options = PrepareOptions(tokenizer="train-bpe", vocab_size=size, validation_share=0.2)
        prepare([str(tmp_path / "song.txt")], tmp_path / f"s{size}", options, progress=False)
    run(ShardData(path=str(tmp_path / "s280"), length=32), tmp_path / "run", steps=2)
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "s290")]) == 1
    shown = capsys.readouterr().err
    assert "has tokens of a vocabulary of 2" in shown and "reads 280: prepare the text" in shown
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(shards)]) == 1
    assert "prepared with another tokenizer" in capsys.readouterr().err
    # Its own tokenizer is in the run: plain text needs nothing else, even when the shards are gone.
    (tmp_path / "s280" / "index.json").unlink()
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "song.txt")]) == 0
    assert "bytes" in capsys.readouterr().out


@pytest.mark.parametrize("tokenizer", ["bytes", "train-bpe"])
def test_a_converted_model_reads_the_shards_of_its_run(tmp_path, tokenizer, capsys):
    pytest.importorskip("transformers")
    (tmp_path / "song.txt").write_text(text())
    options = PrepareOptions(tokenizer=tokenizer, vocab_size=270, validation_share=0.2)
    prepare([str(tmp_path / "song.txt")], tmp_path / "shards", options, progress=False)
    run(ShardData(path=str(tmp_path / "shards"), length=64), tmp_path / "run", steps=3)
    for source, target in (("run", "hf"), ("hf", "back"), ("back", "again")):
        assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 0
    capsys.readouterr()
    shown = []
    for name in ("run", "hf", "back", "again"):
        arguments = [str(tmp_path / name), "--data", str(tmp_path / "shards"), "--length", "64"]
        assert main(["evaluate", *arguments]) == 0
        shown.append(capsys.readouterr().out.partition(":")[2])
    assert shown == [shown[0]] * 4
    assert main(["evaluate", str(tmp_path / "back")]) == 0
    assert capsys.readouterr().out.partition(":")[2] == shown[0]


def test_a_converted_model_reads_any_text_whatever_its_end_token_is_called(tmp_path, capsys):
    pytest.importorskip("transformers")
    (tmp_path / "song.txt").write_text(text(60))
    run(TextData(corpus=str(tmp_path / "song.txt"), length=16), tmp_path / "run", steps=1)
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "hf")]) == 0
    capsys.readouterr()
    shown = []
    for name in ("run", "hf"):
        arguments = [str(tmp_path / name), "--data", str(tmp_path / "song.txt"), "--length", "16"]
        assert main(["evaluate", *arguments]) == 0
        shown.append(capsys.readouterr().out.partition(":")[2])
    assert shown[0] == shown[1]


def test_what_is_no_text_is_named_without_flags_of_another_command(tmp_path, capsys):
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "bad.jsonl").write_text('{"body": "words"}\n')
    for name, place in (("bad.txt", "byte 0xe9 at offset 3;"), ("bad.jsonl", "line 1 (byte 0) has no text")):
        assert main(["evaluate", "--data", str(tmp_path / name), "--device", "cpu"]) == 1
        said = capsys.readouterr().err
        assert f"{name}" in said and place in said and "statemix text prepare has flags" in said
        assert "--skip-errors" not in said and "--field" not in said and "is kept" not in said


def test_what_is_no_model_is_said(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "holds no config.json" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(tmp_path), "--lenght", "3"])
    assert ended.value.code == 2
    assert main(["evaluate", "--device", "foo"]) == 2
    assert "statemix evaluate: device 'foo': there is no such kind" in capsys.readouterr().err
    for flag in ("--length", "--tokens"):
        try:
            code = main(["evaluate", str(tmp_path), flag, "0"])
        except SystemExit as ended:
            code = ended.code
        shown = " ".join(capsys.readouterr().err.split())  # however wide the terminal is
        assert code == 2 and f"{flag} must be an integer of at least 1; got 0" in shown
