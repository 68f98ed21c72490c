"""``statemix bench decode`` checks each model, measures it behind a context, and says where it could not."""

import csv
import math

import pytest
import torch

from statemix import Decoder, LanguageModel
from statemix.bench import decode
from statemix.bench.gate import WrongResult
from statemix.cli import main

CPU = torch.device("cpu")
SMALL = decode.Sizes(
    d=64, layers=2, vocabulary=32, dtype=torch.float32, contexts=(16, 48), batches=(1, 2), read_tokens=48
)  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    pytest.importorskip("transformers")
    from transformers.utils import logging

    logging.set_verbosity_error()  # Mamba-2 warns that it runs without its kernels: the rows say so
    return list(decode.measure(CPU, SMALL, budget_s=0.0, orders=(2,)))


def test_every_model_is_measured_at_every_batch_and_context(rows):
    names = list(dict.fromkeys(row.model for row in rows))
    assert names == [
        "BD-LRU m=2",
        "H-LRU m=2",
        "attention (Transformers' Llama), dynamic cache",
        "attention (Transformers' Llama), static cache",
        "Mamba-2 (Transformers)",
    ]
    for name in names:
        mine = [row for row in rows if row.model == name]
        paths = {row.path for row in mine}
        assert len(mine) == 4 * len(paths)
        assert {(row.B, row.context) for row in mine} == {(b, c) for b in (1, 2) for c in (16, 48)}
    for row in rows:
        assert row.tokens_per_s == pytest.approx(1e3 * row.B / row.ms_per_token)
        assert row.note == ""
    assert {row.path for row in rows if "BD-LRU" in row.model} == {
        "Decoder, buffered",
        "LanguageModel.step, eager",
    }
    assert {row.path for row in rows if "Mamba" in row.model} == {
        "eager, plain PyTorch: mamba-ssm is not installed"
    }


def test_parameters_are_equal(rows):
    wanted = decode.llama_parameters(SMALL)
    for row in rows:
        # Mamba-2 only grows by whole layers.
        assert row.parameters == pytest.approx(wanted, rel=0.25 if "Mamba" in row.model else 0.03)
        if "Llama" in row.model:
            assert row.parameters == wanted


def test_states_are_counted_and_only_attentions_grow(rows):
    def mib(name, batch, context):
        return next(r.state_mib for r in rows if name in r.model and (r.B, r.context) == (batch, context))

    for name in ("BD-LRU", "H-LRU", "Mamba-2"):
        assert mib(name, 1, 16) == mib(name, 1, 48) == mib(name, 2, 48) / 2
    # Keys and values of two layers of width 64, for the context and the few tokens that were timed.
    grown = (mib("dynamic", 1, 48) - mib("dynamic", 1, 16)) * 2**20
    assert grown == 2 * 2 * 32 * 64 * 4
    static = mib("static", 2, 48) * 2**20 - 2 * 2 * (48 + decode.MOST_STEPS) * 2 * 64 * 4
    assert 0 <= static < 100


def test_what_was_read_and_what_was_injected_is_said(rows):
    told = {(row.B, row.context): row.state for row in rows if row.model == "BD-LRU m=2"}
    assert told == {
        (1, 16): "read", (1, 48): "read", (2, 16): "read", (2, 48): "injected, of 24 tokens",
    }  # fmt: skip
    attention = {(row.B, row.context): row.state for row in rows if "Llama" in row.model}
    assert attention[2, 48] == "noise in a cache of full length" and attention[1, 48] == "read"


def test_each_order_is_measured_once_and_the_largest_without_a_decoder_too():
    found = decode.contenders(CPU, SMALL, orders=(2, 1, 2), peers=False, compile=False)
    told = [(each.name, each.mode) for each in found if isinstance(each, decode.Ours)]
    assert told == [
        ("BD-LRU m=1", "decoder"),
        ("BD-LRU m=2", "decoder"),
        ("BD-LRU m=2", "eager"),
        ("H-LRU m=2", "decoder"),
    ]


def test_no_time_is_printed_for_wrong_logits(monkeypatch):
    right = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda self, tokens: right(self, tokens) * 1.01)
    with pytest.raises(WrongResult, match=r"BD-LRU m=2: decoded logits are off by 1\.0e-02"):
        next(decode.measure(CPU, SMALL, orders=(2,), peers=False))


def test_a_peer_with_wrong_logits_is_measured_and_says_so(monkeypatch):
    class Peer:
        name, parameters = "a peer", 1

        def logits(self, tokens):
            return torch.ones(*tokens.shape, 32)

        def read(self, tokens, *, context, room):
            return self

        path, state, state_bytes = "eager", "read", 0

        def step(self, tokens):
            return torch.full((len(tokens), 32), 1.5)

    monkeypatch.setattr(decode, "contenders", lambda *_, **options: [Peer()])
    found = list(decode.measure(CPU, SMALL, budget_s=0.0))
    assert len(found) == 4
    for row in found:
        assert row.ms_per_token > 0
        assert row.note == "a peer: decoded logits are off by 5.0e-01 (limit 1e-04)"


def test_where_memory_ends_and_time_is_over_a_row_says_so(monkeypatch):
    right = LanguageModel.read

    def full(self, tokens, *arguments, **options):
        if tokens.shape == (2, 16):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return right(self, tokens, *arguments, **options)

    monkeypatch.setattr(LanguageModel, "read", full)
    monkeypatch.setattr(decode, "check", lambda *_: 0.0)
    found = list(decode.measure(CPU, SMALL, budget_s=0.0, orders=(2,), peers=False))
    (row,) = {r for r in found if (r.B, r.context, r.path) == (2, 16, "") and "BD-LRU" in r.model}
    assert row.note.startswith("out of memory: CUDA out of memory") and math.isnan(row.ms_per_token)
    late = list(decode.measure(CPU, SMALL, orders=(2,), peers=False, minutes=0.0))
    assert len(late) == 12 and {r.note for r in late} == {"not run: 0 minutes were over"}


def test_a_cache_that_cannot_fit_is_not_tried():
    pytest.importorskip("transformers")
    from statemix.bench.decode_peers import Llama

    with pytest.raises(MemoryError, match=r"its cache takes 48828\.\d GiB and [\d.]+ are free"):
        Llama(SMALL, CPU).read(torch.zeros(2, 4, dtype=torch.long), context=25_600_000_000, room=8)


def test_the_command_writes_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decode, "sizes_for", lambda device: SMALL)
    out = tmp_path / "decode.csv"
    command = ["bench", "decode", "--device", "cpu", "--seconds", "0", "--only", "2", "--no-peers"]
    assert main([*command, "--csv", str(out)]) == 0
    table = list(csv.DictReader(out.read_text().splitlines()))
    assert len(table) == 12 and all(float(row["ms_per_token"]) > 0 for row in table)
    assert "bench decode" in out.with_suffix(".txt").read_text()
    assert "BD-LRU m=2" in capsys.readouterr().out
