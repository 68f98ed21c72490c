"""``statemix convert`` changes the format of a model and nothing else."""

import json

import pytest
import torch
from safetensors.torch import load_file

from statemix.cli import main
from statemix.cli.convert import write_run
from statemix.models import LanguageModel, MixerConfig, ModelConfig
from statemix.training import OptimizerConfig, RunConfig, TextData, load_run, read_config, train


def trained(folder, **settings) -> RunConfig:
    """A real run, with moments in its checkpoint."""
    text = folder.parent / "text.txt"
    text.write_text("the cat sat on the mat. " * 100)
    mixer = MixerConfig(block_size=2, num_blocks=6)
    config = RunConfig(
        name="cat", model=ModelConfig(d_model=16, mixer=mixer, **settings),
        data=TextData(corpus=str(text), length=16), optimizer=OptimizerConfig(learning_rate=1e-2),
        steps=4, batch_size=2, tensorboard=False, device="cpu",
    )  # fmt: skip
    train(config, out=folder)
    return config


def weights(folder):
    return load_file(next((folder / "checkpoints").glob("step-*")) / "weights.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_embeddings": True, "num_layers": 2, "pattern": ("bdlru", "hlru")},
        {"num_layers": 3, "pattern": ("hlru", "lstm"), "gradient_checkpointing": True, "max_length": 99},
    ],
    ids=str,
)
def test_a_run_goes_there_and_back_bit_for_bit(tmp_path, settings, capsys):
    trained(tmp_path / "run", **settings)
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "hf"), "--max-shard-size", "20KB"]) == 0
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 1
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "back")]) == 0
    assert f"written to {tmp_path / 'back'} (run)" in capsys.readouterr().out
    assert read_config(tmp_path / "back") == read_config(tmp_path / "run")
    assert (tmp_path / "back" / "result.json").read_text() == (tmp_path / "run" / "result.json").read_text()
    one, other = weights(tmp_path / "run"), weights(tmp_path / "back")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "back" / "checkpoints" / "step-00000004").is_dir()


def test_the_model_of_transformers_says_the_same_and_comes_back(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained(tmp_path / "run")
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "hf")]) == 0
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = tokenizer("the cat", return_tensors="pt").input_ids
    assert torch.equal(theirs(ids).logits, load_run(tmp_path / "run")(ids))
    assert theirs.config.eos_token_id == tokenizer.eos_token_id == 0
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "back")]) == 0
    assert main(["convert", str(tmp_path / "back"), str(tmp_path / "again")]) == 0
    first, second = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("hf", "again"))
    assert first == second
    assert (tmp_path / "hf" / "tokenizer.json").read_text() == (
        tmp_path / "again" / "tokenizer.json"
    ).read_text()


def test_a_model_that_no_run_made_becomes_one(tmp_path):
    from statemix.models.huggingface import StatemixConfig, StatemixForCausalLM

    torch.manual_seed(0)
    config = StatemixConfig(vocab_size=256, hidden_size=16, num_hidden_layers=2, mixer="hlru", order=3)
    theirs = StatemixForCausalLM(config).to(torch.bfloat16).eval()
    theirs.save_pretrained(tmp_path / "hf")
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "run")]) == 0
    ours = load_run(tmp_path / "run")
    assert read_config(tmp_path / "run").model.mixer.block_size == 3
    tokens = torch.randint(256, (1, 8))
    torch.testing.assert_close(ours(tokens), theirs.float()(tokens).logits)


def test_training_does_not_go_on_from_weights_alone(tmp_path, capsys):
    trained(tmp_path / "run")
    for source, target in (("run", "hf"), ("hf", "back")):
        assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 0
    assert main(["train", "--resume", str(tmp_path / "back")]) == 1
    assert "step-00000004: it holds weights alone" in capsys.readouterr().err


def test_a_run_is_made_smaller_without_its_optimizer(tmp_path):
    trained(tmp_path / "run")
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "small"), "--to", "run"]) == 0
    one, other = weights(tmp_path / "run"), weights(tmp_path / "small")
    assert all(torch.equal(one[name], other[name]) for name in one)

    def moments(name):
        folder = next((tmp_path / name / "checkpoints").glob("step-*"))
        return [k for k in load_file(folder / "optimizer.safetensors") if "exp_avg" in k]

    assert moments("run") and not moments("small")


def occupied(path):
    trained(path / "run")
    (path / "to").mkdir()
    (path / "to" / "mine.txt").write_text("keep me")
    return [str(path / "run"), str(path / "to")], "it is not empty, and nothing is written over"


def another_architecture(path):
    (path / "m").mkdir()
    (path / "m" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return [str(path / "m"), str(path / "to")], "a model of another architecture, 'gpt2'"


def damaged(path):
    trained(path / "run")
    for folder in (path / "run" / "checkpoints").iterdir():
        (folder / "weights.safetensors").write_bytes(b"nothing")
    return [str(path / "run"), str(path / "to")], "weights.safetensors is damaged"


def own_sizes(path):
    from statemix.models.huggingface import StatemixConfig, StatemixForCausalLM

    config = StatemixConfig(hidden_size=16, num_hidden_layers=2, mixer=["bdlru", "hlru"], order=2)
    StatemixForCausalLM(config).save_pretrained(path / "m")
    return [str(path / "m"), str(path / "to")], "sizes or options of their own"


def outputs_of_a_task(path):
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=256, output_size=9, d_model=8))
    (path / "m").mkdir()
    write_run(path / "m", RunConfig(model=model.config, data=TextData()), model, 1)
    return [str(path / "m"), str(path / "to")], "reads 256 tokens and predicts 9"


def same_format(path):
    trained(path / "run")
    assert main(["convert", str(path / "run"), str(path / "hf")]) == 0
    return [
        str(path / "hf"),
        str(path / "to"),
        "--to",
        "huggingface",
    ], "it has the format of Transformers already"


@pytest.mark.parametrize(
    "case", [occupied, another_architecture, damaged, own_sizes, outputs_of_a_task, same_format]
)
def test_what_cannot_be_converted_is_named_and_leaves_nothing(case, tmp_path, capsys):
    arguments, message = case(tmp_path)
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    capsys.readouterr()
    assert main(["convert", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("size", ["foo", "5", "0KB", "-1GB", "KB"])
def test_a_size_of_shards_that_is_none_is_refused(tmp_path, capsys, size):
    with pytest.raises(SystemExit, match="2"):
        main(["convert", str(tmp_path), str(tmp_path / "to"), f"--max-shard-size={size}"])
    assert "max_shard_size must be a size" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_without_transformers_the_extra_is_named(tmp_path, capsys, monkeypatch):
    import sys

    trained(tmp_path / "run")
    for name in [n for n in sys.modules if n.startswith("statemix.models.huggingface")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "hf")]) == 2
    assert "needs transformers" in (told := capsys.readouterr().err) and "pip install 'statemix[hf]'" in told
    assert not (tmp_path / "hf").exists()
    assert (
        main(["generate", str(tmp_path / "run"), "--prompt", "a", "--max-new-tokens", "2", "--device", "cpu"])
        == 0
    )
