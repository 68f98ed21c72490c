"""``statemix text``, as it is typed."""

import json

import pytest

from statemix.cli import main
from statemix.text import TokenShards


@pytest.fixture
def notes(tmp_path):
    for i in range(30):
        file = tmp_path / "notes" / f"{i:02}.md"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"# note {i}\nsome words\n")
    return tmp_path / "notes"


def test_text_is_prepared_shown_and_checked(notes, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["text", "prepare", str(notes), "--out", out, "--pattern", "*.md"]) == 0
    shown = capsys.readouterr().out
    assert "bytes tokens of a vocabulary of 256" in shown and f"train lm --data.path {out}" in shown
    assert main(["text", "prepare", str(notes), "--out", out, "--pattern", "*.md"]) == 0
    assert "already prepared" in capsys.readouterr().err
    assert main(["text", "info", out, "--show", "8"]) == 0
    assert f"from {notes}" in (shown := capsys.readouterr().out) and "# note " in shown
    assert main(["text", "verify", out]) == 0
    assert "all checksums fit" in capsys.readouterr().out
    shard = tmp_path / "out" / "train-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    assert main(["text", "verify", out]) == 1
    assert "train-00000.npy: it is damaged: its checksum does not fit" in capsys.readouterr().err


def test_flags_reach_the_preparation(notes, tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"body": f"row {i}"}) + "\n" for i in range(50)))
    arguments = [str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "out"), "--field", "body"]
    arguments += ["--tokenizer", "train-bpe", "--vocab-size", "262", "--validation-share", "0.5"]
    assert main(["text", "prepare", *arguments, "--shard-tokens", "40"]) == 0
    shards = TokenShards(tmp_path / "out")
    splits = shards.index["splits"]
    assert shards.vocab_size == 262 and len(splits["train"]["shards"]) > 1
    assert 10 < splits["validation"]["documents"] < 40


def test_a_separator_is_typed_with_backslashes(tmp_path):
    (tmp_path / "t.txt").write_text("one\n\ntwo\tthree\\four")
    for number, (separator, count) in enumerate({"\\n\\n": 2, "\\t": 2, "\\\\": 2, "t": 3}.items()):
        out = tmp_path / str(number)
        arguments = ["--out", str(out), "--separator", separator, "--validation-share", "0"]
        assert main(["text", "prepare", str(tmp_path / "t.txt"), *arguments]) == 0
        assert TokenShards(out).index["splits"]["train"]["documents"] == count


def test_after_a_wrong_flag_the_right_one_does(tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text('{"body": "words"}\n')
    arguments = ["text", "prepare", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "name another with --field" in capsys.readouterr().err
    assert main([*arguments, "--field", "body", "--validation-share", "0"]) == 0
    assert TokenShards(tmp_path / "out").index["splits"]["train"]["bytes"] == 6


def test_a_vocabulary_too_small_for_bytes_is_refused_before_anything_is_made_or_said(notes, tmp_path, capsys):
    flags = ["--tokenizer", "train-bpe", "--vocab-size", "10"]
    assert main(["text", "prepare", str(notes), "--out", str(tmp_path / "out"), *flags]) == 2
    said = capsys.readouterr().err
    assert "vocab_size must be an integer of at least 257 (bytes and an end); got 10" in said
    assert "learning" not in said and not (tmp_path / "out").exists()


def test_what_is_left_out_is_listed(notes, tmp_path, capsys):
    (notes / "bad.md").write_bytes(b"\xff")
    (notes / "empty.md").write_text("")
    arguments = ["text", "prepare", str(notes), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "bad.md is not UTF-8: byte 0xff at offset 0" in message and "--replace-errors" in message
    assert main([*arguments, "--skip-errors"]) == 0
    shown = capsys.readouterr().out
    assert "1 empty documents" in shown and "1 that are no text" in shown and "bad.md" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, ""),
        (["--help"], 0, ""),
        (["prepaer"], 2, "no action 'prepaer'"),
        (["prepare", "nowhere", "--out", "o"], 1, "no file or folder at nowhere"),
        (["prepare", ".", "--out", "o", "--tokenizer", "missing.json"], 1, "no file at missing.json"),
        (["verify", "nowhere"], 1, "there is no index.json in it"),
        (
            ["verify", __file__],
            1,
            f"it is a file and no folder of shards; statemix text prepare {__file__} --o",
        ),
        (["prepare", "hf:", "--out", "x"], 2, "is written hf:NAME"),
        (["prepare", ".", "--out", "o", "--validation-share", "1"], 2, "must lie in [0, 1)"),
        (["prepare", ".", "--out", "o", "--tokenizer", "a.txt"], 1, "it is no tokenizer.json"),
        (["prepare", "", "--out", "o"], 2, "a source has an empty name"),
        (["prepare", ".", "--out", "o", "--pattern", "/notes/*.txt"], 2, "pattern must fit names within"),
        (["info", ".", "--show", "-5"], 2, "--show must be an integer of at least 0; got -5"),
    ],
)
def test_wrong_use_is_explained(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    try:
        found = main(["text", *arguments])
    except SystemExit as ended:
        found, code, message = ended.code, 2, message
    shown = capsys.readouterr()
    assert found == code and message in " ".join((shown.err + shown.out).replace("│", " ").split())


def test_the_command_that_trains_on_what_was_prepared_can_be_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "song.txt").write_text("la la la, " * 100)
    assert main(["text", "prepare", "song.txt", "--out", "my songs"]) == 0
    assert "statemix train lm --data.path 'my songs'\n" in capsys.readouterr().out
