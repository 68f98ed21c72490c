"""Training by Transformers: losses, Trainer, checkpointed blocks, compiled passes, first weights."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from statemix import LanguageModel
from statemix.models.huggingface import StatemixConfig, StatemixForCausalLM, byte_tokenizer

from .small import causal_lm, padded


def test_the_loss_is_that_of_each_next_token():
    model = causal_lm()
    batch = padded([[1, 2, 3, 4, 5], [9, 8, 6]])
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    output = model(**batch, labels=labels)
    terms = []
    for row in ([1, 2, 3, 4, 5], [9, 8, 6]):
        logits = model(torch.tensor([row])).logits[0, :-1]
        terms.append(F.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum"))
    # The first real token of a padded row is predicted from the padding before it, as always in Transformers.
    first = F.cross_entropy(output.logits[1, 1], torch.tensor(9), reduction="sum")
    torch.testing.assert_close(output.loss, (sum(terms) + first) / 7)


def test_only_the_logits_that_are_asked_for_are_made():
    model = causal_lm()
    tokens = torch.randint(256, (2, 7))
    whole = model(tokens).logits
    torch.testing.assert_close(model(tokens, logits_to_keep=2).logits, whole[:, -2:])
    hidden = model(tokens, output_hidden_states=True).hidden_states
    assert len(hidden) == 3 + 1
    torch.testing.assert_close(hidden[-1] @ model.lm_head.weight.T, whole)
    torch.testing.assert_close(hidden[0], model.model.embedding(tokens))
    torch.testing.assert_close(model(inputs_embeds=hidden[0]).logits, whole)
    torch.testing.assert_close(model(tokens, return_dict=False)[0], whole)


def test_checkpointed_blocks_give_the_same_gradients_and_keep_less():
    tokens = torch.randint(256, (2, 64))
    found = []
    for enabled in (False, True):
        model = causal_lm(mixer=["bdlru", "hlru"]).train()
        if enabled:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # a newer Transformers has another name for it
                model.gradient_checkpointing_enable()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t
        ):
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        found.append((loss, [p.grad for p in model.parameters()], sum(kept)))
    (plain, grads, bytes_plain), (again, grads_again, bytes_again) = found
    torch.testing.assert_close(again, plain)
    for one, other in zip(grads, grads_again, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)
    assert bytes_again < 0.6 * bytes_plain


def test_a_language_model_may_checkpoint_its_blocks_too():
    from statemix import ModelConfig

    tokens = torch.randint(11, (2, 8))
    grads = []
    for enabled in (False, True):
        torch.manual_seed(0)
        config = ModelConfig(vocab_size=11, d_model=16, num_layers=2, gradient_checkpointing=enabled)
        model = LanguageModel(config)
        model(tokens).square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("mixer", ["bdlru", "hlru"])
@torch.no_grad()
def test_a_compiled_pass_has_no_breaks(mixer):
    model = causal_lm(mixer=mixer)
    tokens = torch.randint(256, (2, 9))
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0
    compiled = torch.compile(
        lambda t, m: model(t, attention_mask=m, use_cache=False).logits, fullgraph=True, backend="aot_eager"
    )
    for given in (None, mask):
        wanted = model(tokens, attention_mask=given).logits
        torch.testing.assert_close(compiled(tokens, given), wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_pass_compiled_for_other_lengths_takes_a_mask():
    torch._dynamo.reset()
    model = causal_lm()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for length, masked in ((7, False), (9, False), (9, True), (11, True)):
        tokens = torch.randint(256, (2, length))
        mask = torch.ones_like(tokens)
        mask[0, :4] = 0
        options = {"attention_mask": mask} if masked else {}
        wanted = model(tokens, **options).logits
        torch.testing.assert_close(compiled(tokens, **options).logits, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning")
def test_trainer_learns_saves_and_resumes(tmp_path):
    from transformers import Trainer, TrainingArguments

    text = torch.tensor(list(b"the cat sat on the mat. " * 60))
    rows = [{"input_ids": row, "labels": row} for row in text.split(48) if len(row) == 48]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=6, max_steps=30, learning_rate=2e-2, save_steps=15,
        report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=30, gradient_checkpointing=True, seed=1,
    )  # fmt: skip

    def trainer() -> Trainer:
        torch.manual_seed(0)
        config = StatemixConfig(
            hidden_size=32, num_hidden_layers=2, num_blocks=8, eos_token_id=0, pad_token_id=0
        )
        model = StatemixForCausalLM(config)
        return Trainer(
            model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=byte_tokenizer()
        )

    one = trainer()
    one.train()
    assert one.evaluate()["eval_loss"] < 1.0  # bits of a guess are 8, nats 5.5
    other = trainer()
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-15"))
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    loaded = StatemixForCausalLM.from_pretrained(tmp_path / "checkpoint-30")
    for a, b in zip(one.model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)


def test_first_weights_are_the_language_models():
    torch.manual_seed(0)
    model = StatemixForCausalLM(StatemixConfig(hidden_size=128, num_hidden_layers=2, embedding_std=0.5))
    assert model.model.embedding.weight.std().item() == pytest.approx(0.5, rel=0.02)
    block = model.model.blocks[1]
    for weight in (
        model.lm_head.weight,
        block.mlp.up.weight,
        block.mixer.gate.weight,
        block.mixer.output.weight,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (block.mixer.gate.bias == 0).all() and (model.model.norm.weight == 1).all()


def test_first_weights_may_keep_the_size_of_signals():
    torch.manual_seed(0)
    config = StatemixConfig(hidden_size=128, mlp_init="fan-in", weight_init="fan-in")
    block = StatemixForCausalLM(config).model.blocks[1]
    for weight in (block.mlp.up.weight, block.mlp.down.weight, block.mixer.value.weight):
        assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.05)


def test_weights_that_a_file_lacks_are_drawn_and_the_others_left_alone(tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers.utils import logging

    model = causal_lm(gate_init="identity")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = [name for name in weights if name.startswith(("lm_head", "model.blocks.1.mixer."))]
    missing.append("model.blocks.0.mixer.value.weight")
    save_file({k: v for k, v in weights.items() if k not in missing}, tmp_path / "model.safetensors")
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    loaded = StatemixForCausalLM.from_pretrained(tmp_path)
    logging.set_verbosity(level)
    for name, weight in loaded.state_dict().items():
        if name not in missing:
            assert torch.equal(weight, weights[name]), name
    mixer = loaded.model.blocks[1].mixer
    assert mixer.value.weight.std().item() == pytest.approx(0.02, rel=0.2)
    diagonal = mixer.gate.bias.view(4, 5, 8)[:, :4].diagonal()
    assert (diagonal == 3).all()
    for some in (loaded.lm_head, loaded.model.blocks[0].mixer.value):
        assert some.weight.std().item() == pytest.approx(0.02, rel=0.2)
