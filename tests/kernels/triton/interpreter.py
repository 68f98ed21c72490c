"""What tests of Triton kernels share: where they run, that a machine without a GPU interprets them, and
that it compiles them for GPUs which it does not have."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRITON = importlib.util.find_spec("triton") is not None

runs = pytest.mark.skipif(not INTERPRETED and DEVICE == "cpu", reason="needs the interpreter or a GPU")
on_a_card = [] if INTERPRETED or DEVICE == "cpu" else [pytest.mark.gpu]


def _version(package: str) -> tuple[int, ...]:
    return tuple(map(int, importlib.metadata.version(package).split(".")[:2]))


def interpret(*files: str) -> None:
    """Run these files of tests in Triton's interpreter, which a process chooses when it imports Triton."""
    if INTERPRETED or DEVICE == "cuda":
        pytest.skip("they run themselves here")
    if not TRITON:
        pytest.skip("needs triton")
    if _version("triton") < (3, 7) and _version("numpy") >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 cannot loop with NumPy 2.4")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(HERE / file) for file in files)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


def for_each_vendor(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test for a GPU of NVIDIA's and one of AMD's: the target, and the name of the code made for it."""
    for mark in (
        pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing"),
        pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),  # of Triton 3.9
        pytest.mark.parametrize(
            ("target", "binary"),
            [(("cuda", 90, 32), "cubin"), (("hip", "gfx942", 64), "hsaco")],
            ids=["cuda", "hip"],
        ),
    ):
        test = mark(test)
    return test


def compiled_code(
    kernel: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    target: tuple[str, int | str, int],
    binary: str,
    *,
    warps: int,
) -> bytes:
    """The machine code of a kernel whose arguments have these types, or are constants."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {name: "constexpr" if name in constants else signature[name] for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, types, places)
    return triton.compile(source, target=GPUTarget(*target), options={"num_warps": warps}).asm[binary]
