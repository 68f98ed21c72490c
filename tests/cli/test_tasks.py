"""``statemix tasks``: every task is listed and shown, and what cannot be is answered with what can."""

import subprocess
import sys
from dataclasses import fields

import pytest

from statemix.cli import main as statemix
from statemix.cli import tasks
from statemix.tasks import CATALOG, make


def test_the_list_names_every_task_with_its_settings_and_a_sample(capsys):
    assert statemix(["tasks"]) == 0
    said = capsys.readouterr().out
    for name, found in CATALOG.items():
        assert f"\n{name} " in said
        task = make(name, **found.small)
        assert task.render(task.sample(1, seed=1)) in said
    words = said.split()
    assert {"vocabulary", "num_copied", "dictionary_seed", "modulus", "2403.17844"} <= set(words)


@pytest.mark.parametrize("arguments", [["tasks"], ["tasks", "counting"], ["tasks", "counting", "--help"], []])
def test_a_reader_who_leaves_ends_any_command_without_a_word(arguments, capsys, status_behind_a_closed_pipe):
    assert status_behind_a_closed_pipe(arguments) == 128 + 13
    assert capsys.readouterr().err == ""


def test_a_narrow_terminal_gets_what_fits(capsys, monkeypatch):
    monkeypatch.setattr(tasks, "_columns", lambda otherwise: 72)
    assert tasks.main([]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 72
    for name in CATALOG:
        assert f"\n{name} " in said
    assert "settings" not in said


@pytest.mark.parametrize("name", CATALOG)
def test_a_name_shows_samples_and_what_is_known_of_the_task(name, capsys):
    assert tasks.main([name, "--samples", "2", "--seed", "3", "--split", "test", "--step", "4"]) == 0
    said = capsys.readouterr().out
    task, found = make(name), CATALOG[name]
    batch = task.sample(2, 3, step=4, split="test")
    for wanted in (task.render(batch, 0), task.render(batch, 1), found.source):
        assert wanted in said
    said = " ".join(said.split())
    assert found.asks in said
    assert f"{task.vocab_size} in, {task.output_size} out" in said
    for axis in found.axes:
        assert axis in said
    assert all(str(size) in said for size in (found.examples or "new sequences", *found.fewer_examples))


def test_settings_are_flags(capsys):
    flags = ["--length", "9", "--vocabulary", "6", "--start-token", "--no-multi-query"]
    assert tasks.main(["in-context-recall", *flags]) == 0
    said = capsys.readouterr().out
    task = make("in-context-recall", length=9, vocabulary=6, start_token=True, multi_query=False)
    assert task.render(task.sample(3), 2) in said
    assert "start_token True" in said and "7 in, 6 out; guessing is right in 33.3%" in said


def test_help_lists_every_setting_with_its_meaning(capsys):
    for name in CATALOG:
        with pytest.raises(SystemExit) as stopped:
            tasks.main([name, "--help"])
        assert stopped.value.code == 0
        said = capsys.readouterr().out
        for field in fields(make(name)):
            assert f"--{field.name.replace('_', '-')}" in said
        assert "Examples:" not in said and ">>>" not in said
    assert "Places on the circle" not in said
    assert statemix(["tasks", "--help"]) == 0
    assert "statemix tasks NAME" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["copying"], "statemix tasks: no task 'copying'; nearest: selective-copying"),
        (["counting", "--modulus", "1"], "statemix tasks: Counting: modulus must be at least 2; got 1"),
        (["counting", "--samples", "0"], "statemix tasks: Counting.sample: batch must be at least 1; got 0"),
        (["selective-copying", "--length", "8"], "length must be at least 33; got 8"),
        (["--length", "8"], "the name of a task comes first; got '--length'"),
    ],
)
def test_what_cannot_be_shown_is_answered_with_the_reason(arguments, message, capsys):
    assert statemix(["tasks", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.out == ""


def test_what_does_not_fit_into_memory_is_answered_in_a_line(capsys):
    assert statemix(["tasks", "parity", "--length", str(10**15)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("statemix tasks: there is not enough memory here: Unable to allocate")
    assert said.err.count("\n") == 1 and said.out == ""


def test_a_reader_that_stops_early_is_answered_as_by_other_tools():
    code = "import sys; from statemix.cli import main; sys.exit(main(['tasks', 'counting', '--samples', '3000']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "counting\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 128 + 13
