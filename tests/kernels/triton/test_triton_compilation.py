"""The Triton kernels compile for NVIDIA's and AMD's GPUs: Triton needs none of them for that."""

import importlib
import os

import pytest
import torch

from statemix.kernels.triton import scan

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"
)
HOPPER, MI300 = GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)
FLOAT32 = ("initial", "final", "grad_final", "carried", "grad_initial")
UNPACKED = ("cu_seqlens", "sequence_of")
WITHOUT_STATES = ("initial", "grad_final", "grad_hidden")


def source(kernel, constants, absent):
    """What Triton compiles at a call with aligned bfloat16 tensors and these constants; ``absent`` are None."""
    signature, fixed, known = {}, dict(constants), {}
    for place, parameter in enumerate(kernel.params):
        name = parameter.name
        if name.endswith("_lane"):
            fixed[name] = 1
        elif name in absent:
            fixed[name] = None
        if name in fixed:
            signature[name] = "constexpr"
            continue
        if name in UNPACKED:
            signature[name] = "*i32"
        elif name in FLOAT32:
            signature[name] = "*fp32"
        elif name in ("logits", "values", "hidden") or name.startswith("grad_"):
            signature[name] = "*bf16"
        else:
            signature[name] = "i32"
        if not (parameter.do_not_specialize or parameter.do_not_specialize_on_alignment):
            known[(place,)] = [["tt.divisibility", 16]]
    places = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
    return ASTSource(kernel, signature, places, known)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")  # of Triton 3.9
@pytest.mark.parametrize("name", ["_forward", "_carry", "_gate_gradient"])
@pytest.mark.parametrize(
    ("family", "target", "binary", "absent"),
    [("bdlru", HOPPER, "cubin", UNPACKED), ("hlru", MI300, "hsaco", WITHOUT_STATES)],
)
def test_kernels_compile_and_a_lane_holds_its_block_whole(
    family, target, binary, absent, name, monkeypatch, tmp_path
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(scan, "_warp_size", lambda device: target.warp_size)
    tile = scan.standing_tile if name == "_gate_gradient" else scan.walking_tile
    constants = scan.constants(tile(family, 3, 1000, torch.device("cuda")), 3, "tanh")
    warps = constants.pop("num_warps")
    kernel = getattr(importlib.import_module(f"statemix.kernels.triton.{family}"), name)
    compiled = triton.compile(source(kernel, constants, absent), target=target, options={"num_warps": warps})
    assert len(compiled.asm[binary]) > 1000
    assert compiled.metadata.shared == 0  # nothing passes between lanes


@pytest.mark.parametrize("warp", [32, 64])
@pytest.mark.parametrize(("family", "largest"), [("bdlru", 32), ("hlru", 128)])
def test_tiles_fit_registers_and_cover_the_rows(family, largest, warp, monkeypatch):
    monkeypatch.setattr(scan, "_warp_size", lambda device: warp)
    for size in range(1, largest + 1):
        for tile_of in (scan.walking_tile, scan.standing_tile):
            tile = tile_of(family, size, 1000, torch.device("cuda"))
            assert tile.rows >= size > tile.rows // 2
            assert all(n & (n - 1) == 0 for n in (tile.rows, tile.lanes, tile.warps))
            held = tile.rows * (tile.rows if family == "bdlru" else 1) * tile.lanes
            assert held <= 64 * tile.warps * warp and 1 <= tile.warps <= 8
            assert 65_535 * tile_of(family, size, 10**7, torch.device("cuda")).lanes >= 10**7
