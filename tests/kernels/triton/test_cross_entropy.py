"""The fused cross entropy against its formula in float64, in Triton's interpreter; and it compiles for GPUs."""

import pytest
import torch
import torch.nn.functional as F

from tests.kernels.triton.interpreter import DEVICE, compiled_code, for_each_vendor, on_a_card, runs

pytest.importorskip("triton")

pytestmark = on_a_card


def case(rows, vocabulary, dtype):
    torch.manual_seed(0)
    logits = (5 * torch.randn(rows, vocabulary, device=DEVICE)).to(dtype)
    targets = torch.randint(vocabulary, (rows,), device=DEVICE)
    targets[::3] = -100
    targets[1] = int(logits[1].argmax())
    return logits, targets


@runs
@pytest.mark.parametrize("vocabulary", [2, 7, 1000, 8192, 20_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_losses_gradients_and_right_answers(vocabulary, dtype):
    from statemix.kernels.triton.cross_entropy import cross_entropy_

    logits, targets = case(5, vocabulary, dtype)
    exact = logits.double().requires_grad_()
    wanted = F.cross_entropy(exact, targets, ignore_index=-100, reduction="none")
    (gradient,) = torch.autograd.grad(wanted.sum(), exact)
    hits = ((exact.argmax(-1) == targets) & (targets != -100)).int()
    kept = logits.clone()
    losses, right = cross_entropy_(kept, targets, -100, gradient=False)
    assert torch.equal(kept, logits)
    again, _ = cross_entropy_(kept, targets, -100, gradient=True)
    assert torch.equal(losses, again) and torch.equal(right, hits)
    torch.testing.assert_close(losses.double(), wanted.detach(), rtol=1e-5, atol=1e-5)
    tolerance = 1e-6 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(kept.double(), gradient, rtol=tolerance, atol=tolerance)
    assert (kept[targets == -100] == 0).all()


# The interpreter computes with NumPy, which warns of what a GPU does silently.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@runs
def test_rows_that_nobody_asks_hurt_nobody_and_ties_go_to_the_first():
    from statemix.kernels.triton.cross_entropy import cross_entropy_

    logits = torch.zeros(3, 10, device=DEVICE)
    logits[0] = float("nan")
    targets = torch.tensor([-100, 0, 1], device=DEVICE)
    wrong, _ = cross_entropy_(logits[:1].clone(), targets[1:2], -100, gradient=False)
    assert wrong.isnan().all()
    losses, right = cross_entropy_(logits, targets, -100, gradient=True)
    assert losses.tolist() == pytest.approx([0.0, 2.302585, 2.302585]) and right.tolist() == [0, 1, 0]
    assert (logits[0] == 0).all() and logits[1].tolist() == pytest.approx([-0.9, *[0.1] * 9])


@runs
def test_the_loss_in_pieces_takes_it(monkeypatch):
    from statemix.models import loss as module

    monkeypatch.setattr(module, "_fuses", lambda *_: True)
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 8, device=DEVICE), torch.randn(30, 8, device=DEVICE)
    targets = torch.randint(30, (11,), device=DEVICE)
    targets[4] = -100
    hidden.requires_grad_(), weight.requires_grad_()
    found = module.linear_cross_entropy(hidden, weight, targets, piece=4)
    fused = torch.autograd.grad(found.mean, [hidden, weight])
    plain = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, targets), [hidden, weight])
    assert int(found.right) == int(((hidden @ weight.T).argmax(-1) == targets).sum())
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@for_each_vendor
def test_the_kernel_compiles(target, binary, monkeypatch, tmp_path):
    from statemix.kernels.triton.cross_entropy import _cross_entropy

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    signature = {
        "logits_pointer": "*bf16", "targets_pointer": "*i64", "losses_pointer": "*fp32",
        "right_pointer": "*i32", "vocabulary": "i32", "row_stride": "i32", "ignore_index": "i32",
    }  # fmt: skip
    constants = {"BLOCK": 8192, "GRADIENT": True}
    assert len(compiled_code(_cross_entropy, signature, constants, target, binary, warps=8)) > 1000
