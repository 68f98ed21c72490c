"""Baselines on a GPU: the numbers of the CPU, and the kernels of flash-linear-attention where it is installed."""

import importlib.util

import pytest
import torch

from statemix import kernel_counts, reset_kernel_counts
from statemix.models import MIXERS, MixerConfig, make_mixer
from statemix.nn.baselines import RWKV7, DeltaNet, GatedDeltaNet, GatedDeltaProduct, Mamba2
from statemix.nn.baselines._fla import _miscompiled
from tests.truth import relative_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # cuDNN and Triton warn of their own affairs.
    pytest.mark.filterwarnings("ignore"),
]
BASELINES = [name for name in MIXERS if name not in ("bdlru", "hlru")]
WIDTH = 64


def gradients(layer, x, cotangent):
    leaves = [x, *layer.parameters()]
    y, _ = layer(x, return_state=True)
    return [y, *torch.autograd.grad(y, leaves, cotangent)]


@pytest.mark.parametrize("name", BASELINES)
def test_the_gpu_agrees_with_the_cpu(name):
    torch.manual_seed(0)
    layer = make_mixer(MixerConfig(name=name, initial_state="learned"), WIDTH)
    x = torch.randn(2, 70, WIDTH, requires_grad=True)
    cotangent = torch.randn_like(x)
    wanted = gradients(layer, x, cotangent)
    there = x.detach().cuda().requires_grad_()
    for got, exact in zip(gradients(layer.cuda(), there, cotangent.cuda()), wanted, strict=True):
        assert relative_error(got.cpu().double(), exact.double()) < 1e-3


@pytest.mark.parametrize("name", BASELINES)
def test_stacked_replicas_map_on_the_gpu(name):
    layers = [make_mixer(MixerConfig(name=name), WIDTH).cuda() for _ in range(2)]
    x = torch.randn(2, 3, 20, WIDTH, device="cuda")
    parameters, _ = torch.func.stack_module_state(layers)
    mapped = torch.func.vmap(lambda p, x: torch.func.functional_call(layers[0], p, (x,)))(parameters, x)
    for replica, layer in enumerate(layers):
        assert relative_error(mapped[replica].double(), layer(x[replica]).double()) < 1e-3


@pytest.mark.skipif(importlib.util.find_spec("fla") is None, reason="needs flash-linear-attention")
@pytest.mark.parametrize(
    ("make", "gated"),
    [
        (lambda backend: DeltaNet(WIDTH, num_heads=2, negative_eigenvalues=True, backend=backend), False),
        (lambda backend: GatedDeltaNet(WIDTH, num_heads=2, initial_state="learned", backend=backend), True),
        (lambda backend: GatedDeltaProduct(WIDTH, num_heads=2, backend=backend), True),
        (lambda backend: Mamba2(WIDTH, state_size=32, head_dim=32, backend=backend), True),
        (lambda backend: RWKV7(WIDTH, num_heads=2, backend=backend), False),
    ],
    ids=["deltanet", "gated-deltanet", "deltaproduct", "mamba2", "rwkv7"],
)
def test_fla_runs_and_agrees_with_plain_pytorch(make, gated):
    torch.manual_seed(0)
    plain, fast = make("torch").cuda().bfloat16(), make("auto").cuda().bfloat16()
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(2, 100, WIDTH, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    cotangent = torch.randn_like(x)
    reset_kernel_counts()
    got = gradients(fast, x, cotangent)
    # Gated kernels are left alone where Triton makes wrong code of them.
    ran = "torch" if gated and _miscompiled() else "fla"
    assert any(name.endswith(f".{ran}") for name in kernel_counts())
    for one, other in zip(got, gradients(plain, x, cotangent), strict=True):
        assert relative_error(one.double(), other.double()) < 0.05
