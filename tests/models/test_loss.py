"""Cross entropy in pieces: the numbers of the plain way in float64, and never all logits in memory."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from statemix.models import LanguageModel, ModelConfig, make_model
from statemix.models.loss import linear_cross_entropy, next_token_loss
from tests.nn.adapters import Adapted


def case(tokens=37, width=8, vocabulary=60, dtype=torch.float32, scale=3.0):
    torch.manual_seed(0)
    hidden = (scale * torch.randn(tokens, width)).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,))
    targets[::5] = -100
    return hidden, weight, targets


def truth(hidden, weight, targets):
    """Loss, gradients and right answers by the textbook's formula, in float64."""
    h, w = hidden.detach().double(), weight.detach().double()
    asked = targets != -100
    p = (h @ w.T).softmax(-1)
    place = targets.clamp(min=0)
    loss = -p.gather(1, place[:, None])[:, 0].log()[asked].sum()
    error = (p - F.one_hot(place, len(w))) * asked[:, None]
    right = ((h @ w.T).argmax(-1) == targets).sum()
    return loss, error @ w, error.T @ h, right, asked.sum()


class LargestTensor(TorchDispatchMode):
    """How many elements the largest tensor had that any operation made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return found


@pytest.mark.parametrize("piece", [1, 7, 36, 37, None], ids=lambda p: f"piece={p}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pieces_give_the_loss_and_gradients_of_the_formula(piece, dtype):
    hidden, weight, targets = case(dtype=dtype)
    found = linear_cross_entropy(hidden, weight, targets, piece=piece)
    (2 * found.mean).backward()
    loss, of_hidden, of_weight, right, asked = truth(hidden, weight, targets)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert found.total.dtype == dtype and (found.right, found.asked) == (right, asked)
    for one, other in (
        (found.total, loss), (hidden.grad, 2 * of_hidden / asked), (weight.grad, 2 * of_weight / asked)
    ):  # fmt: skip
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


def test_bfloat16_sums_in_float32_and_keeps_the_dtypes_of_its_gradients():
    hidden, weight, targets = case(tokens=512, dtype=torch.bfloat16, scale=1.0)
    found = linear_cross_entropy(hidden, weight, targets, piece=32)
    found.mean.backward()
    loss, of_hidden, of_weight, _, asked = truth(hidden, weight, targets)
    assert found.total.dtype == torch.float32
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    assert found.total.item() == pytest.approx(loss.item(), rel=2e-3)
    assert (hidden.grad.double() - of_hidden / asked).norm() < 0.01 * (of_hidden / asked).norm()
    assert (weight.grad.double() - of_weight / asked).norm() < 0.01 * (of_weight / asked).norm()


def test_under_autocast_products_are_bfloat16_and_gradients_float32():
    hidden, weight, targets = case(tokens=200, scale=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(hidden, weight, targets, piece=32)
    found.mean.backward()
    loss, _, of_weight, _, asked = truth(hidden, weight, targets)
    exact = linear_cross_entropy(hidden.detach(), weight.detach(), targets, piece=32)
    assert found.total != exact.total and found.total.item() == pytest.approx(loss.item(), rel=5e-3)
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32
    assert (weight.grad.double() - of_weight / asked).norm() < 0.01 * (of_weight / asked).norm()


@pytest.mark.parametrize("which", ["hidden", "weight"])
def test_a_gradient_that_nobody_wants_is_not_taken(which):
    hidden, weight, targets = case()
    wanted, other = (hidden, weight) if which == "hidden" else (weight, hidden)
    other.requires_grad_(False)
    linear_cross_entropy(hidden, weight, targets, piece=8).total.backward()
    expected = truth(hidden, weight, targets)[1 if which == "hidden" else 2]
    assert other.grad is None
    torch.testing.assert_close(wanted.grad.double(), expected, rtol=1e-5, atol=1e-5)


class Products(TorchDispatchMode):
    """How many matrix products were made."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.mm.default
        return func(*args, **(kwargs or {}))


def test_a_measurement_takes_no_gradients():
    hidden, weight, targets = case(tokens=32)
    with Products() as with_gradients:
        found = linear_cross_entropy(hidden, weight, targets, piece=8)
    with Products() as alone, torch.no_grad():
        measured = linear_cross_entropy(hidden, weight, targets, piece=8)
    assert (with_gradients.count, alone.count) == (3 * 4, 4)
    assert measured.total == found.total and not measured.total.requires_grad


def test_logits_of_a_large_vocabulary_never_stand_in_memory_whole():
    tokens, vocabulary, width = 2048, 50_000, 4
    hidden, weight, targets = case(tokens, width, vocabulary)
    with LargestTensor() as largest:
        linear_cross_entropy(hidden, weight, targets).mean.backward()
    assert tokens * vocabulary / 10 > largest.elements >= 128 * vocabulary
    with LargestTensor() as largest, torch.no_grad():
        linear_cross_entropy(hidden[:256], weight, targets[:256], piece=128)
    assert largest.elements == 128 * vocabulary


def test_the_plain_way_would_be_seen_by_that_count():
    hidden, weight, targets = case(64, 4, 1000)
    with LargestTensor() as largest:
        linear_cross_entropy(hidden, weight, targets)
    assert largest.elements == 64 * 1000


def test_what_nobody_asked_for_costs_nothing_whatever_it_holds():
    hidden, weight, targets = case()
    with torch.no_grad():
        hidden[0], targets[0] = float("inf"), -100
    for piece in (8, None):
        hidden.grad = weight.grad = None
        found = linear_cross_entropy(
            hidden[1:] if piece is None else hidden,
            weight,
            targets[1:] if piece is None else targets,
            piece=piece,
        )
        assert found.total.isfinite()
    none = linear_cross_entropy(hidden[1:], weight, torch.full((36,), -100), piece=8)
    none.mean.backward()
    assert none.mean == 0 and none.asked == 0 and (weight.grad == 0).all()


def test_right_answers_are_counted_only_where_one_is_asked():
    weight = torch.eye(4)
    hidden = torch.eye(4)[[0, 1, 2, 3, 3]]
    targets = torch.tensor([0, 1, 3, -100, 3])
    for piece in (2, None):
        found = linear_cross_entropy(hidden, weight, targets, piece=piece)
        assert (int(found.right), int(found.asked)) == (3, 4)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_learns_from_pieces_as_from_whole_logits(tied, monkeypatch):
    from statemix.models import loss as module

    model = LanguageModel(ModelConfig(vocab_size=23, d_model=8, tie_embeddings=tied)).double()
    tokens = torch.randint(23, (2, 9))
    plain = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    wanted = torch.autograd.grad(plain, list(model.parameters()))
    monkeypatch.setattr(module, "_piece", lambda *_: 3)
    found = torch.autograd.grad(
        next_token_loss(model, tokens[:, :-1], tokens[:, 1:]).mean, list(model.parameters())
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def adapted(head):
    return Adapted(head)


def hooked(head):
    head.register_forward_hook(lambda module, args, output: 2 * output)
    return head


def with_bias(head):
    biased = torch.nn.Linear(head.in_features, head.out_features, dtype=head.weight.dtype)
    biased.weight = head.weight
    torch.nn.init.normal_(biased.bias)
    return biased


@pytest.mark.parametrize("architecture", ["language-model", "autoencoder"])
@pytest.mark.parametrize("change", [adapted, hooked, with_bias])
def test_a_head_that_is_more_than_its_weight_is_asked_for_its_logits(change, architecture):
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=23, d_model=8, architecture=architecture, max_length=9)
    model = make_model(config).double()
    model.head = change(model.head)
    tokens = torch.randint(23, (2, 9))
    targets = torch.cat([tokens[:, 1:], torch.full((2, 1), -100)], 1)
    logits = model(tokens)
    wanted = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    found = next_token_loss(model, tokens, targets)
    torch.testing.assert_close(found.mean, wanted, rtol=1e-12, atol=1e-12)
    assert (found.right, found.asked) == ((logits.argmax(-1) == targets).sum(), 16)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(found.mean, parameters)
    for one, other in zip(gradients, torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    with pytest.raises(RuntimeError, match=r"is more than its weight; call model\.head"):
        _ = model.head_weight


def test_a_plain_head_is_read_and_never_called(monkeypatch):
    model = LanguageModel(ModelConfig(vocab_size=23, d_model=8))
    tokens = torch.randint(23, (2, 9))
    wanted = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    monkeypatch.setattr(LanguageModel, "_logits", None)
    torch.testing.assert_close(next_token_loss(model, tokens, tokens).mean, wanted)


# The compiler itself makes an instance of the function while it reads it.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_whole():
    hidden, weight, targets = case()
    run = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    found = run(hidden, weight, targets, piece=8)
    found.mean.backward()
    _, of_hidden, _, right, asked = truth(hidden, weight, targets)
    assert (found.right, found.asked) == (right, asked)
    torch.testing.assert_close(hidden.grad.double(), of_hidden / asked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": torch.zeros(5, 7)}, ValueError, r"weight \(V, D\); got \(37, 8\) and \(5, 7\)"),
        (
            {"targets": torch.zeros(36, dtype=torch.int64)},
            ValueError,
            r"targets must be \(37,\).*got \(36,\)",
        ),
        ({"targets": torch.zeros(37, dtype=torch.int32)}, TypeError, r"torch\.int64; got torch\.int32: cast"),
        ({"piece": 0}, ValueError, "piece must be at least 1 token; got 0"),
        ({"targets": torch.full((37,), 5000)}, ValueError, "targets must be from 0 to .*; got 5000"),
        ({"targets": torch.full((37,), -5), "piece": 8}, ValueError, "or -100 where nothing .*; got -5"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change, error, message):
    hidden, weight, targets = case()
    with pytest.raises(error, match=message):
        linear_cross_entropy(**({"hidden": hidden, "weight": weight, "targets": targets} | change))
