"""``statemix generate`` writes what the model says, from folders of either format, or names what is wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from statemix.cli import main
from statemix.cli._models import open_model
from statemix.cli.convert import write_run
from statemix.models import LanguageModel, MixerConfig, ModelConfig
from statemix.models.huggingface import byte_tokenizer
from statemix.training import RunConfig, ShardData, TaskData, TextData


def write(folder, *, data=None, vocabulary=256, **settings):
    """A run folder of a small model whose greedy text is made of letters."""
    torch.manual_seed(0)
    mixer = MixerConfig(block_size=2, num_blocks=6)
    model = LanguageModel(ModelConfig(vocab_size=vocabulary, d_model=16, mixer=mixer, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
        model.head.weight[:97] = model.head.weight[123:] = 0
    folder.mkdir()
    write_run(folder, RunConfig(name="small", model=model.config, data=data or TextData()), model, 7)
    return model


def greedy(model, prompt: str, new: int) -> str:
    tokens = model.generate(torch.tensor([list(prompt.encode())]), new, temperature=0)
    return bytes(tokens[0].tolist()).decode(errors="replace")


def test_both_formats_write_what_the_model_says(tmp_path, capsys):
    model = write(tmp_path / "run")
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "hf")]) == 0
    capsys.readouterr()
    wanted = greedy(model, "naïve", 40)
    for folder in ("run", "hf"):
        for stream in ((), ("--stream",)):
            command = ["generate", str(tmp_path / folder), "--prompt", "naïve", "--temperature", "0"]
            command += ["--max-new-tokens", "40", "--device", "cpu", "--ignore-end", *stream]
            assert main(command) == 0
            out, err = capsys.readouterr()
            assert out == wanted + "\n"
            assert "40 tokens" in err and "tokens/s on cpu, seed 0" in err


def test_one_token_has_no_pace(tmp_path, capsys):
    write(tmp_path / "run")
    command = ["generate", str(tmp_path / "run"), "--prompt", "a", "--max-new-tokens", "1", "--device", "cpu"]
    assert main(command) == 0
    assert capsys.readouterr().err == "[1 tokens on cpu, seed 0]\n"


def test_a_damaged_checkpoint_is_told_of_in_a_sentence(tmp_path):
    write(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-00000009").mkdir()
    command = [sys.executable, "-m", "statemix", "generate", str(tmp_path / "run"), "--prompt", "a"]
    ended = subprocess.run([*command, "--max-new-tokens", "1"], capture_output=True, text=True)
    assert ended.returncode == 0
    first, *_ = ended.stderr.splitlines()
    assert re.fullmatch(
        r"statemix: checkpoint .*step-00000009.* cannot be read: .*; going on from step-\d+", first
    )
    assert "RuntimeWarning" not in ended.stderr


@pytest.mark.parametrize("mixer", [["bdlru", "hlru"], ["bdlru", "attention", "hlru"]])
def test_a_model_of_transformers_writes_and_is_measured_whatever_its_mixers_sizes_are(
    tmp_path, capsys, mixer
):
    from statemix.models.huggingface import StatemixConfig, StatemixForCausalLM

    torch.manual_seed(0)
    config = StatemixConfig(
        vocab_size=256, hidden_size=16, num_hidden_layers=3, mixer=mixer, block_size=4, order=2
    )
    model = StatemixForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
        model.lm_head.weight[:97] = model.lm_head.weight[123:] = 0
    model.save_pretrained(tmp_path / "hf")
    byte_tokenizer().save_pretrained(tmp_path / "hf")
    ids = torch.tensor([list(b"abc")])
    wanted = model.generate(ids, max_new_tokens=30, do_sample=False, eos_token_id=None)
    command = [
        "generate",
        str(tmp_path / "hf"),
        "--prompt",
        "abc",
        "--temperature",
        "0",
        "--max-new-tokens",
        "30",
    ]
    assert main([*command, "--device", "cpu", "--ignore-end"]) == 0
    assert capsys.readouterr().out == bytes(wanted[0].tolist()).decode() + "\n"
    (tmp_path / "text.txt").write_text("a text to be measured " * 9)
    assert (
        main(["evaluate", str(tmp_path / "hf"), "--data", str(tmp_path / "text.txt"), "--device", "cpu"]) == 0
    )
    assert "1 documents" in capsys.readouterr().out
    # A run folder has no place for them, which convert still says.
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "run")]) == 1
    assert "have sizes or options of their own" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--stream",), ()], ids=["stream", "whole"])
def test_a_reader_who_leaves_ends_it_without_a_word(tmp_path, capsys, status_behind_a_closed_pipe, flags):
    write(tmp_path / "run")
    command = ["generate", str(tmp_path / "run"), "--prompt", "a", "--device", "cpu", "--ignore-end", *flags]
    assert status_behind_a_closed_pipe([*command, "--max-new-tokens", "30"]) == 128 + 13
    assert "roken" not in capsys.readouterr().err


def test_a_seed_decides_the_samples(tmp_path, capsys):
    write(tmp_path / "run")
    texts = []
    for seed in ("1", "1", "2"):
        command = ["generate", str(tmp_path / "run"), "--prompt", "a", "--seed", seed, "--ignore-end"]
        assert (
            main([*command, "--max-new-tokens", "30", "--device", "cpu", "--top-k", "20", "--top-p", "0.9"])
            == 0
        )
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_streaming_holds_back_half_a_character(tmp_path, capsys, monkeypatch):
    from statemix.cli import generate
    from statemix.text import ByteTokenizer

    text = "a你\U0001f600b"
    made: list[int] = []
    pieces = list(generate._pieces(iter([*text.encode(), 0xE4]), ByteTokenizer(), made))
    assert [p for p in pieces if p] == ["a", "你", "\U0001f600", "b", "\ufffd"]
    assert made == [*text.encode(), 0xE4]


# Each runs a process. How a prompt comes in decides nothing of how text goes out: pairs meet, not all three.
@pytest.mark.parametrize(
    ("piped", "encoding", "stream"),
    [
        pytest.param(False, "ascii", [], id="argument, ascii, whole"),
        pytest.param(False, "latin-1", ["--stream"], id="argument, latin-1, streamed"),
        pytest.param(True, "ascii", ["--stream"], id="standard input, ascii, streamed"),
        pytest.param(True, "utf-8", [], id="standard input, utf-8, whole"),
    ],
)
def test_a_prompt_is_utf_8_and_output_what_its_encoding_has(tmp_path, piped, encoding, stream):
    prompt = "né 你"
    command = ["generate", str(tmp_path / "run"), "--prompt", "-" if piped else prompt, *stream]
    model = write(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-m", "statemix", *command, "--max-new-tokens", "9", "--temperature", "0"],
        input=prompt.encode(), capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    tokens = model.generate(torch.tensor([list(prompt.encode())]), 9, temperature=0)[0].tolist()
    assert done.stdout == bytes(tokens).decode().encode(encoding, "replace") + b"\n"


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["whole", "streamed"])
def test_words_keep_the_space_between_prompt_and_continuation(tmp_path, capsys, stream):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"</s>": 0, **{f"\u2581w{number}": number for number in range(1, 123)}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="</s>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    model = write(tmp_path / "run", vocabulary=123, data=ShardData(path="elsewhere"))
    tokenizer.save(str(tmp_path / "run" / "tokenizer.json"))
    command = ["generate", str(tmp_path / "run"), "--prompt", "w1 w2", "--max-new-tokens", "9"]
    assert main([*command, "--temperature", "0", "--device", "cpu", *stream]) == 0
    tokens = model.generate(torch.tensor([[1, 2]]), 9, temperature=0)[0].tolist()
    assert 0 not in tokens
    assert capsys.readouterr().out == " ".join(f"w{token}" for token in tokens) + "\n"


def test_writing_ends_with_the_text(tmp_path, capsys):
    model = write(tmp_path / "run")
    with torch.no_grad():
        model.head.weight[0] = (
            100 * model.head.weight[int(model.generate(torch.tensor([[97]]), 1, temperature=0)[0, 1])]
        )
    (tmp_path / "ends").mkdir()
    write_run(tmp_path / "ends", RunConfig(model=model.config, data=TextData()), model, 7)
    command = ["generate", str(tmp_path / "ends"), "--prompt", "a", "--temperature", "0", "--device", "cpu"]
    assert main(command) == 0
    assert capsys.readouterr().out == "a\n"


def test_the_shipped_model_says_something(capsys):
    command = ["generate", "--max-new-tokens", "400", "--device", "cpu", "--seed", "3"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert text.startswith("And it came to pass") and len(text) > 350
    words = text.lower().replace(",", " ").replace(".", " ").split()
    common = {
        "the",
        "and",
        "of",
        "to",
        "unto",
        "in",
        "that",
        "he",
        "shall",
        "they",
        "his",
        "lord",
        "for",
        "is",
    }
    assert sum(word in common for word in words) > len(words) / 5


def test_the_shipped_model_is_small_and_says_how_good_it_is():
    from statemix.assets import EXAMPLE

    assert sum(p.stat().st_size for p in EXAMPLE.rglob("*") if p.is_file()) < 5e6
    told = json.loads((EXAMPLE / "example.json").read_text())
    bits = told["bits_per_byte"]
    assert bits["this model"] < bits["xz"] < bits["gzip"] < bits["unigram"]
    config = json.loads((EXAMPLE / "config.json").read_text())
    assert not Path(config["data"]["corpus"]).is_absolute()


def run_of_a_task(path):
    write(path / "m", data=TaskData(), vocabulary=200)


def huggingface_of_another_kind(path):
    (path / "m").mkdir()
    (path / "m" / "config.json").write_text(json.dumps({"model_type": "llama"}))


def broken_config(path):
    (path / "m").mkdir()
    (path / "m" / "config.json").write_text("{")


def no_checkpoint(path):
    import shutil

    write(path / "m")
    shutil.rmtree(path / "m" / "checkpoints")


def fewer_tokens_than_the_tokenizer(path):
    write(path / "m", vocabulary=200)


def missing_weights(path):
    from safetensors.torch import load_file, save_file

    write(path / "run")
    assert main(["convert", str(path / "run"), str(path / "m")]) == 0
    weights = load_file(path / "m" / "model.safetensors")
    del weights["model.blocks.0.mixer.value.weight"]
    save_file(weights, path / "m" / "model.safetensors")


def damaged_weights(path):
    write(path / "run")
    assert main(["convert", str(path / "run"), str(path / "m")]) == 0
    (path / "m" / "model.safetensors").write_bytes(b"no weights")


def a_size_that_is_no_number(path):
    write(path / "run")
    assert main(["convert", str(path / "run"), str(path / "m")]) == 0
    file = path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"block_size": "two"}))


def another_size(path):
    write(path / "run")
    assert main(["convert", str(path / "run"), str(path / "m")]) == 0
    file = path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_blocks": 7}))


def converted(path, end, **files):
    """A model of Transformers whose config says that a text ends with ``end``."""
    write(path / "run")
    assert main(["convert", str(path / "run"), str(path / "m")]) == 0
    file = path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": end}))
    for name, text in files.items():
        (path / "m" / f"{name}.json").write_text(text)


def an_end_that_is_no_number(path):
    byte_tokenizer().save_pretrained(path)
    write(path / "m", data=ShardData(path="gone"))
    (path / "tokenizer.json").rename(path / "m" / "tokenizer.json")
    (path / "m" / "end_token.json").write_text('"x"')


@pytest.mark.parametrize("end", [[], None, [0], 0])
def test_an_end_that_a_model_leaves_open_is_its_tokenizers(end, tmp_path, capsys):
    converted(tmp_path, end)
    assert open_model(tmp_path / "m", device="cpu").text_tokenizer().end_token == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is nothing there"),
        (lambda path: converted(path, None, tokenizer_config="{"), "tokenizer_config.json: it is no JSON"),
        (lambda path: converted(path, None, tokenizer_config="[]"), "it is no config of a tokenizer"),
        (lambda path: converted(path, 99999), "must be a token of its vocabulary; got number 99999"),
        (lambda path: converted(path, [-7]), "must be a token of its vocabulary; got number -7"),
        (an_end_that_is_no_number, "end_token.json: it must hold the number of the token that ends a text"),
        (lambda path: (path / "m").mkdir(), "it holds no config.json"),
        (broken_config, "it is no JSON"),
        (huggingface_of_another_kind, "a model of another architecture, 'llama'"),
        (run_of_a_task, "its tokens are no text"),
        (no_checkpoint, "it has no checkpoint yet"),
        (fewer_tokens_than_the_tokenizer, "its tokenizer has 256 tokens and its model reads 200"),
        (missing_weights, "(1 differences): model.blocks.0.mixer.value.weight is missing"),
        (damaged_weights, "m: its weights cannot be read: "),
        (a_size_that_is_no_number, "block_size must be an integer of at least 1; got 'two'"),
        (another_size, "gate.bias is (36,) there and (42,) by its config"),
    ],
)
def test_what_is_no_model_of_text_is_named(make, message, tmp_path, capsys):
    make(tmp_path)
    capsys.readouterr()
    assert main(["generate", str(tmp_path / "m"), "--prompt", "a", "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and message in err and str(tmp_path / "m") in err and "Traceback" not in err


def test_the_tokenizer_says_what_ends_a_text_where_the_model_does_not(tmp_path):
    from statemix.models.huggingface import StatemixConfig, StatemixForCausalLM

    StatemixForCausalLM(StatemixConfig(hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path / "m")
    byte_tokenizer().save_pretrained(tmp_path / "m")
    tokenizer = open_model(tmp_path / "m", device="cpu").tokenizer
    assert tokenizer.end_token == 0 and tokenizer.identity == "bytes"
    assert tokenizer.decode(tokenizer.encode(["né".encode()])[0]) == "né"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "caf\udce9"], "the prompt is not UTF-8 (at 3)"),
        ([], 'give one with --prompt "..."'),
        (
            ["--prompt", "a", "--temperature", "-1"],
            "statemix generate: temperature must be a number of at least 0; got -1.0",
        ),
        (
            ["--prompt", "a", "--top-p", "2"],
            "statemix generate: top_p must be a number above 0 and at most 1",
        ),
        (
            ["--prompt", "a", "--max-new-tokens", "0"],
            "generate: --max-new-tokens must be an integer of at least 1; got 0",
        ),
        (
            ["--prompt", "a", "--threads", "-1"],
            "generate: --threads must be an integer of at least 0; got -1",
        ),
        (["--prompt", "a", "--device", "gpu"], "device 'gpu': there is no such kind"),
        (["--prompt", "a", "--device", "meta"], "device 'meta': this machine has none"),
        (["--prompt", "a", "--seed", str(2**64)], f"seed must be at least 0 and below 2**64; got {2**64}"),
        (["--prompt", "a", "--device", "cuda:99"], "device 'cuda:99': this machine has"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message, tmp_path, capsys):
    write(tmp_path / "run")
    assert main(["generate", str(tmp_path / "run"), "--device", "cpu", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and "generate: generate" not in said


def test_the_tokenizer_of_prepared_text_is_found_beside_the_run(tmp_path):
    write(tmp_path / "run", data=ShardData(path="elsewhere"))
    from statemix.models.huggingface import byte_tokenizer

    byte_tokenizer().save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "end_token.json").write_text("0")
    opened = open_model(tmp_path / "run", device="cpu")
    assert opened.tokenizer is not None and opened.tokenizer.end_token == 0
    assert opened.tokenizer.encode([b"hi"])[0].tolist() == [104, 105]
