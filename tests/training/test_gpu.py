"""The same promises on a GPU, where projections run in bfloat16."""

from dataclasses import replace

import pytest
import torch

from statemix.models import MixerConfig, ModelConfig, make_model
from statemix.models.loss import next_token_loss
from statemix.text import PrepareOptions, prepare
from statemix.training import RunConfig, ShardData, open_source, train
from statemix.training.batches import ahead, batches_of_step
from statemix.training.optimizer import make_optimizer
from statemix.training.run import Run

from .small import At, numbers, small, terminate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_run_on_a_gpu_goes_on_as_if_it_never_stopped(tmp_path):
    whole = train(small(device="cuda"), out=tmp_path / "whole", progress=False)
    train(small(device="cuda"), out=tmp_path / "run", observers=[At(5, terminate)], progress=False)
    resumed = train(small(device="cuda"), out=tmp_path / "run", resume=True, progress=False)
    assert numbers(resumed.history) == numbers(whole.history)
    assert {p.dtype for p in resumed.model.parameters()} == {torch.float32}


def test_a_gpu_learns_what_a_cpu_learns():
    gpu, cpu = (train(small(device=device), progress=False) for device in ("cuda", "cpu"))
    losses = [[row["loss"] for row in run.history] for run in (gpu, cpu)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_packed_text_trains_without_waiting_for_the_gpu(tmp_path):
    """No step reads anything back: boundaries were checked where they were made, sums stay on the device."""
    rows = "".join(f'{{"text": "{"abcdef"[i % 6] * (i % 40 + 1)}"}}\n' for i in range(200))
    (tmp_path / "t.jsonl").write_text(rows)
    prepare(
        [str(tmp_path / "t.jsonl")], tmp_path / "out", PrepareOptions(validation_share=0.1), progress=False
    )
    model = ModelConfig(d_model=64, mixer=MixerConfig(block_size=2, num_blocks=32))
    data = ShardData(path=str(tmp_path / "out"), length=64)
    config = RunConfig(model=model, data=data, steps=9, batch_size=8, accumulate=2, device="cuda").resolved()
    source, device = open_source(config.data), torch.device("cuda")
    torch.manual_seed(config.seed)
    net = make_model(config.model).to(device)
    run = Run(config, net, make_optimizer(net, config.optimizer), device)
    losses = []
    for step, batches in enumerate(
        ahead(lambda s: batches_of_step(source, config, s, 0, 1), range(9), device)
    ):
        torch.cuda.set_sync_debug_mode("error" if step > 2 else "default")
        try:
            run.update(batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        losses.append(run.take_row()["loss"])
    assert losses[-1] < losses[0]
    on_cpu = train(replace(config, device="cpu", steps=1), progress=False).history[0]["loss"]
    assert losses[0] == pytest.approx(on_cpu, rel=0.02)


def test_fused_norms_gates_and_losses_train_as_the_plain_ones_do(monkeypatch):
    from statemix.models import loss, normalization, swiglu

    torch.manual_seed(0)
    config = ModelConfig(vocab_size=32_000, d_model=256, num_layers=2, mixer=MixerConfig(block_size=4))
    model = make_model(config).cuda()
    tokens = torch.randint(32_000, (8, 1025), device="cuda")

    def gradients():
        with torch.autocast("cuda", torch.bfloat16):
            found = next_token_loss(model, tokens[:, :-1], tokens[:, 1:])
        return found, torch.autograd.grad(found.mean, list(model.parameters()))

    fused, of_fused = gradients()
    for module in (loss, normalization, swiglu):
        monkeypatch.setattr(module, "_fuses", lambda *_: False)
    plain, of_plain = gradients()
    assert fused.mean.item() == pytest.approx(plain.mean.item(), rel=1e-4)
    assert abs(int(fused.right) - int(plain.right)) <= 2
    for (name, _), one, other in zip(model.named_parameters(), of_fused, of_plain, strict=True):
        assert (one - other).norm() < 0.03 * other.norm(), name
