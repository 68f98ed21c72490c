"""Layers on a GPU: the readout through views, what is kept, and several devices in one process."""

import pytest
import torch

from statemix import BDLRU, HLRU, bdlru_scan, hlru_scan
from statemix.nn.window import _plain, _WindowProduct, window_product
from tests.truth import relative_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
two_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_window_readout_through_views_equals_float64_windows(dtype, limit, packed):
    torch.manual_seed(0)
    batch, time, channels, width, order = (1, 900, 64, 96, 4) if packed else (3, 301, 64, 96, 4)
    bounds = torch.tensor([0, 2, 2, 300, 900], dtype=torch.int32, device="cuda") if packed else None
    states = 4 if packed else batch
    make = {"device": "cuda", "dtype": dtype, "requires_grad": True}
    hidden, weight = torch.randn(batch, time, channels, **make), torch.randn(width, order * channels, **make)
    initial = torch.randn(states, order, channels, device="cuda", requires_grad=True)
    inputs = (hidden, initial, weight)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    got = _WindowProduct.apply(*inputs, bounds)
    assert torch.equal(got, window_product(*inputs, bounds))
    want = _plain(*exact, bounds)
    cotangent = torch.randn_like(want)
    grads = torch.autograd.grad(got, inputs, cotangent.to(dtype))
    want_grads = torch.autograd.grad(want, exact, cotangent)
    for g, w in zip((got, *grads), (want, *want_grads), strict=True):
        assert relative_error(g, w) < limit


@pytest.mark.parametrize("make", [
    lambda **o: BDLRU(64, num_blocks=70, block_size=4, **o),
    lambda **o: HLRU(64, num_channels=70, order=4, **o),
])  # fmt: skip
def test_recomputed_gates_give_the_same_results_under_autocast(make):
    torch.manual_seed(0)
    plain, lean = make().cuda(), make(recompute_gates=True).cuda()
    lean.load_state_dict(plain.state_dict())
    found = []
    for layer in (plain, lean):
        torch.manual_seed(1)
        x = torch.randn(2, 128, 64, device="cuda", requires_grad=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = layer(x)
        y.float().square().sum().backward()
        found.append([y, x.grad, *(p.grad for p in layer.parameters())])
    # Where gates are kept, they and the values are one product.
    for one, other in zip(*found, strict=True):
        assert relative_error(one, other) < 1e-2


@two_devices
@pytest.mark.parametrize("scan", [bdlru_scan, hlru_scan])
def test_every_device_of_a_process_gives_the_same_bits(scan):
    torch.manual_seed(0)
    rows = (4, 5) if scan is bdlru_scan else (5,)
    logits = torch.randn(2, 100, *rows, 96, dtype=torch.bfloat16)
    values = torch.randn(2, 100, *rows[:-1], 96, dtype=torch.bfloat16)
    found = []
    for index in (0, 1, 0):  # device 0 stays the current one
        given = [x.to(f"cuda:{index}").requires_grad_() for x in (logits, values)]
        hidden, final = scan(*given)
        grads = torch.autograd.grad(hidden.float().square().sum() + final.sum(), given)
        assert hidden.device.index == final.device.index == index
        found.append([x.cpu() for x in (hidden, final, *grads)])
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


@two_devices
def test_devices_work_at_once_on_layers_of_their_own():
    torch.manual_seed(0)
    layers = [BDLRU(64, num_blocks=64, block_size=4).to(f"cuda:{i}") for i in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(2, 200, 64)
    ys = [layer(x.to(f"cuda:{i}")) for i, layer in enumerate(layers)]
    for y in ys:
        y.square().sum().backward()
    torch.testing.assert_close(ys[0].cpu(), ys[1].cpu())
    torch.testing.assert_close(layers[0].gate.weight.grad.cpu(), layers[1].gate.weight.grad.cpu())
