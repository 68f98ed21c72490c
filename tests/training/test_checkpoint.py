"""Checkpoints are whole or absent, and never trusted unread."""

import errno
import json
import os
import shutil

import pytest
import torch

from statemix.models import LanguageModel, ModelConfig
from statemix.training import CheckpointError
from statemix.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from statemix.training.optimizer import OptimizerConfig, make_optimizer

FILES = ["weights.safetensors", "optimizer.safetensors", "state.json"]


def built(seed=0, **settings):
    torch.manual_seed(seed)
    model = LanguageModel(ModelConfig(**({"vocab_size": 5, "d_model": 8} | settings)))
    return model, make_optimizer(model, OptimizerConfig())


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randint(5, (2, 6))).square().mean().backward()
    optimizer.step()


@pytest.fixture
def run(tmp_path):
    """Two checkpoints of one run, and what the model was at each."""
    model, optimizer = built()
    weights = {}
    for number in (10, 20):
        step(model, optimizer)
        save_checkpoint(tmp_path, model, optimizer, number, {"sums": [number / 7]})
        weights[number] = {name: p.clone() for name, p in model.state_dict().items()}
    return tmp_path, weights


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_weights(model, wanted):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_what_was_saved_comes_back_and_goes_on_alike(run):
    folder, weights = run
    model, optimizer = built(seed=0)
    for _ in range(3):
        step(model, optimizer)
    other, other_optimizer = built(seed=9)
    torch.manual_seed(5)
    number, progress = load_checkpoint(newest_checkpoint(folder), other, other_optimizer)
    assert (number, progress) == (20, {"sums": [20 / 7]})
    assert_weights(other, weights[20])
    # The checkpoint holds the random numbers' state too: both runs draw the same third batch.
    step(other, other_optimizer)
    assert_weights(other, model.state_dict())


def test_only_the_last_two_are_kept(run):
    folder, _ = run
    model, optimizer = built()
    for number in (30, 40):
        save_checkpoint(folder, model, optimizer, number, {})
    assert names(folder) == ["step-00000030", "step-00000040"]


def damage(path, how):
    data = path.read_bytes()
    middle = len(data) // 2
    changed = {
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:middle],
        "empty": b"",
    }
    path.write_bytes(changed[how])


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "gone"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(run, file, how):
    folder, weights = run
    path = folder / "step-00000020" / file
    path.unlink() if how == "gone" else damage(path, how)
    with pytest.warns(RuntimeWarning, match=rf"step-00000020.{file}.*going on from step-00000010"):
        good = newest_checkpoint(folder)
    model, _ = built(seed=3)
    assert load_checkpoint(good, model)[0] == 10
    assert_weights(model, weights[10])
    fresh, _ = built(seed=3)
    with pytest.raises(CheckpointError, match=file):
        load_checkpoint(folder / "step-00000020", fresh)
    assert_weights(fresh, built(seed=3)[0].state_dict())


def test_a_refused_checkpoint_is_set_aside_when_its_step_comes_again(run):
    folder, _ = run
    damage(folder / "step-00000020" / FILES[0], "cut")
    save_checkpoint(folder, *built(), 20, {})
    assert names(folder) == ["refused-step-00000020", "step-00000010", "step-00000020"]
    assert newest_checkpoint(folder).name == "step-00000020"


def test_when_all_are_damaged_every_one_is_named(run):
    folder, _ = run
    for number in (10, 20):
        damage(folder / f"step-{number:08d}" / FILES[1], "flipped")
    with pytest.raises(CheckpointError, match=r"step-00000020.*step-00000010.*no good one is left"):
        newest_checkpoint(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 16}, r"gate.weight is torch.float32 \(40, 8\) there and torch.float32 \(80, 16\) here"),
        ({"num_layers": 2}, r"blocks.1.* is missing"),
        ({"mlp": "none"}, r"blocks.0.mlp.* is unknown"),
    ],
)
def test_the_checkpoint_of_another_model_is_refused_with_what_differs(run, settings, message):
    folder, _ = run
    model, optimizer = built(seed=4, **settings)
    with pytest.raises(CheckpointError, match=rf"step-00000020.*of another model.*{message}"):
        load_checkpoint(folder / "step-00000020", model, optimizer)
    assert_weights(model, built(seed=4, **settings)[0].state_dict())
    assert not optimizer.state


def test_the_checkpoint_of_another_program_is_refused(tmp_path):
    (tmp_path / "step-5").mkdir()
    (tmp_path / "step-5" / "state.json").write_text(json.dumps({"epoch": 3}))
    with pytest.raises(CheckpointError, match="not of format 1; another program wrote it"):
        newest_checkpoint(tmp_path)


def test_where_there_is_none_there_is_none(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("fails_at", range(5))
def test_a_disk_that_fills_up_leaves_the_checkpoints_before(run, monkeypatch, fails_at):
    folder, weights = run
    calls = iter(range(100))
    sync = os.fsync

    def fsync(handle):
        if next(calls) == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"the ones before it are kept: No space left.*step-00000030"):
        save_checkpoint(folder, *built(seed=5), 30, {})
    monkeypatch.undo()
    assert not [name for name in names(folder) if name.startswith(".")]
    model, _ = built(seed=3)
    assert load_checkpoint(folder / "step-00000020", model)[0] == 20
    assert_weights(model, weights[20])


def test_what_a_killed_run_left_half_written_is_no_checkpoint(run):
    folder, _ = run
    shutil.copytree(folder / "step-00000020", folder / ".step-00000030.writing")
    assert newest_checkpoint(folder).name == "step-00000020"
    save_checkpoint(folder, *built(), 30, {})
    assert names(folder) == ["step-00000020", "step-00000030"]


def test_a_number_changed_by_hand_is_noticed(run):
    folder, _ = run
    path = folder / "step-00000020" / "state.json"
    path.write_text(path.read_text().replace('"step": 20', '"step": 21'))
    with pytest.raises(CheckpointError, match=r"state\.json is damaged: its checksum does not fit"):
        load_checkpoint(folder / "step-00000020", built()[0])


def test_a_file_cut_short_is_told_by_its_size(run):
    folder, _ = run
    path = folder / "step-00000020" / FILES[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"is damaged: 100 bytes, written with \d+"):
        load_checkpoint(folder / "step-00000020", built()[0])
