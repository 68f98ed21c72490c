"""Losses without logits: the numbers of whole logits, which stand in memory only where somebody reads them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from statemix.models.huggingface import StatemixCache, StatemixForCausalLM

from .small import causal_lm


@pytest.fixture
def pieces(monkeypatch):
    """Every loss of more than three tokens is made in pieces, as that of a large vocabulary is."""
    monkeypatch.setattr("statemix.models.loss._piece", lambda *_: 3)


def small(**settings) -> StatemixForCausalLM:
    return causal_lm(hidden_size=16, num_hidden_layers=2, num_blocks=4, **settings).double().train()


def batch(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    tokens = torch.randint(256, shape)
    labels = tokens.clone()
    labels[..., ::4] = -100
    return tokens, labels


def by_hand(model: StatemixForCausalLM, tokens, labels, items=None) -> torch.Tensor:
    """The textbook's loss of whole logits, in their own dtype."""
    logits = model(tokens).logits[:, :-1].flatten(0, 1)
    wanted = labels[:, 1:].flatten()
    return F.cross_entropy(logits, wanted, reduction="sum") / (
        (wanted != -100).sum() if items is None else items
    )


def gradients(loss: torch.Tensor, model: nn.Module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize(
    "items", [None, 50, torch.tensor(50), torch.tensor(12.5), torch.tensor([[50]])], ids=str
)
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_training_makes_the_loss_and_gradients_of_whole_logits(pieces, tied, items):
    model = small(tie_word_embeddings=tied, skip_logits=True)
    tokens, labels = batch(3, 11)
    options = {} if items is None else {"num_items_in_batch": items}
    output = model(tokens, labels=labels, **options)
    wanted = by_hand(model, tokens, labels, items)
    assert output.logits is None and output.loss.shape == wanted.shape
    torch.testing.assert_close(output.loss, wanted, rtol=1e-12, atol=0)
    for one, other in zip(gradients(output.loss.sum(), model), gradients(wanted.sum(), model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_targets_may_stand_at_their_own_places_and_have_a_number_of_their_own_for_nothing(pieces):
    model = small(skip_logits=True)
    tokens, labels = batch(2, 9)
    wanted = model(tokens, labels=labels).loss
    shifted = F.pad(labels, (0, 1), value=-100)[:, 1:]
    torch.testing.assert_close(model(tokens, labels=labels, shift_labels=shifted).loss, wanted)
    renamed = labels.masked_fill(labels == -100, -1)
    torch.testing.assert_close(model(tokens, labels=renamed, ignore_index=-1).loss, wanted)
    last = model(tokens, labels=labels[:, -4:], logits_to_keep=4).loss
    logits = model(tokens).logits[:, -4:-1].flatten(0, 1)
    torch.testing.assert_close(last, F.cross_entropy(logits, labels[:, -3:].flatten()))


def test_a_batch_in_which_nothing_is_asked_leaves_the_weights_alone(pieces):
    model = small(skip_logits=True)
    tokens, labels = batch(2, 9)
    for options in ({}, {"num_items_in_batch": torch.tensor(0)}, {"num_items_in_batch": 0}):
        loss = model(tokens, labels=torch.full_like(labels, -100), **options).loss
        assert loss == 0 and not any(gradient.any() for gradient in gradients(loss, model))


class LargestTensor(TorchDispatchMode):
    """How many elements the largest tensor had that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return found


@pytest.mark.parametrize("checkpointed", [False, True])
def test_logits_of_50k_tokens_are_neither_made_whole_nor_saved(checkpointed):
    vocabulary, tokens = 50_000, torch.randint(50_000, (2, 400))
    model = causal_lm(vocab_size=vocabulary, hidden_size=8, num_hidden_layers=1, num_blocks=2).train()
    model.model.blocks.gradient_checkpointing = checkpointed
    saved = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t)
    with LargestTensor() as largest, hooks:
        model(tokens, labels=tokens, num_items_in_batch=798).loss.backward()
    assert largest.elements < tokens.numel() * vocabulary / 5
    assert max(saved) == vocabulary * 8  # the head's gradient
    with LargestTensor() as largest:
        model(tokens, labels=tokens, skip_logits=False)
    assert largest.elements >= tokens.numel() * vocabulary  # what is counted does see them
    model.eval()
    with LargestTensor() as largest, torch.no_grad():
        model(tokens, labels=tokens, skip_logits=True)
    assert largest.elements < tokens.numel() * vocabulary / 5


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("items", [None, 7], ids=["a loop of one's own", "as Trainer calls"])
def test_the_argument_then_the_config_then_the_caller_say_whether_there_are_logits(training, items):
    tokens, labels = batch(2, 5)
    for config in (None, False, True):
        for asked in (None, False, True):
            model = small(skip_logits=config).train(training)
            output = model(tokens, labels=labels, skip_logits=asked, num_items_in_batch=items)
            trains = training and items is not None
            skips = next(choice for choice in (asked, config, trains) if choice is not None)
            assert (output.logits is None) == skips
            torch.testing.assert_close(
                output.loss, by_hand(model, tokens, labels, items), check_dtype=False, rtol=1e-6, atol=0
            )
            assert model(tokens).logits.shape == (2, 5, 256)


def test_a_tuple_holds_the_loss_alone():
    tokens, labels = batch(2, 5)
    assert len(small()(tokens, labels=labels, skip_logits=True, return_dict=False)) == 1


def test_a_loss_without_labels_is_refused():
    with pytest.raises(ValueError, match="no labels to take it of: give labels, or leave skip_logits out"):
        small()(torch.randint(256, (1, 4)), skip_logits=True)


def test_a_cache_is_gone_on_from_in_training_too():
    model, cache = small(skip_logits=True), StatemixCache()
    tokens, labels = batch(2, 9)
    model(tokens[:, :4], cache=cache, labels=labels[:, :4])
    found = model(tokens[:, 4:], cache=cache, labels=labels[:, 4:]).loss
    logits = model(tokens).logits[:, 4:-1].flatten(0, 1)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels[:, 5:].flatten()))


class Doubled(nn.Linear):
    """What an adapter or a quantized head is like: its weight is not all there is to it."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_head_that_is_more_than_its_weight_is_called():
    tokens, labels = batch(2, 5)

    def doubled(model):
        head = Doubled(16, 256, bias=False).double()
        head.weight = model.lm_head.weight
        model.lm_head = head

    def biased(model):
        model.lm_head.bias = nn.Parameter(torch.randn(256).double())

    def hooked(model):
        model.lm_head.register_forward_hook(lambda head, args, out: 2 * out)

    def parametrized(model):
        nn.utils.parametrizations.weight_norm(model.lm_head)

    for change in (doubled, biased, hooked, parametrized):
        model = small()
        change(model)
        output = model(tokens, labels=labels)
        assert output.logits is not None
        torch.testing.assert_close(
            output.loss, by_hand(model, tokens, labels), check_dtype=False, rtol=1e-6, atol=0
        )


def test_a_loss_function_of_ones_own_reads_logits():
    model = small()
    tokens, labels = batch(2, 5)
    model.loss_function = lambda logits, labels, vocab_size, **_: logits.mean()
    output = model(tokens, labels=labels)
    torch.testing.assert_close(output.loss, output.logits.mean())


# The compiler itself makes an instance of the function while it reads it.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_loss_has_no_breaks(pieces):
    model = small()
    tokens, labels = batch(2, 5)
    compiled = torch.compile(
        lambda t, wanted: model(t, labels=wanted, num_items_in_batch=torch.tensor(7)).loss,
        fullgraph=True,
        backend="aot_eager",
    )
    found, wanted = compiled(tokens, labels), by_hand(model, tokens, labels, 7)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(gradients(found, model), gradients(wanted, model), strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_takes_the_head_in_its_own_dtype(pieces):
    model = small().float()
    tokens, labels = batch(2, 9)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens, labels=labels, skip_logits=True).loss
        whole = model(tokens, labels=labels, skip_logits=False).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, whole, rtol=1e-2, atol=0)
    model.bfloat16()(tokens, labels=labels, skip_logits=True).loss.backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.bfloat16}


def trainer(model, rows, folder, *, options=None, **arguments):
    from transformers import Trainer, TrainingArguments

    arguments = {
        "output_dir": str(folder), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3,
        "max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
        "report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
    } | arguments  # fmt: skip
    return Trainer(
        model, TrainingArguments(**arguments), train_dataset=rows, eval_dataset=rows, **(options or {})
    )


def rows_of_unequal_labels() -> list[dict[str, torch.Tensor]]:
    rows = [dict(zip(("input_ids", "labels"), batch(8), strict=True)) for _ in range(6)]
    for asked, row in enumerate(rows):
        row["labels"] = row["labels"].clone()
        row["labels"][2 + asked :] = -100
    return rows


def test_accumulated_gradients_are_those_of_all_batches_at_once_and_no_logits_are_made(pieces, tmp_path):
    model, rows, skipped = small(), rows_of_unequal_labels(), []
    tokens, labels = (torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels"))
    wanted = gradients(by_hand(model, tokens, labels), model)
    before = [p.detach().clone() for p in model.parameters()]
    trained = trainer(model, rows, tmp_path)
    model.register_forward_hook(lambda model, args, output: skipped.append("logits" not in output))
    trained.train()
    assert skipped == [True] * 3
    for old, new, gradient in zip(before, model.parameters(), wanted, strict=True):
        torch.testing.assert_close(old - new, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reads_logits", ["label smoothing", "a loss of one's own"])
def test_trainers_other_losses_find_the_logits_that_they_read(pieces, tmp_path, reads_logits):
    model, rows = small(), rows_of_unequal_labels()
    tokens, labels = (torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels"))

    def smooth(output, labels, num_items_in_batch=None):
        logits, wanted = output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return F.cross_entropy(logits, wanted, label_smoothing=0.1, reduction="sum") / num_items_in_batch

    items = (labels[:, 1:] != -100).sum()
    wanted = gradients(smooth(model(tokens), labels, items), model)
    before = [p.detach().clone() for p in model.parameters()]
    if reads_logits == "label smoothing":
        trained = trainer(model, rows, tmp_path, label_smoothing_factor=0.1)
    else:
        trained = trainer(model, rows, tmp_path, options={"compute_loss_func": smooth})
    trained.train()
    for old, new, gradient in zip(before, model.parameters(), wanted, strict=True):
        torch.testing.assert_close(old - new, gradient, rtol=1e-5, atol=1e-7)


def test_evaluation_hands_logits_to_metrics_and_predictions(tmp_path):
    model, rows, seen = small(), rows_of_unequal_labels(), []

    def metrics(found):
        seen.append(found.predictions.shape)
        return {}

    evaluating = trainer(
        model, rows, tmp_path, options={"compute_metrics": metrics}, batch_eval_metrics=False
    )
    loss = evaluating.evaluate()["eval_loss"]
    assert seen == [(6, 8, 256)] and evaluating.predict(rows).predictions.shape == (6, 8, 256)
    alone = trainer(model, rows, tmp_path, prediction_loss_only=True)
    assert alone.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-6)
    model.config.skip_logits = True
    assert alone.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-6)


def test_replicas_of_a_model_make_the_loss_of_their_plain_tensors(pieces):
    """DataParallel puts tensors where a module has parameters, and gathers what the outputs hold."""
    model = small(skip_logits=True)
    tokens, labels = batch(2, 5)
    wanted = model(tokens, labels=labels).loss
    replica = model._replicate_for_data_parallel()
    replica.lm_head = model.lm_head._replicate_for_data_parallel()
    replica.lm_head.weight, replica.lm_head._parameters["bias"] = model.lm_head.weight * 1, None
    assert not isinstance(replica.lm_head.weight, nn.Parameter)
    output = replica(tokens, labels=labels)
    assert set(output) == {"loss"}
    torch.testing.assert_close(output.loss, wanted)
