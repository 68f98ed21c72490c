"""Imports go one way: a level knows only the levels before it."""

import ast
import subprocess
import sys
from pathlib import Path

import statemix

SOURCE = Path(statemix.__file__).parent
BASE = {"shapes"}
KNOWS = {
    "shapes": set(),
    "assets": set(),
    "kernels": BASE,
    "ops": BASE | {"kernels"},
    "nn": BASE | {"kernels", "ops"},
    "models": BASE | {"kernels", "ops", "nn"},
    "tasks": BASE,
    "text": BASE,
    "training": BASE | {"kernels", "ops", "nn", "models", "tasks", "text"},
    "analysis": BASE | {"kernels", "ops", "nn", "models"},
    "bench": BASE | {"kernels", "ops", "nn", "models"},
    "distributed": BASE | {"kernels", "ops", "nn", "models"},
    "export": BASE | {"kernels", "ops", "nn", "models"},
}
KNOWS["experiments"] = {*KNOWS} - {"export", "distributed"}
KNOWS["cli"] = {*KNOWS}


def imports(path: Path):
    """Names of modules below statemix that a file imports, written out in full."""
    package = ["statemix", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*above, *([node.module] if node.module else [])])


def test_every_import_goes_down_the_levels():
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in KNOWS, f"{path} stands in a room that the architecture does not name"
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "statemix" and len(parts) > 1 and parts[1] not in {room, *KNOWS[room]}:
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert not wrong, "\n".join(wrong)


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
