"""Corpora, windows and compressors."""

import collections
import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemix.text import baselines, open_corpus, parallel_rows, random_windows, standard_library, text_files
from statemix.text.compression import gzip_bits_per_byte, lzma_bits_per_byte, unigram_bits_per_byte


@pytest.fixture
def folder(tmp_path):
    for i in range(200):
        path = tmp_path / "corpus" / f"part{i % 7}" / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text {i} " * (i + 1))
    return tmp_path / "corpus"


def test_every_file_lies_whole_on_one_side(folder):
    corpus = text_files(folder)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.txt"))
    assert list(corpus.files) == names
    aside = [name for name in names if name in corpus.held_out_files]
    learned = [name for name in names if name not in corpus.held_out_files]
    assert 2 <= len(aside) <= 25
    for side, chosen in ((corpus.held_out, aside), (corpus.train, learned)):
        assert side.tobytes() == b"".join((folder / name).read_bytes() + b"\0" for name in chosen)


def test_a_file_keeps_its_side_when_others_come_and_go(folder):
    before = text_files(folder)
    for path in list(folder.rglob("*.txt"))[::3]:
        path.unlink()
    (folder / "new.txt").write_text("new")
    after = text_files(folder)
    kept = set(before.files) & set(after.files)
    assert kept & set(before.held_out_files) == kept & set(after.held_out_files)
    assert before.sha256 != after.sha256


def test_one_file_is_split_near_its_end(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789" * 100)
    corpus = open_corpus(str(tmp_path / "a.txt"))
    assert (
        corpus.train.tobytes() + corpus.held_out.tobytes()
        == b"0123456789" * 95 + b"\0" + b"0123456789" * 5 + b"\0"
    )


@pytest.mark.parametrize("size", range(30, 60))
@pytest.mark.parametrize("letter", ["é", "語", "𝄞"])
def test_one_file_is_split_between_two_characters(tmp_path, letter, size):
    (tmp_path / "a.txt").write_text("a" + letter * size)
    corpus = open_corpus(str(tmp_path / "a.txt"))
    train, held_out = (part.tobytes().decode() for part in (corpus.train, corpus.held_out))
    assert train[:-1] + held_out[:-1] == "a" + letter * size


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"a\0b", "zero bytes"),
        (b"caf\xe9", r"is not UTF-8 \(byte 3\)"),
    ],
)
def test_what_is_no_text_is_refused_with_its_path(folder, content, reason):
    (folder / "odd.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"odd\.txt {reason}|odd\.txt holds {reason}"):
        text_files(folder)


def test_a_corpus_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="'stdlibb' is neither 'stdlib' nor a file or folder"):
        open_corpus("stdlibb")


def test_the_standard_library_is_what_it_says():
    corpus = standard_library()
    assert "argparse.py" in corpus.files and "json/decoder.py" in corpus.files
    assert not [
        f for f in corpus.files if {"test", "tests", "site-packages", "encodings"} & set(f.split("/"))
    ]
    assert 4e6 < len(corpus.train) < 4e7 and 1e5 < len(corpus.held_out) < len(corpus.train) / 8
    total = hashlib.sha256()
    from sysconfig import get_path

    for file in corpus.files:
        with open(f"{get_path('stdlib')}/{file}", "rb") as source:
            content = source.read()
        total.update(file.encode() + b"\0" + str(len(content)).encode() + b"\0" + content)
    assert corpus.sha256 == total.hexdigest()
    assert corpus.sha256[:16] in corpus.describe() and "PSF-2.0" in corpus.describe()


@given(size=st.integers(2, 200), length=st.integers(1, 50), batch=st.integers(1, 9), seed=st.integers(0, 9))
def test_random_windows_are_pieces_of_the_text(size, length, batch, seed):
    text = np.random.default_rng(seed).integers(256, size=size).astype(np.uint8)
    if size <= length:
        with pytest.raises(ValueError, match=f"text of {size} tokens"):
            random_windows(text, length, batch, np.random.default_rng(seed))
        return
    inputs, targets = random_windows(text, length, batch, np.random.default_rng(seed))
    assert inputs.shape == targets.shape == (batch, length)
    whole = text.tobytes()
    for before, after in zip(inputs.numpy(), targets.numpy(), strict=True):
        window = np.append(before, after[-1]).astype(np.uint8).tobytes()
        assert window in whole
        assert window[1:] == after.astype(np.uint8).tobytes()


def test_windows_reach_both_ends_of_the_text():
    inputs, targets = random_windows(np.arange(6, dtype=np.uint8), 4, 100, np.random.default_rng(0))
    assert set(inputs[:, 0].tolist()) == {0, 1} and int(targets.max()) == 5


@given(size=st.integers(2, 300), rows=st.integers(1, 8))
def test_rows_tell_every_token_once(size, rows):
    text = np.arange(size) % 251
    if size - 1 < rows:
        with pytest.raises(ValueError, match="cannot be cut"):
            parallel_rows(text, rows)
        return
    inputs, targets = parallel_rows(text, rows)
    assert inputs.flatten().tolist() == text[: inputs.numel()].tolist()
    assert targets.flatten().tolist() == text[1 : inputs.numel() + 1].tolist()
    assert size - 1 - inputs.numel() < rows


def test_fewer_tokens_still_lie_over_the_whole_text():
    inputs, _ = parallel_rows(np.arange(1001), 10, tokens=50)
    assert inputs.shape == (10, 5) and inputs[:, 0].tolist() == list(range(0, 1000, 100))
    assert parallel_rows(np.arange(1001), 10, tokens=9)[0].shape == (10, 1)


def test_compressors_know_noise_from_silence():
    noise = np.random.default_rng(0).integers(256, size=50_000).astype(np.uint8)
    silence = np.zeros(50_000, dtype=np.uint8)
    for measure in (gzip_bits_per_byte, lzma_bits_per_byte):
        assert 7.95 < measure(noise) < 8.1 and measure(silence) < 0.05


def test_the_unigram_model_reaches_the_entropy_of_its_text():
    text = np.frombuffer(b"to be or not to be, that is the question " * 2000, dtype=np.uint8)
    counts = collections.Counter(text.tolist())
    entropy = -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())
    assert unigram_bits_per_byte(text, text) == pytest.approx(entropy, abs=0.02)


def test_compressors_are_measured_on_the_held_out_files(folder):
    corpus = text_files(folder)
    found = baselines(corpus)
    assert found["gzip"] == gzip_bits_per_byte(corpus.held_out)
    assert found["xz"] == lzma_bits_per_byte(corpus.held_out)
    assert found["unigram"] > found["gzip"] > 0
