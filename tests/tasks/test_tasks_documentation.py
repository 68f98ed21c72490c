"""docs/tasks.md shows every task as it is now."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from statemix.tasks import CATALOG, make

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##)", PAGE, flags=re.DOTALL | re.MULTILINE))


def test_the_page_has_the_tasks_of_the_catalog_and_no_others():
    assert set(SECTIONS) == set(CATALOG)


@pytest.mark.parametrize("name", CATALOG)
def test_a_section_shows_a_true_sample_and_the_true_settings(name):
    task, small = make(name), make(name, **CATALOG[name].small)
    picture = small.render(small.sample(1, seed=1))
    assert picture in re.sub(r"^    ", "", SECTIONS[name], flags=re.MULTILINE)
    settings = ", ".join(f"{setting}={value!r}" for setting, value in CATALOG[name].small.items())
    assert f"# {settings}\n" in SECTIONS[name]
    said = " ".join(SECTIONS[name].split())
    for field in fields(task):
        if field.name != "start_token":
            assert f"`{field.name}={getattr(task, field.name)!r}`" in said
    assert f"`(B, {task.length})` in, {task.vocab_size} tokens and {task.output_size} answers" in said


@pytest.mark.parametrize("name", CATALOG)
def test_the_table_has_the_axes_of_the_catalog(name):
    (row,) = re.findall(rf"^\| {name} \| (.*) \|$", PAGE, flags=re.MULTILINE)
    axes = dict(CATALOG[name].axes)
    if CATALOG[name].fewer_examples:
        axes["examples"] = CATALOG[name].fewer_examples
    told = "; ".join(f"`{axis}` {' '.join(map(str, values))}" for axis, values in axes.items())
    assert row == (told or "`length`")
