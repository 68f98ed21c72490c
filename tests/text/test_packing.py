"""Packing: every token is a target once, no document reads another, and shuffles are permutations."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statemix.text import PrepareOptions, pack, permuted, prepare

TEXTS = ["abc", "d", "efghij", "kl", "mnopqrstu"]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packing")
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    options = PrepareOptions(validation_share=0.0, shard_tokens=8)
    return prepare([str(folder / "t.jsonl")], folder / "out", options, progress=False).split("train")


@given(size=st.integers(1, 300), key=st.integers(0, 2**63))
def test_a_shuffle_is_a_permutation(size, key):
    assert sorted(permuted(np.arange(size), size, key).tolist()) == list(range(size))


def test_a_shuffle_depends_on_its_key_and_not_on_what_is_asked_with_it():
    whole = permuted(np.arange(1000), 1000, 3)
    assert permuted(np.array([5, 900]), 1000, 3).tolist() == whole[[5, 900]].tolist()
    others = [permuted(np.arange(1000), 1000, key) for key in range(20)]
    assert all((other == whole).sum() < 20 for key, other in enumerate(others) if key != 3)
    # No place is favoured: over many keys the first window goes everywhere.
    firsts = np.array([permuted(np.array([0]), 8, key)[0] for key in range(4000)])
    assert np.abs(np.bincount(firsts, minlength=8) / 4000 - 1 / 8).max() < 0.03


def test_a_shuffle_stays_the_same_from_one_release_to_the_next():
    # Runs are repeated and resumed by it.
    assert permuted(np.arange(10), 10, 3).tolist() == [1, 0, 3, 5, 6, 2, 9, 7, 8, 4]
    assert permuted(np.arange(3), 10**9, 2**63).tolist() == [548424722, 619177897, 849020966]


def test_a_shuffle_of_more_places_than_memory_holds():
    size = 10**15
    found = permuted(np.arange(1000), size, 1)
    assert len(set(found.tolist())) == 1000 and found.min() >= 0 and found.max() < size
    assert found.max() > 0.9 * size
    with pytest.raises(ValueError, match="must lie below 10"):
        permuted(np.array([10]), 10, 0)


@given(starts=st.lists(st.integers(0, 60), min_size=1, max_size=5), length=st.integers(1, 40))
def test_rows_hold_the_text_and_its_boundaries(split, starts, length):
    whole = "".join(text + "\0" for text in TEXTS)
    first = {0, *(i + 1 for i, c in enumerate(whole) if c == "\0" and i + 1 < len(whole))}
    packed = pack(split, np.array(starts), length)
    assert packed.inputs.shape == packed.targets.shape == (1, len(starts) * length)
    wanted = {0}
    for row, start in enumerate(starts):
        places = [(start + i) % len(whole) for i in range(length)]
        some = slice(row * length, (row + 1) * length)
        assert packed.targets[0, some].tolist() == [ord(whole[p]) for p in places]
        assert packed.inputs[0, some].tolist() == [ord(whole[p - 1]) for p in places]
        wanted |= {row * length} | {row * length + i for i, p in enumerate(places) if p in first}
    bounds = packed.cu_seqlens.tolist()
    assert packed.cu_seqlens.dtype == torch.int32 and bounds == sorted(bounds)
    assert set(bounds) == wanted | {len(starts) * length}
    assert (len(bounds) - 1) & (len(bounds) - 2) == 0


def test_no_document_reads_another(split):
    """What a model says about a document is the same whatever stands before it in the row."""
    from statemix.models import LanguageModel, MixerConfig, ModelConfig

    torch.manual_seed(0)
    for name in ("bdlru", "hlru", "lstm"):
        model = LanguageModel(
            ModelConfig(vocab_size=128, d_model=16, mixer=MixerConfig(name=name, block_size=2))
        ).double()
        packed = pack(split, np.array([0]), len(split))
        logits = model(packed.inputs, cu_seqlens=packed.cu_seqlens)[0]
        place = 0
        for text in TEXTS:
            alone = model(torch.tensor([[0, *text.encode()]]))[0]
            torch.testing.assert_close(logits[place : place + len(text) + 1], alone, rtol=1e-9, atol=1e-12)
            place += len(text) + 1
