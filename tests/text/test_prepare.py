"""Prepared text: every byte of every document, once, in order; stopped or not; what is damaged is named."""

import gzip
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemix.text import (
    ByteTokenizer,
    FileTokenizer,
    PrepareOptions,
    ReadOptions,
    ShardError,
    SourceError,
    TokenShards,
    prepare,
    train_bpe,
)
from statemix.text import preparation as module
from statemix.text.documents import list_parts
from statemix.text.shards import TokenSplit
from tests.processes import wait_until

ALL = PrepareOptions(validation_share=0.0)
DAMAGED_GZIP = gzip.compress(b'{"text": "a"}\n')[:10] + b"\xff" * 9


def quiet(sources, out, options=ALL):
    return prepare([str(s) for s in sources], out, options, progress=False)


def documents(shards, name="train"):
    """The documents of a split, read back from its files by NumPy alone."""
    found = []
    for entry in shards.index["splits"][name]["shards"]:
        tokens = np.load(shards.folder / f"{entry['name']}.npy")
        ends = np.load(shards.folder / f"{entry['name']}.documents.npy")
        for start, stop in zip([0, *ends[:-1]], ends, strict=True):
            assert tokens[stop - 1] == shards.end_token
            found.append(tokens[start : stop - 1])
    return found


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def write_folder(folder, count=40):
    texts = {}
    for i in range(count):
        file = folder / f"d{i % 3}" / f"{i}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        texts[file.relative_to(folder).as_posix()] = f"document {i}: näive ☃ " * (i % 7 + 1)
        file.write_text(texts[file.relative_to(folder).as_posix()])
    return [texts[name].encode() for name in sorted(texts)]


def test_a_folder_comes_back_byte_by_byte_in_the_order_of_its_paths(tmp_path):
    texts = write_folder(tmp_path / "src")
    shards = quiet([tmp_path / "src"], tmp_path / "out")
    assert [d.tobytes() for d in documents(shards)] == texts
    split = shards.split("train")
    assert split.read(0, len(split)).tobytes() == b"".join(text + b"\0" for text in texts)
    total = shards.index["splits"]["train"]
    assert total["bytes"] == total["tokens"] == sum(map(len, texts)) + len(texts)


def test_small_shards_hold_the_same_documents(tmp_path):
    texts = write_folder(tmp_path / "src")
    options = PrepareOptions(validation_share=0.0, shard_tokens=100)
    shards = quiet([tmp_path / "src"], tmp_path / "out", options)
    sizes = [entry["tokens"] for entry in shards.index["splits"]["train"]["shards"]]
    assert len(sizes) > 10 and all(
        entry["tokens"] <= 100 or entry["documents"] == 1
        for entry in shards.index["splits"]["train"]["shards"]
    )
    assert [d.tobytes() for d in documents(shards)] == texts


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), shard=st.integers(1, 5), data=st.data())
@settings(max_examples=25)
def test_a_split_reads_and_bounds_like_one_array_that_goes_round(tmp_path_factory, lengths, shard, data):
    folder = tmp_path_factory.mktemp("split")
    texts = [bytes([97 + i % 26]) * n for i, n in enumerate(lengths)]
    entries = []
    for i in range(0, len(texts), shard):
        name = f"train-{i:05d}"
        np.save(
            folder / f"{name}.npy", np.frombuffer(b"".join(t + b"\0" for t in texts[i : i + shard]), np.uint8)
        )
        ends = np.cumsum([len(t) + 1 for t in texts[i : i + shard]])
        np.save(folder / f"{name}.documents.npy", ends)
        np.save(folder / f"{name}.bytes.npy", ends)
        entries.append({"name": name})
    split = TokenSplit(folder, "train", entries, end_token=0)
    whole = b"".join(text + b"\0" for text in texts)
    starts, place = [], 0
    for text in texts:
        starts.append(place)
        place += len(text) + 1
    first = data.draw(st.integers(-1, 2 * len(whole)))
    last = data.draw(st.integers(max(first, 0), max(first, 0) + 2 * len(whole)))
    assert split.read(first, last).tobytes() == bytes(whole[i % len(whole)] for i in range(first, last))
    first = max(first, 0)
    wanted = [i for i in range(first, last) if i % len(whole) in starts]
    assert split.starts(first, last).tolist() == wanted
    for number, text in enumerate(texts):
        assert split.document(number) == (starts[number], starts[number] + len(text) + 1, len(text) + 1)


def test_what_is_held_out_depends_on_the_content_alone(tmp_path):
    rows = [{"text": f"row {i} " * 3} for i in range(300)] + [{"text": "row 7 " * 3}] * 5
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows[:100])))
    options = PrepareOptions(validation_share=0.2)
    a, b = (quiet([tmp_path / f"{n}.jsonl"], tmp_path / n, options) for n in "ab")
    sides = [
        {name: {d.tobytes() for d in documents(s, name)} for name in ("train", "validation")} for s in (a, b)
    ]
    assert not sides[0]["train"] & sides[0]["validation"]
    assert sides[1]["train"] <= sides[0]["train"] and sides[1]["validation"] <= sides[0]["validation"]
    assert 30 < len(sides[0]["validation"]) < 90


def test_one_file_is_held_out_at_its_end_and_one_of_few_files_whole(tmp_path):
    text = "".join(f"line {i}\n" for i in range(1000))
    (tmp_path / "one.txt").write_text(text)
    one = quiet([tmp_path / "one.txt"], tmp_path / "one", PrepareOptions(validation_share=0.1))
    (train,), (aside,) = documents(one), documents(one, "validation")
    assert train.tobytes() + aside.tobytes() == text.encode() and train.tobytes().endswith(b"\n")
    assert len(aside) == pytest.approx(0.1 * len(text), rel=0.05)
    texts = write_folder(tmp_path / "src", count=5)
    few = quiet([tmp_path / "src"], tmp_path / "few", PrepareOptions(validation_share=0.02))
    assert len(documents(few, "validation")) >= 1
    both = [d.tobytes() for name in ("train", "validation") for d in documents(few, name)]
    assert sorted(both) == sorted(texts)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet", "disk", "separator"])
def test_every_kind_of_source_gives_the_same_documents(tmp_path, kind):
    texts = [f"text {i}: é\nsecond line" for i in range(20)] + ["", "last"]
    source, options = tmp_path / f"t.{kind}", ALL
    rows = "".join(json.dumps({"text": t, "id": 1}) + "\n" for t in texts).encode()
    if kind == "jsonl":
        source.write_bytes(rows)
    elif kind == "jsonl.gz":
        source.write_bytes(gzip.compress(rows))
    elif kind == "jsonl.zst":
        source.write_bytes(pytest.importorskip("zstandard").compress(rows))
    elif kind == "parquet":
        pytest.importorskip("pyarrow")
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"id": list(range(22)), "text": texts}), source)
    elif kind == "disk":
        pytest.importorskip("datasets").Dataset.from_dict({"text": texts}).save_to_disk(source)
    else:
        source.write_text("\n%%\n".join(texts))
        options = PrepareOptions(validation_share=0.0, read=ReadOptions(separator="\n%%\n"))
    shards = quiet([source], tmp_path / "out", options)
    assert [d.tobytes().decode() for d in documents(shards)] == [t for t in texts if t]
    assert shards.index["left_out"]["empty"] == 1


def test_a_vocabulary_is_learned_and_gives_the_text_back(tmp_path):
    pytest.importorskip("tokenizers")
    texts = write_folder(tmp_path / "src")
    options = PrepareOptions(tokenizer="train-bpe", vocab_size=300, validation_share=0.0)
    shards = quiet([tmp_path / "src"], tmp_path / "out", options)
    tokenizer = shards.tokenizer()
    assert shards.vocab_size == 300 and np.load(shards.folder / "train-00000.npy").dtype == np.uint16
    found = documents(shards)
    assert [tokenizer.decode(d).encode() for d in found] == texts
    assert sum(map(len, found)) < sum(map(len, texts)) / 1.5
    assert shards.index["splits"]["train"]["bytes"] == sum(map(len, texts)) + len(texts)
    # An existing file gives the same tokens, and a surprise in the text is no obstacle.
    again = PrepareOptions(tokenizer=str(shards.folder / "tokenizer.json"), validation_share=0.0)
    other = quiet([tmp_path / "src"], tmp_path / "again", again)
    assert all(np.array_equal(a, b) for a, b in zip(documents(other), found, strict=True))
    assert tokenizer.decode(tokenizer.encode(["漢字\t\r\n".encode()])[0]) == "漢字\t\r\n"


def test_text_that_spells_the_end_token_ends_no_document(tmp_path):
    pytest.importorskip("tokenizers")
    text = "how <|endoftext|> is <|endoftext|> spelled"
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in (text, "plain")))
    options = PrepareOptions(tokenizer="train-bpe", vocab_size=270, validation_share=0.0)
    shards = quiet([tmp_path / "t.jsonl"], tmp_path / "out", options)
    tokenizer, (first, second) = shards.tokenizer(), documents(shards)
    assert shards.end_token not in first and tokenizer.decode(first) == text
    assert tokenizer.decode(second) == "plain"
    # In a prompt it may be meant.
    assert tokenizer.encode([b"<|endoftext|>"], spells_end=True)[0].tolist() == [shards.end_token]
    assert shards.end_token not in tokenizer.encode([b"<|endoftext|>"])[0]


def test_a_tokenizer_is_known_by_the_tokens_that_it_makes(tmp_path):
    tokenizers, huggingface = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    (tmp_path / "t.txt").write_text("to be or not to be, that is the question " * 9)

    def trained(size):
        options = PrepareOptions(tokenizer="train-bpe", vocab_size=size, validation_share=0.0)
        return quiet([tmp_path / "t.txt"], tmp_path / str(size), options).tokenizer()

    one, other = trained(270), trained(271)
    assert one.identity != other.identity
    fast = tokenizers.Tokenizer.from_file(str(tmp_path / "270" / "tokenizer.json"))
    huggingface.PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(tmp_path / "again")
    again = FileTokenizer.from_file(tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").read_text() != (
        tmp_path / "270" / "tokenizer.json"
    ).read_text()
    assert again.identity == one.identity != ByteTokenizer().identity


def word_tokenizer(file, *words):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: number for number, word in enumerate(["<eos>", "?", *words])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.save(str(file))


@pytest.mark.parametrize("stopped", [False, True])
def test_a_tokenizer_whose_file_has_changed_since_is_named(tmp_path, stopped):
    word_tokenizer(tmp_path / "t.json", "a", "b")
    sources = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    sources[0].write_text('{"text": "a b"}\n' * 3)
    sources[1].write_text('{"text": 7}\n' if stopped else '{"text": "b"}\n')
    options = PrepareOptions(tokenizer=str(tmp_path / "t.json"), validation_share=0.0)
    out = tmp_path / "out"
    if stopped:
        with pytest.raises(SourceError):
            quiet(sources, out, options)
    else:
        quiet(sources, out, options)
    before, kept = contents(out), (tmp_path / "t.json").read_text()
    word_tokenizer(tmp_path / "t.json", "b", "a")
    with pytest.raises(ShardError, match=r"another tokenizer than .*t\.json is now; put back .*--out"):
        quiet(sources, out, options)
    assert contents(out) == before
    sources[1].write_text('{"text": "b"}\n')
    # The same tokens in a file of other bytes, and no file where the tokenizer is kept, are as good.
    (tmp_path / "t.json").write_text(json.dumps(json.loads(kept), indent=7))
    shards = quiet(sources, out, options)
    (tmp_path / "t.json").unlink()
    assert [d.tolist() for d in documents(shards)] == [[2, 3]] * 3 + [[3]]
    assert quiet(sources, out, options).index == shards.index


def test_a_preparation_that_has_done_nothing_takes_the_tokenizer_as_it_is_now(tmp_path):
    word_tokenizer(tmp_path / "t.json", "a", "b")
    (tmp_path / "a.jsonl").write_text('{"text": 7}\n')
    options = PrepareOptions(tokenizer=str(tmp_path / "t.json"), validation_share=0.0)
    with pytest.raises(SourceError):
        quiet([tmp_path / "a.jsonl"], tmp_path / "out", options)
    word_tokenizer(tmp_path / "t.json", "b", "a")
    (tmp_path / "a.jsonl").write_text('{"text": "a b"}\n')
    shards = quiet([tmp_path / "a.jsonl"], tmp_path / "out", options)
    assert [d.tolist() for d in documents(shards)] == [[3, 2]]


def test_a_tokenizer_without_an_end_is_refused_unless_one_is_named(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "stop": 2}, unk_token="a"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.jsonl").write_text('{"text": "a b b"}\n')
    options = PrepareOptions(tokenizer=str(tmp_path), validation_share=0.0)
    with pytest.raises(ValueError, match=r"holds none of .*name one with --end-token"):
        quiet([tmp_path / "a.jsonl"], tmp_path / "out", options)
    options = PrepareOptions(tokenizer=str(tmp_path), end_token="stop", validation_share=0.0)
    shards = quiet([tmp_path / "a.jsonl"], tmp_path / "out", options)
    assert shards.split("train").read(0, 4).tolist() == [0, 1, 1, 2]
    for tokenizer in ("bytes", "train-bpe"):
        with pytest.raises(ValueError, match=rf"'{tokenizer}' has its own; got 'stop': leave it out"):
            PrepareOptions(tokenizer=tokenizer, end_token="stop")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match=r"bad\.json: it is no tokenizer"):
        quiet([tmp_path / "a.jsonl"], tmp_path / "o2", PrepareOptions(tokenizer=str(tmp_path / "bad.json")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.txt", b"ab\0c", r"bad\.txt is binary: a zero byte at offset 2"),
        ("bad.txt", b"caf\xe9 au", r"bad\.txt is not UTF-8: byte 0xe9 at offset 3"),
        ("bad.txt", b" \n", r"bad\.txt is empty"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": 3}\n', r"bad\.jsonl line 2 \(byte 14\) holds int and no text"),
        ("bad.jsonl", b'{"text": "a"}\n{"body": "b"}\n', r"line 2 \(byte 14\) has no text in field 'text' \(it holds: body\)"),
        ("bad.jsonl", b'{"text": "a"}\nno\n', r"bad\.jsonl line 2 \(byte 14\) is no JSON"),
        ("bad.jsonl", b'{"text": "caf\xe9"}\n', r"bad\.jsonl line 1 \(byte 0\) is not UTF-8: byte 0xe9 at offset 13"),
        ("bad.jsonl.gz", gzip.compress(b'{"text": "a"}\n')[:-9], r"bad\.jsonl\.gz cannot be read further"),
        ("bad.parquet", b"PAR1", r"bad\.parquet is no Parquet file"),
        ("bad.txt", "text".encode("utf-16"), r"bad\.txt is UTF-16 and not UTF-8: byte 0xff at offset 0; .*iconv -f utf-16"),
        ("bad.jsonl", b"[" * 100_000, r"bad\.jsonl line 1 \(byte 0\) is no JSON"),
        ("bad.jsonl", '{"text": "a"}'.encode("utf-16") + b"\n", r"bad\.jsonl line 1 .* is not UTF-8: byte 0xff at offset 0 of the line"),
        ("bad.jsonl.gz", DAMAGED_GZIP, r"bad\.jsonl\.gz cannot be read further"),
        ("bad.txt.gz", DAMAGED_GZIP, r"bad\.txt\.gz cannot be read"),
    ],
    ids=[
        "zero", "latin1", "blank", "number", "no-field", "no-json", "json-latin1", "torn-gzip", "torn-parquet", "utf-16",
        "deep-json", "json-utf-16", "damaged-gzip-lines", "damaged-gzip",
    ],
)  # fmt: skip
def test_what_is_no_text_is_named_with_its_place(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        quiet([tmp_path / name], tmp_path / "out")


@pytest.mark.parametrize("name", ["rows.jsonl.zst", "plain.txt.zst", "rows.jsonl.gz", "plain.txt.gz"])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_packed_file_is_read_to_its_end_and_one_that_was_torn_off_is_an_error(tmp_path, name, frames):
    compress = gzip.compress if name.endswith("gz") else pytest.importorskip("zstandard").compress
    rows = [json.dumps({"text": f"document {i} of many"}).encode() + b"\n" for i in range(4000)]
    pieces = [compress(b"".join(rows[i::frames])) for i in range(frames)]
    (tmp_path / name).write_bytes(b"".join(pieces))
    shards = quiet([tmp_path / name], tmp_path / "whole")
    read = shards.index["splits"]["train"]
    assert read["bytes"] == (
        sum(len(row) - 12 for row in rows) if "jsonl" in name else sum(map(len, rows)) + 1
    )
    for lost in (1, len(pieces[-1]) // 2):
        (tmp_path / name).write_bytes(b"".join(pieces)[:-lost])
        with pytest.raises(SourceError, match=rf"{name} cannot be read"):
            quiet([tmp_path / name], tmp_path / f"torn-{lost}")


def test_rows_whose_text_is_null_are_empty_documents(tmp_path):
    (tmp_path / "a.jsonl").write_text('\ufeff{"text": null}\n{"text": "a"}\n{"text": ""}\n')
    shards = quiet([tmp_path / "a.jsonl"], tmp_path / "out")
    assert [d.tobytes() for d in documents(shards)] == [b"a"]
    assert shards.index["left_out"]["empty"] == 2


def test_offsets_are_those_of_the_file_where_it_is_cut_into_documents(tmp_path):
    data = b"good\n--\nalso good\n--\ncaf\xe9"
    (tmp_path / "a.txt").write_bytes(data)
    options = PrepareOptions(read=ReadOptions(separator="--\n"))
    place = rf"a\.txt \(document 3\) is not UTF-8: byte 0xe9 at offset {data.index(0xE9)};"
    with pytest.raises(SourceError, match=place):
        quiet([tmp_path / "a.txt"], tmp_path / "out", options)


def test_the_mark_at_the_beginning_of_a_file_is_none_of_its_text(tmp_path):
    for name, text in (("a.txt", "\ufeffone--two\ufeff"), ("b.jsonl", '\ufeff{"text": "three"}\n')):
        (tmp_path / name).write_text(text)
    options = PrepareOptions(validation_share=0.0, read=ReadOptions(separator="--"))
    shards = quiet([tmp_path / "a.txt", tmp_path / "b.jsonl"], tmp_path / "out", options)
    assert [d.tobytes().decode() for d in documents(shards)] == ["one", "two\ufeff", "three"]
    (tmp_path / "bad.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9")
    with pytest.raises(SourceError, match="byte 0xe9 at offset 6;"):
        quiet([tmp_path / "bad.txt"], tmp_path / "bad", options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tokenizer": pathlib.Path("t.json")}, TypeError, r"as text; got .*: write 't\.json'"),
        ({"tokenizer": None}, TypeError, "must be 'bytes', 'train-bpe' or the path of a tokenizer.json"),
        (
            {"tokenizer": "train-bpe", "vocab_size": 300.5},
            ValueError,
            "an integer of at least 257 .*got 300.5",
        ),
        ({"shard_tokens": 1.5}, ValueError, "shard_tokens must be an integer of at least 1; got 1.5"),
        ({"training_bytes": 0}, ValueError, "training_bytes must be an integer of at least 1; got 0"),
        ({"validation_share": float("nan")}, ValueError, r"must lie in \[0, 1\); got nan"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        PrepareOptions(**options)


def test_sources_are_names_and_paths_in_a_list(tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    shards = prepare([tmp_path / "a.txt"], tmp_path / "out", ALL, progress=False)
    again = prepare([str(tmp_path / "a.txt")], tmp_path / "out", ALL, progress=False)
    assert [d.tobytes() for d in documents(again)] == [b"some text"] and shards.folder == again.folder
    for one in (str(tmp_path / "a.txt"), tmp_path / "a.txt"):
        with pytest.raises(TypeError, match=r"sources must be a list of files.*got .*a\.txt.*: write \["):
            prepare(one, tmp_path / "other", ALL, progress=False)
    with pytest.raises(TypeError, match=r"got dict among them: .*save_to_disk"):
        prepare([{"text": "a"}], tmp_path / "other", ALL, progress=False)


def test_shards_within_the_folder_of_their_sources_are_none_of_them(tmp_path, monkeypatch):
    wanted = write_folder(tmp_path / "text")
    shards = quiet([tmp_path / "text"], tmp_path / "text" / "shards")
    assert sorted(d.tobytes() for d in documents(shards)) == sorted(wanted)
    before = contents(tmp_path / "text" / "shards")
    monkeypatch.chdir(tmp_path / "text")
    for out in (tmp_path / "text" / "shards", "shards"):
        quiet([tmp_path / "text"], out)  # already prepared
        assert contents(tmp_path / "text" / "shards") == before


def test_sources_within_the_folder_of_the_shards_are_read_where_they_are_named(tmp_path):
    wanted = write_folder(tmp_path / "shards" / ".sources")  # hidden files occupy no folder
    shards = quiet([tmp_path / "shards" / ".sources"], tmp_path / "shards")
    assert sorted(d.tobytes() for d in documents(shards)) == sorted(wanted)


@pytest.mark.parametrize("kind", ["parquet", "disk", "hub"])
def test_a_source_that_is_damaged_inside_is_named(tmp_path, kind, monkeypatch):
    parquet, datasets = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table = datasets.Dataset.from_dict({"text": [f"text {i}" * 9 for i in range(99)]})
    (tmp_path / "source").mkdir()
    if kind == "disk":
        table.save_to_disk(tmp_path / "source")
        file, name = next((tmp_path / "source").glob("*.arrow")), f"{tmp_path}/source"
        file.write_bytes(file.read_bytes()[:400])
    else:
        file = tmp_path / "source" / "t.parquet"
        parquet.write_table(table.data.table, file, compression="none", use_dictionary=False)
        data = bytearray(file.read_bytes())
        data[100:900] = b"\xff" * 800
        file.write_bytes(data)
        name = str(file) if kind == "parquet" else f"hf:{tmp_path}/source"
    source = file if kind == "parquet" else name
    wanted = OSError if kind == "hub" else SourceError
    with pytest.raises(wanted, match=f"text: {name} cannot be read: .+"):
        quiet([source], tmp_path / "out")
    (tmp_path / "fine.txt").write_text("fine")
    options = PrepareOptions(validation_share=0.0, read=ReadOptions(skip_errors=True))
    if kind == "hub":  # it may be the network: what is there must not be left out for that
        with pytest.raises(OSError, match="cannot be read"):
            quiet([source, tmp_path / "fine.txt"], tmp_path / "o2", options)
    else:
        shards = quiet([source, tmp_path / "fine.txt"], tmp_path / "o2", options)
        assert [d.tobytes() for d in documents(shards)] == [b"fine"]


def test_what_was_begun_otherwise_begins_anew_while_nothing_is_done(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 " * 9)
    learned = PrepareOptions(tokenizer="train-bpe", vocab_size=260, read=ReadOptions(replace_errors=True))
    quiet([tmp_path / "a.txt"], tmp_path / "bpe", learned)
    begun = PrepareOptions(tokenizer=str(tmp_path / "bpe" / "tokenizer.json"))
    with pytest.raises(SourceError):
        quiet([tmp_path / "a.txt"], tmp_path / "out", begun)
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    options = PrepareOptions(validation_share=0.5, read=ReadOptions(replace_errors=True))
    anew = quiet([tmp_path / "a.txt"], tmp_path / "out", options)
    whole = quiet([tmp_path / "a.txt"], tmp_path / "whole", options)
    assert contents(anew.folder) == contents(whole.folder)


def test_errors_are_replaced_or_left_out_on_request_only(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.txt").write_bytes(b"caf\xe9 \0!")
    (tmp_path / "src" / "b.txt").write_text("fine")
    (tmp_path / "src" / ".hidden").write_bytes(b"\0")
    replaced = quiet(
        [tmp_path / "src"],
        tmp_path / "r",
        PrepareOptions(validation_share=0.0, read=ReadOptions(replace_errors=True)),
    )
    assert [d.tobytes().decode() for d in documents(replaced)] == ["caf\ufffd \ufffd!", "fine"]
    skipped = quiet(
        [tmp_path / "src"],
        tmp_path / "s",
        PrepareOptions(validation_share=0.0, read=ReadOptions(skip_errors=True)),
    )
    assert [d.tobytes() for d in documents(skipped)] == [b"fine"]
    assert skipped.index["left_out"]["not_text"] == 1 and "a.txt" in skipped.index["left_out"]["named"][0]


def test_after_an_error_the_same_command_goes_on_behind_what_is_done(tmp_path):
    write_folder(tmp_path / "src")
    bad = tmp_path / "src" / "d2" / "38.txt"
    good = bad.read_bytes()
    bad.write_bytes(b"\xff")
    with pytest.raises(SourceError, match=r"38\.txt.*the same command goes on"):
        quiet([tmp_path / "src"], tmp_path / "out")
    journal = json.loads((tmp_path / "out" / "preparing.json").read_bytes())
    assert journal["splits"]["train"]["documents"] > 30
    with pytest.raises(ShardError, match="was not finished; run the same"):
        TokenShards(tmp_path / "out")
    bad.write_bytes(good)
    said = []
    prepare([str(tmp_path / "src")], tmp_path / "out", ALL, progress=said.append)
    assert "going on after" in said[0]
    quiet([tmp_path / "src"], tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_of_two_at_once_the_second_is_told_so_and_touches_nothing(tmp_path, monkeypatch):
    write_folder(tmp_path / "src")
    out, read = tmp_path / "out", module.read_part
    refused = []

    def another_begins(*arguments):
        monkeypatch.setattr(module, "read_part", read)
        before = contents(out)
        with pytest.raises(
            ShardError, match=r"another process prepares text there now; wait .*--out"
        ) as error:
            quiet([tmp_path / "src"], out)
        assert contents(out) == before
        refused.append(error)
        return read(*arguments)

    monkeypatch.setattr(module, "read_part", another_begins)
    shards = quiet([tmp_path / "src"], out)
    quiet([tmp_path / "src"], tmp_path / "whole")
    assert refused and contents(out) == contents(tmp_path / "whole")
    assert quiet([tmp_path / "src"], out).index == shards.index


class Killed(BaseException):
    pass


@pytest.mark.parametrize("tokenizer", ["bytes", "train-bpe"])
@pytest.mark.parametrize("after", [1, 2, 5, 9])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch, tokenizer, after):
    if tokenizer != "bytes":
        pytest.importorskip("tokenizers")
    write_folder(tmp_path / "src")
    options = PrepareOptions(tokenizer=tokenizer, vocab_size=280, validation_share=0.2, shard_tokens=400)
    monkeypatch.setattr(module, "_BATCH_BYTES", 150)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_JOURNALS", 0.0)
    whole = quiet([tmp_path / "src"], tmp_path / "whole", options)
    calls, journals = [0], [0]
    add, journal = module.SplitWriter.add, module._Job._write_journal

    def dying_add(self, tokens, size):
        add(self, tokens, size)
        calls[0] += 1
        if calls[0] == 4 * after:
            raise Killed

    def some_journals(self):
        # Two of three are lost, as if it was killed before they were written.
        journals[0] += 1
        if journals[0] % 3 == 1:
            journal(self)

    monkeypatch.setattr(module.SplitWriter, "add", dying_add)
    monkeypatch.setattr(module._Job, "_write_journal", some_journals)
    with pytest.raises(Killed):
        quiet([tmp_path / "src"], tmp_path / "out", options)
    assert not (tmp_path / "out" / "index.json").exists()
    monkeypatch.setattr(module.SplitWriter, "add", add)
    monkeypatch.setattr(module._Job, "_write_journal", journal)
    resumed = quiet([tmp_path / "src"], tmp_path / "out", options)
    assert contents(resumed.folder) == contents(whole.folder)


PROGRAM = """
import sys
from statemix.text import preparation as module
module._BATCH_BYTES, module._SECONDS_BETWEEN_JOURNALS = 1000, 0.0
module.prepare([sys.argv[1]], sys.argv[2], progress=False)
"""


def test_a_killed_process_loses_nothing(tmp_path):
    rows = "".join(json.dumps({"text": f"row {i} " * 20}) + "\n" for i in range(4_000))
    (tmp_path / "t.jsonl").write_text(rows)
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "t.jsonl"), str(out)])
    try:
        wait_until(
            lambda: any(file.stat().st_size >= 4_000 for file in out.glob("train-00000.npy*")), process
        )
    finally:
        process.kill()
    assert process.wait() == -9
    before = json.loads((out / "preparing.json").read_bytes())
    assert 0 < before["position"][1] < 4_000
    resumed = quiet([tmp_path / "t.jsonl"], out, PrepareOptions())
    whole = quiet([tmp_path / "t.jsonl"], tmp_path / "whole", PrepareOptions())
    assert contents(resumed.folder) == contents(whole.folder)


def test_a_preparation_goes_on_only_as_it_was_begun(tmp_path):
    write_folder(tmp_path / "src")
    (tmp_path / "src" / "z.txt").write_bytes(b"\xff")
    with pytest.raises(SourceError):
        quiet([tmp_path / "src"], tmp_path / "out")
    with pytest.raises(ShardError, match=r"begun otherwise \(options\.validation_share: 0\.0 and 0\.5\)"):
        quiet([tmp_path / "src"], tmp_path / "out", PrepareOptions(validation_share=0.5))
    (tmp_path / "src" / "d0" / "0.txt").write_text("changed")
    with pytest.raises(ShardError, match="already prepared have changed since"):
        quiet([tmp_path / "src"], tmp_path / "out")


def test_finished_text_is_opened_and_other_text_never_written_over(tmp_path):
    write_folder(tmp_path / "src")
    shards = quiet([tmp_path / "src"], tmp_path / "out")
    before = contents(shards.folder)
    quiet([tmp_path / "src"], tmp_path / "out")
    (tmp_path / "src" / "new.txt").write_text("new")
    with pytest.raises(ShardError, match="prepared from other sources or options"):
        quiet([tmp_path / "src"], tmp_path / "out")
    assert contents(shards.folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ShardError, match="not empty and holds no shards"):
        quiet([tmp_path / "src"], tmp_path / "mine")


def test_a_folder_is_the_same_source_however_its_path_is_spelled(tmp_path, monkeypatch):
    write_folder(tmp_path / "src")
    monkeypatch.chdir(tmp_path)
    before = contents(quiet(["src/"], "out").folder)
    for spelled in ("src", "./src", pathlib.Path("src")):
        assert contents(quiet([spelled], "out").folder) == before


def test_a_damaged_journal_is_named(tmp_path):
    write_folder(tmp_path / "src")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "preparing.json").write_text("{")
    with pytest.raises(ShardError, match=r"preparing\.json: it is damaged"):
        quiet([tmp_path / "src"], tmp_path / "out")


def test_a_preparation_that_was_killed_before_it_began_is_no_other_text(tmp_path):
    write_folder(tmp_path / "src")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".preparing.json.writing").write_text("{")
    assert len(quiet([tmp_path / "src"], tmp_path / "out").split("train"))


@pytest.mark.parametrize("name", ["train-00000.npy", "train-00000.documents.npy", "index.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_named(tmp_path, name, damage):
    write_folder(tmp_path / "src")
    quiet([tmp_path / "src"], tmp_path / "out")
    file = tmp_path / "out" / name
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flip" else data[:-3])
    with pytest.raises(ShardError, match=name.replace(".", r"\.")):
        TokenShards(tmp_path / "out", verify=True)


def test_sources_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder at nowhere.*hf:NAME"):
        list_parts(["nowhere"], ReadOptions())
    with pytest.raises(ValueError, match=r"there are no sources; give at least one"):
        quiet([], tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "a.md").write_text("")
    with pytest.raises(FileNotFoundError, match=r"no file that fits '\*\.txt'"):
        list_parts([str(tmp_path)], ReadOptions(pattern="*.txt"))
    with pytest.raises(SourceError, match="hold no text at all"):
        quiet([tmp_path], tmp_path / "out")


def test_bytes_survive_the_byte_tokenizer():
    tokenizer = ByteTokenizer()
    text = "".join(map(chr, (*range(1, 0xD800, 97), 0x1F600)))
    assert tokenizer.decode(tokenizer.encode([text.encode()])[0]) == text
    assert tokenizer.decode([0, 104, 105, 0, 255]) == "hi\ufffd"


def test_a_tokenizer_that_cannot_be_written_whole_leaves_the_one_that_was_there(tmp_path, monkeypatch):
    first, second = (train_bpe(["to be or not to be"] * 9, size) for size in (260, 262))
    first.save(tmp_path)

    def full(handle):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        second.save(tmp_path)
    assert FileTokenizer.from_file(tmp_path).identity == first.identity
