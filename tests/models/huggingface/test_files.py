"""Saved, loaded, sharded and converted models are the same models; what does not fit is named."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline
from transformers.utils import logging

from statemix import LanguageModel, MixerConfig, ModelConfig
from statemix.models.huggingface import (
    StatemixConfig,
    StatemixForCausalLM,
    StatemixModel,
    byte_tokenizer,
    from_huggingface,
    to_huggingface,
)
from statemix.models.huggingface.modeling import CACHE

from .small import causal_lm


@pytest.fixture(autouse=True)
def no_progress_bars():
    logging.disable_progress_bar()


def same_weights(one, other) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("mixer", ["bdlru", "hlru"])
def test_weights_that_stay_on_disk_are_brought_when_they_are_needed(tmp_path, mixer):
    model = causal_lm(mixer=mixer)
    model.save_pretrained(tmp_path / "model")
    places = dict.fromkeys(["model.embedding", "model.blocks.0", "model.norm", "lm_head"], "cpu")
    places |= dict.fromkeys(["model.blocks.1", "model.blocks.2"], "disk")
    again = StatemixForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offloaded"
    )
    assert again.model.blocks[1].mixer.value.weight.device.type == "meta"
    tokens = torch.randint(256, (2, 9))
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits)
    wanted = model.generate(tokens, max_new_tokens=5, do_sample=False)
    assert torch.equal(again.generate(tokens, max_new_tokens=5, do_sample=False), wanted)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_name_of_an_attention_that_programs_ask_for_is_taken(tmp_path, implementation):
    model = causal_lm(mixer=["bdlru", "attention"])
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation)
    batch = {
        "input_ids": torch.randint(1, 256, (2, 9)),
        "attention_mask": torch.tensor([[0] * 3 + [1] * 6, [1] * 9]),
    }
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    options = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(again.generate(**batch, **options), model.generate(**batch, **options))


@pytest.mark.parametrize("tie", [True, False])
def test_a_sharded_model_comes_back_by_the_auto_classes(tmp_path, tie):
    model = causal_lm(mixer=["bdlru", "hlru"], initial_state="learned", tie_word_embeddings=tie)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is StatemixForCausalLM and same_weights(model, again)
    assert (again.lm_head.weight is again.model.embedding.weight) == tie
    assert AutoConfig.from_pretrained(tmp_path).mixers() == model.config.mixers()
    backbone = AutoModel.from_pretrained(tmp_path)
    assert type(backbone) is StatemixModel
    tokens = torch.randint(256, (1, 6))
    hidden = backbone(tokens).last_hidden_state
    torch.testing.assert_close(hidden @ model.lm_head.weight.T, model(tokens).logits)


def test_a_saved_folder_points_to_the_package_and_holds_no_code_of_it(tmp_path):
    causal_lm().save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.py")) == ["modeling_statemix.py"]
    names: dict[str, object] = {}
    exec((tmp_path / "modeling_statemix.py").read_text(), names)
    for target in json.loads((tmp_path / "config.json").read_text())["auto_map"].values():
        assert names[target.partition(".")[2]].__module__.startswith("statemix.models.huggingface")


def test_half_precision_keeps_states_in_float32(tmp_path):
    causal_lm().save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    output = model(torch.randint(256, (1, 4)))
    assert output.logits.dtype == torch.bfloat16
    assert all(state.dtype == torch.float32 for state in getattr(output, CACHE).states)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_embeddings": True, "mlp": "gelu"},
        {"pattern": ("bdlru", "attention", "hlru"), "mlp": "none"},
        {"mixer": MixerConfig(name="hlru", block_size=3, initial_state="learned", readout="latest")},
        {"mixer": MixerConfig(name="attention", num_heads=2)},
        {"mixer": MixerConfig(name="lstm", block_size=1, num_blocks=12)},
    ],
    ids=str,
)  # fmt: skip
def test_conversion_there_and_back_loses_nothing(settings):
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=50, d_model=16, num_layers=3, **settings)).eval()
    theirs = to_huggingface(model, eos_token_id=3)
    tokens = torch.randint(50, (2, 9))
    assert torch.equal(theirs(tokens, use_cache=False).logits, model(tokens))
    again = from_huggingface(theirs)
    assert again.config == model.config and same_weights(again, model)
    assert theirs.config.eos_token_id == 3


@pytest.mark.parametrize(
    ("mixer", "pattern"),
    [
        (MixerConfig(name="attention", num_heads=2, rotary=True), ("bdlru",)),
        (MixerConfig(name="hlru", readout="latest", convolution=True), ("attention", "bdlru")),
    ],
    ids=str,
)
def test_options_of_a_mixer_that_the_pattern_leaves_out_are_left_out(mixer, pattern):
    config = ModelConfig(vocab_size=50, d_model=16, num_layers=3, mixer=mixer, pattern=pattern)
    model = LanguageModel(config).eval()
    theirs, tokens = to_huggingface(model), torch.randint(50, (2, 9))
    assert torch.equal(theirs(tokens).logits, model(tokens))
    again = from_huggingface(theirs)
    assert again.config.mixers() == config.mixers() and same_weights(again, model)


def test_sizes_of_their_own_stay_in_the_format_of_transformers():
    model = causal_lm(mixer=["bdlru", "hlru"], block_size=4, order=2)
    with pytest.raises(ValueError, match=r"sizes or options of their own, .*block_size 4, order 2"):
        from_huggingface(model)
    alone = causal_lm(mixer="hlru", block_size=4, order=2)
    assert from_huggingface(alone).config.mixer.block_size == 2


@pytest.mark.parametrize("convert", [to_huggingface, from_huggingface])
def test_what_is_no_model_of_the_right_kind_is_named(convert):
    wanted = "LanguageModel" if convert is to_huggingface else "StatemixForCausalLM"
    with pytest.raises(
        TypeError, match=f"{convert.__name__}: model must be a {wanted}; got str: .* other way"
    ):
        convert("runs/text")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_checkpoint_of_another_architecture_is_refused_and_no_weights_are_drawn_for_it(tmp_path, kind):
    sizes = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16} if kind == "llama" else {}
    other = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    other.save_pretrained(tmp_path)
    for load in (StatemixForCausalLM.from_pretrained, StatemixConfig.from_pretrained):
        with pytest.raises(ValueError, match=f"another architecture, '{kind}': load it with AutoConfig"):
            load(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(other) and same_weights(again, other)


def test_words_that_are_others_in_a_config_of_transformers_are_not_kept_and_forgotten():
    with pytest.raises(
        ValueError, match=r"there is no d_model \(write hidden_size\), head_dim \(write mixer_opt"
    ):
        StatemixConfig(d_model=64, head_dim=16)
    with pytest.raises(ValueError, match=r"there is no pattern \(write mixer\)"):
        StatemixConfig(pattern=("bdlru", "attention"))
    assert StatemixConfig(of_a_program="its own").of_a_program == "its own"


def test_a_model_of_a_task_is_no_language_model():
    model = LanguageModel(ModelConfig(vocab_size=5, output_size=7, d_model=8))
    with pytest.raises(ValueError, match="reads 5 tokens and predicts 7"):
        to_huggingface(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixer": "bdlur"}, "no mixer 'bdlur'; nearest: bdlru"),
        ({"mixer": []}, "a name or a list that names at least one"),
        ({"mixer": 3}, "must be a name or a list that names at least one; got 3"),
        ({"mixer": ["bdlru", 3]}, r"must be a name or a list that names at least one; got \['bdlru', 3\]"),
        ({"order": 0}, "order must be an integer of at least 1; got 0"),
        ({"hidden_size": 0}, "StatemixConfig: hidden_size must be an integer of at least 1; got 0"),
        ({"hidden_size": "32"}, "hidden_size must be an integer of at least 1; got '32'"),
        ({"vocab_size": None}, "vocab_size must be an integer of at least 1; got None"),
        ({"block_size": 2.5}, r"block_size must be an integer of at least 1; got 2\.5"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer of at least 1"),
        ({"mlp": "relu"}, "mlp must be one of .*; got 'relu'"),
        ({"readout": "latest"}, "no mixer of bdlru has the option readout"),
        ({"mixer_options": {"colour": 1}}, "unknown fields colour"),
    ],
)
def test_configs_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        StatemixConfig(**settings)


def test_an_option_goes_to_those_mixers_that_have_it():
    config = StatemixConfig(
        mixer=["bdlru", "attention", "hlru"], num_attention_heads=2, readout="latest", order=3
    )
    kinds = config.mixers()
    assert [(k.name, k.num_heads, k.readout) for k in kinds[:3]] == [
        ("bdlru", None, None), ("attention", 2, None), ("hlru", None, "latest"),
    ]  # fmt: skip
    assert (kinds[0].block_size, kinds[2].block_size) == (4, 3)


def test_the_tokenizer_reads_any_text_as_its_bytes(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        for text in (
            "plain",
            "naïve Ā Ġ 你好 \U0001f600",
            " \n\t  two  spaces",
            "".join(map(chr, range(1, 400))),
        ):
            assert one(text).input_ids == list(text.encode())
            assert one.decode(list(text.encode())) == text
        batch = one(["a", "bcd"], padding=True)
        assert batch.input_ids == [[0, 0, 97], [98, 99, 100]]
        assert batch.attention_mask == [[0, 0, 1], [1, 1, 1]]
        assert one("a\0b").input_ids == [97, 0, 98]
        assert one.decode([104, 105, 0], skip_special_tokens=True) == "hi"
        assert len(one) == one.vocab_size == 256


def test_a_pipeline_writes_on_batches_of_unequal_prompts(tmp_path):
    model, tokenizer = causal_lm(eos_token_id=0, pad_token_id=0), byte_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    write = pipeline("text-generation", model=loaded, tokenizer=AutoTokenizer.from_pretrained(tmp_path))
    prompts = ["a", "Genesis 1"]
    options = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
    together = write(prompts, batch_size=2, **options)
    for prompt, found in zip(prompts, together, strict=True):
        assert found == write(prompt, **options)
        ids = tokenizer(prompt, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=5, do_sample=False)[0, ids.input_ids.shape[1] :]
        assert found[0]["generated_text"] == tokenizer.decode(made, skip_special_tokens=True)
