"""Training on prepared text: the same rows whoever reads them, each once an epoch, on any number of workers."""

import json
import threading
import time

import numpy as np
import pytest
import torch

from statemix.models import LanguageModel, MixerConfig, ModelConfig
from statemix.tasks import IGNORED
from statemix.text import PrepareOptions, ShardError, TokenShards, prepare
from statemix.training import RunConfig, ShardData, from_json, open_source, to_json, train
from statemix.training.batches import ahead, batches_of_step
from statemix.training.text_scores import score_text

from .small import At, numbers, small, start_workers, terminate

ARGUMENTS = {"batch_size": 4, "seed": 1, "steps": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("shards")
    random = np.random.default_rng(0)
    texts = ["".join(map(chr, random.integers(97, 103, size=n))) for n in random.integers(5, 80, size=60)]
    (base / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prepare([str(base / "t.jsonl")], base / "out", PrepareOptions(validation_share=0.2), progress=False)
    return str(base / "out")


def config(folder, **changes):
    model = ModelConfig(d_model=16, mixer=MixerConfig(block_size=2, num_blocks=4), mlp_ratio=1.0)
    return small(model=model, data=ShardData(path=folder, length=16, evaluation_tokens=300), **changes)


def test_an_epoch_reads_every_row_once_and_another_reads_others(folder):
    source = open_source(ShardData(path=folder, length=16))
    steps = source.rows // 4
    whole = [source.batch(step, **ARGUMENTS) for step in range(2 * steps + 2)]
    rows = [tuple(row.tolist()) for batch in whole for row in batch.targets.view(-1, 16)]
    text = source.train.read(0, len(source.train)).tolist()
    found = []
    doubled = text + text
    for row in rows[: source.rows]:
        places = [i for i in range(len(text)) if tuple(doubled[i : i + 16]) == row]
        assert len(places) == 1
        found.append(places[0])
    # All rows of an epoch lie a row apart, from a shift on that is the epoch's own.
    evenly = [{(shift + 16 * k) % len(text) for k in range(source.rows)} for shift in range(16)]
    assert set(found) in evenly
    assert len(set(found)) == source.rows and found != sorted(found)
    assert rows[source.rows : 2 * source.rows] != rows[: source.rows]


def test_rows_depend_on_seed_and_step_alone_and_can_be_asked_for_singly(folder):
    source, again = (open_source(ShardData(path=folder, length=16)) for _ in range(2))
    whole = source.batch(7, **ARGUMENTS)
    for row in range(4):
        one = again.batch(7, **ARGUMENTS, rows=slice(row, row + 1))
        assert torch.equal(one.targets[0], whole.targets.view(4, 16)[row])
    other = source.batch(7, **{**ARGUMENTS, "seed": 2})
    assert not torch.equal(other.targets, whole.targets)
    plain = open_source(ShardData(path=folder, length=16, reset_states=False)).batch(7, **ARGUMENTS)
    assert torch.equal(plain.targets, whole.targets.view(4, 16)) and len(plain) == 2


def test_what_cannot_be_trained_on_is_named(folder, tmp_path):
    with pytest.raises(
        ShardError, match=rf"there is no index.json in it; .*text prepare SOURCE --out {tmp_path}"
    ):
        train(config(str(tmp_path)), progress=False)
    with pytest.raises(ValueError, match=r"too few for rows of 99,999; pass a smaller --data.length"):
        open_source(ShardData(path=folder, length=99_999))
    with pytest.raises(ValueError, match="vocab_size is 255, but the data has 256"):
        train(
            config(folder).__class__(data=ShardData(path=folder), model=ModelConfig(vocab_size=255)),
            progress=False,
        )
    padded = RunConfig(data=ShardData(path=folder), model=ModelConfig(vocab_size=320)).resolved()
    assert padded.model.vocab_size == padded.model.output_size == 320
    with pytest.raises(ValueError, match=r"multiple of 3 \(1 workers x accumulate 3\); got 8"):
        train(config(folder, accumulate=3), progress=False)
    assert from_json(json.loads(json.dumps(to_json(config(folder))))) == config(folder)


@pytest.mark.parametrize("accumulate", [2, 8])
@pytest.mark.parametrize("data", ["shards", "task"])
def test_an_update_in_parts_is_the_update(folder, accumulate, data):
    base = config(folder) if data == "shards" else small()
    one, parts = (
        train(RunConfig(**{**base.__dict__, "accumulate": n}), progress=False) for n in (1, accumulate)
    )
    for a, b in zip(one.history, parts.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5) and a["accuracy"] == b["accuracy"]
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)


def test_a_stopped_run_goes_on_with_the_same_losses(folder, tmp_path):
    whole = train(config(folder, accumulate=2), progress=False)
    stopped = train(config(folder, accumulate=2), out=tmp_path, observers=[At(5, terminate)], progress=False)
    assert stopped.status == "interrupted"
    resumed = train(config(folder, accumulate=2), out=tmp_path, resume=True, progress=False)
    assert numbers(resumed.history) == numbers(whole.history) and resumed.scores == whole.scores
    assert set(whole.scores) == {"bits_per_byte", "perplexity"}


SHARPEN = (0.2, 5.0)
PROGRAM = """
import json, sys, torch
torch.set_num_threads(1)
from tests.training.test_shards import SHARPEN, config
from statemix.training import train
run = config(sys.argv[1], accumulate=2, device=sys.argv[3], precision="float32", sharpen_gates=SHARPEN)
result = train(run, out=sys.argv[2], progress=False)
gate = result.model.blocks[0].mixer.gate.weight.norm().item()
print(json.dumps([result.status, [row["loss"] for row in result.history], gate]))
"""


two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, two_gpus])])
def test_two_workers_train_what_one_does(folder, tmp_path, device):
    options = {"device": device, "precision": "float32", "sharpen_gates": SHARPEN}
    alone = train(config(folder, **options), progress=False)
    gate = alone.model.blocks[0].mixer.gate.weight.norm().item()
    plain = train(config(folder, device=device, precision="float32"), progress=False)
    assert gate != pytest.approx(plain.model.blocks[0].mixer.gate.weight.norm().item(), rel=0.1)
    processes = start_workers(["-c", PROGRAM, folder, str(tmp_path / "run"), device], 2)
    answers = [process.communicate(timeout=120) for process in processes]
    for process, (shown, errors) in zip(processes, answers, strict=True):
        assert process.returncode == 0, errors[-2000:]
        status, losses, found = json.loads(shown.splitlines()[-1])
        assert status == "finished"
        # What the first found on validation data the other has done too.
        assert found == pytest.approx(gate, rel=1e-3)
        # Products of half as many rows round in another order; on a GPU by a little more.
        limit = 1e-5 if device == "cpu" else 1e-4
        assert losses == pytest.approx([row["loss"] for row in alone.history], rel=limit)
    # One of them wrote, and what it wrote is the whole.
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 13
    same = config(folder, accumulate=2, **options)
    resumed = train(same, out=tmp_path / "run", resume=True, progress=False)
    for a, b in zip(resumed.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_batches_made_ahead_are_those_of_their_steps(folder):
    run = config(folder).resolved()
    source = open_source(run.data)
    threads = []

    def make(step):
        threads.append(threading.current_thread())
        return batches_of_step(source, run, step, 0, 1)

    device = torch.device("cpu")
    for found, step in zip(ahead(make, range(3, 9), device, depth=2), range(3, 9), strict=True):
        assert torch.equal(found[0].targets, batches_of_step(source, run, step, 0, 1)[0].targets)
        assert found[0].asked == int((found[0].targets != IGNORED).sum())
    assert threading.main_thread() not in threads and not any(thread.is_alive() for thread in threads)


def test_an_iterator_that_is_closed_leaves_no_thread_and_made_no_more_than_its_depth():
    made = []
    batches = ahead(lambda step: made.append(step) or [], range(1000), torch.device("cpu"), depth=3)
    next(batches)
    time.sleep(0.2)
    batches.close()
    assert len(made) <= 6 and not [t for t in threading.enumerate() if t.name == "statemix-batches"]


def test_an_error_while_a_batch_is_made_comes_at_its_step():
    def make(step):
        if step == 2:
            raise OSError("disk gone")
        return []

    batches = ahead(make, range(9), torch.device("cpu"), depth=2)
    assert [next(batches), next(batches)] == [[], []]
    with pytest.raises(OSError, match="disk gone"):
        next(batches)


@pytest.mark.parametrize("length", [7, 32, 1000])
def test_scores_are_the_mean_code_length_of_every_token(folder, length):
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=256, d_model=8)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    split = TokenShards(folder).split("validation")
    found = score_text(model, split, length=length)
    bits, at = 0.0, {}
    for number in range(split.documents):
        start, stop, _ = split.document(number)
        for piece in range(start, stop, length):
            tokens = [int(t) for t in split.read(piece - 1, min(piece + length, stop))]
            codes = model(torch.tensor([tokens[:-1]]))[0].log_softmax(-1)
            for place, token in enumerate(tokens[1:]):
                bits -= codes[place, token].item() / np.log(2)
                at[place] = at.get(place, 0) + 1
    assert found.tokens == found.bytes == len(split) and found.documents == split.documents
    assert found.bits_per_byte == pytest.approx(bits / len(split), rel=1e-5)
    assert found.total.perplexity == pytest.approx(2 ** (bits / len(split)), rel=1e-5)
    for bucket in found.buckets:
        assert bucket.tokens == sum(n for place, n in at.items() if bucket.start <= place < bucket.stop)
    assert sum(bucket.tokens for bucket in found.buckets) == found.tokens


def test_fewer_tokens_are_whole_documents(folder):
    model = LanguageModel(ModelConfig(vocab_size=256, d_model=8))
    split = TokenShards(folder).split("validation")
    some = score_text(model, split, length=16, tokens=150)
    assert 60 < some.tokens <= 150 and 1 < some.documents < split.documents
    one = score_text(model, split, length=16, tokens=3)
    assert (one.documents, one.tokens) == (1, 3) and one.bytes == pytest.approx(3)


def test_a_perplexity_that_no_float_holds_is_infinite(folder):
    model = LanguageModel(ModelConfig(vocab_size=256, d_model=8)).eval()
    with torch.no_grad():
        model.head.weight.mul_(1e6)
    total = score_text(model, TokenShards(folder).split("validation"), length=16).total
    assert total.perplexity == float("inf") and 1000 < total.bits_per_token < float("inf")


def test_runs_on_shards_are_no_replicas_of_one_group(folder):
    from statemix.training import groupable, train_replicas

    one, other = config(folder), config(folder, seed=1)
    assert not groupable(one, other) and groupable(small(), small(seed=1))
    with pytest.raises(ValueError, match="train a run on shards with train"):
        train_replicas([one, other])
