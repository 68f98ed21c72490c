"""The scripts under ``benchmarks`` say what they take, and refuse what they do not have."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted(
    path for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py") if "def main" in path.read_text()
)


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_is_what_the_script_says_of_itself(script):
    if "matplotlib" in script.read_text():
        pytest.importorskip("matplotlib")
    ended = run(script, "--help")
    assert ended.returncode == 0 and "usage:" in ended.stdout, ended.stderr


def test_a_case_that_is_not_there_is_named_before_any_is_profiled():
    script = next(path for path in SCRIPTS if path.stem == "profile_operators")
    ended = run(script, "plain", "lang")
    assert ended.returncode == 2
    assert "no case lang; there are plain, long, odd, narrow, sigmoid" in ended.stderr
