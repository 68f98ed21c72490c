"""What the documentation says runs: README blocks, docstring examples, public names."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import statemix
from statemix.models import MIXERS
from statemix.tasks import TASKS

ROOT = Path(__file__).parents[1]
NEEDS_A_GPU = ("statemix.kernels.cuda", "statemix.kernels.triton")


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture
def tables_as_they_were():
    """Examples enter names of their own, which other tests do not know."""
    before = [(table, dict(table)) for table in (TASKS, MIXERS)]
    yield
    for table, names in before:
        table.clear()
        table.update(names)


@pytest.mark.usefixtures("tables_as_they_were")
@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_python_examples_run_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in blocks(path):
        exec(compile(block, str(path), "exec"), names)


def test_the_readme_has_an_example():
    assert blocks(ROOT / "README.md")


def modules() -> list[str]:
    found = [m.name for m in pkgutil.walk_packages(statemix.__path__, "statemix.")]
    return [name for name in found if not name.startswith(NEEDS_A_GPU) and not name.endswith("__main__")]


@pytest.mark.parametrize("name", ["statemix", *modules()])
def test_docstring_examples_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_every_public_name_exists_and_is_documented():
    for name in statemix.__all__:
        value = getattr(statemix, name)
        assert name == "__version__" or value.__doc__


def api() -> list[str]:
    return re.findall(r"^::: (.+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("name", api())
def test_every_name_of_the_api_page_exists_and_shows_an_example(name):
    if "huggingface" in name:
        pytest.importorskip("transformers")
    value = pkgutil.resolve_name(name)
    assert inspect.ismodule(value) or "Examples:" in value.__doc__


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda script: script.stem)
def test_the_commands_of_an_example_stand_in_its_help_as_they_are_typed(script):
    text = script.read_text()
    if "transformers" in text:
        pytest.importorskip("transformers")
    command = f"python examples/{script.name}"
    typed = [line for line in ast.get_docstring(ast.parse(text)).splitlines() if command in line]
    shown = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0 and typed, shown.stderr
    lines = [line.strip() for line in shown.stdout.splitlines()]
    assert [line.strip() for line in typed] == [line for line in lines if line.startswith(command)]
