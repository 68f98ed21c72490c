"""Imports go one way: a level knows only the levels before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import statemix

SOURCE = Path(statemix.__file__).parent
BASE = {"shapes", "files", "names", "nested", "extras", "machine"}
KNOWS = {
    **{room: set() for room in [*BASE, "assets"]},
    "kernels": BASE,
    "ops": BASE | {"kernels"},
    "nn": BASE | {"kernels", "ops"},
    "models": BASE | {"kernels", "ops", "nn"},
    "tasks": BASE,
    "text": BASE,
    "training": BASE | {"kernels", "ops", "nn", "models", "tasks", "text"},
    "analysis": BASE | {"kernels", "ops", "nn", "models"},
    "bench": BASE | {"kernels", "ops", "nn", "models"},
}
KNOWS["experiments"] = {*KNOWS}
KNOWS["cli"] = {*KNOWS}
KNOWS["__main__"] = {"cli"}


def imports(path: Path, text: str | None = None):
    """Names of modules below statemix that a file imports, written out in full."""
    package = ["statemix", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text() if text is None else text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            if module == "statemix":
                yield from (f"statemix.{alias.name}" for alias in node.names)
            else:
                yield module


def is_allowed(name: str, room: str) -> bool:
    """Whether a file of a room may import that: of the package itself, which loads all rooms, its version."""
    package, *inside = name.split(".")
    return package != "statemix" or (inside or [""])[0] in {"__version__", room, *KNOWS[room]}


def test_every_import_goes_down_the_levels():
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in KNOWS, f"{path} stands in a room that the architecture does not name"
        found = [name for name in imports(path) if not is_allowed(name, room)]
        wrong += [f"{path.relative_to(SOURCE)} imports {name}" for name in found]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("from statemix.ops import bdlru_scan", True),
        ("from ..kernels import reference", True),
        ("from .. import ops", True),
        ("from . import window", True),
        ("from statemix import __version__", True),
        ("import torch", True),
        ("from statemix.models import LanguageModel", False),
        ("from statemix import models", False),
        ("from statemix import LanguageModel", False),
        ("from .. import models", False),
        ("import statemix.models", False),
        ("import statemix", False),
    ],
)
def test_every_way_to_import_is_seen(text, allowed):
    assert all(is_allowed(name, "nn") for name in imports(SOURCE / "nn" / "layer.py", text)) == allowed


def test_backends_do_not_know_each_other():
    for backend in ("reference", "cpu", "cuda", "triton"):
        for path in (SOURCE / "kernels" / backend).rglob("*.py"):
            for name in imports(path):
                others = {"reference", "cpu", "cuda", "triton"} - {backend, "reference"}
                assert not any(name.startswith(f"statemix.kernels.{other}") for other in others), path


def test_importing_statemix_brings_no_extra_and_no_compiler():
    heavy = [
        "numba",
        "torch._dynamo",
        "tyro",
        "rich",
        "tensorboard",
        "matplotlib",
        "transformers",
        "triton.language",
        "cuda",
    ]
    code = f"import sys, statemix; print([m for m in {heavy} if m in sys.modules])"
    # torch itself may bring some of these: what counts is what statemix adds.
    base = f"import sys, torch; print([m for m in {heavy} if m in sys.modules])"
    run = [
        subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True)
        for c in (code, base)
    ]
    assert run[0].stdout == run[1].stdout
