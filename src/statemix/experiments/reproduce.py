"""Every claim of the paper with its number: run, judge, write down."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from statemix.analysis.report import Page
from statemix.analysis.report.claims import ClaimFindings, claims_page
from statemix.files import LOCK, locked, write_json
from statemix.training.folder import RunFolderError, check_own

from .claims import CLAIMS, Budget, Claim, find_claim, verdict_of
from .claims.claim import Facts, Tell, Values
from .claims.statistics import LEVEL, mean_interval
from .sweep import Launch

_SMALLEST = (
    "At the smallest budget models are small and stop early: the numbers say who learns fast, "
    "not who learns most."
)

VERDICTS, REPORT, RUNS = "claims.json", "report.html", "runs"

_SECONDS_BETWEEN_LOOKS = 0.05


def reproduce(
    claims: Sequence[Claim], budget: Budget, out: Path, *, launch: Launch, tell: Tell = print
) -> list[dict[str, Any]]:
    """Run claims, and write verdicts and report after each; what is done already is not run again.

    Args:
        out: folder of the runs, of claims.json and of report.html. Verdicts of other claims there stay.

    Returns:
        The verdicts as they stand in claims.json.

    Raises:
        Stopped: a claim was not finished; those before it are written down.
        RunFolderError: the folder holds something else.
        SweepFolderError: the folder holds runs or measurements of another budget, or runs of another version.
    """
    check_own(out, [VERDICTS, *(f"{RUNS}/{name}" for name in CLAIMS)])
    read_verdicts(out)  # before hours are spent on others
    found: list[dict[str, Any]] = []
    for claim in claims:
        tell(f"{claim.name}: {claim.statement}")
        command = f"statemix reproduce {claim.name} --budget {budget}"
        folder = out / RUNS / claim.name
        values = claim.collect(folder, budget, launch, command, tell)
        told = claim.failures(folder), claim.facts(folder), claim.sizes(folder)
        verdict = judged(claim, values, budget, command, *told)
        tell(f"{claim.name}: {verdict['verdict']}")
        found.append(verdict)
        write_verdicts(out, found)
    return read_verdicts(out)


def judged(
    claim: Claim,
    values: Values,
    budget: Budget,
    command: str,
    failures: Mapping[str, Sequence[str]],
    facts: Facts,
    sizes: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """A verdict with all that it rests on, as claims.json holds it."""
    comparisons = claim.judge(values)
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "verdict": verdict_of(comparisons),
        "budget": budget,
        "metric": claim.metric,
        "models": list(values),
        "values": values,
        "intervals": {model: mean_interval(numbers) for model, numbers in values.items()},
        "comparisons": [asdict(comparison) for comparison in comparisons],
        "interval": f"{LEVEL:.0%}: Student's t over seeds for means, Welch's for differences",
        "notes": _notes(failures, sizes, budget),
        "crashed": len(failures.get("crashed", ())),
        "command": command,
        **facts,
    }


def _notes(
    failures: Mapping[str, Sequence[str]], sizes: Mapping[str, Sequence[int]], budget: Budget
) -> list[str]:
    notes = []
    if sizes:
        # What was matched is only known with by how much it was missed.
        told = [f"{model} {' and '.join(f'{n:,}' for n in some)}" for model, some in sizes.items()]
        notes.append(f"Parameters of whole models: {'; '.join(told)}.")
    for status, names in failures.items():
        counted = ", ".join(f"{name} {names.count(name)}" for name in dict.fromkeys(names))
        notes.append(f"Runs that {status}: {counted}.")
    return [*notes, *([_SMALLEST] if budget == "minutes" else [])]


def read_verdicts(out: Path) -> list[dict[str, Any]]:
    """The verdicts in a folder; none where there are none.

    Raises:
        RunFolderError: they cannot be read; those of other claims would be written over.
    """
    file = out / VERDICTS
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_bytes())
        for verdict in found:
            _shown(verdict)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"a verdict has no {error}" if isinstance(error, KeyError) else str(error)
        raise RunFolderError(
            f"folder {out}: {VERDICTS} is damaged: {what}; move it away, and the verdicts are made again"
        ) from None
    return found


def write_verdicts(out: Path, new: Sequence[dict[str, Any]]) -> None:
    """Put verdicts beside those of other claims and budgets, and write the report of all."""
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        # A collection may hold a claim at several budgets.
        kept = {(verdict["claim"], verdict["budget"]): verdict for verdict in [*read_verdicts(out), *new]}
        write_json(out / VERDICTS, list(kept.values()))
        report_of(list(kept.values())).write(out / REPORT)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Wait for a process that runs other claims into the same folder: what both read, one would drop."""
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(out / LOCK, BlockingIOError()))
            except BlockingIOError:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                continue
            yield
            return


def report_of(verdicts: Sequence[dict[str, Any]]) -> Page:
    """The page that shows verdicts."""
    findings = [_shown(verdict) for verdict in verdicts]
    names = [one.name for one in findings]
    return claims_page(
        [
            replace(one, name=f"{one.name}, {one.budget}") if names.count(one.name) > 1 else one
            for one in findings
        ]
    )


def _shown(verdict: dict[str, Any]) -> ClaimFindings:
    """What the page shows of a verdict.

    Raises:
        KeyError, TypeError, AttributeError: it is none. ValueError: this version has no such claim.
    """
    # Where every run crashed nothing says what it ran on.
    facts = f"{verdict['device'] or 'device unknown'}; {verdict['versions']}; {verdict['date']}"
    return ClaimFindings(
        name=verdict["claim"],
        statement=verdict["statement"],
        reason=find_claim(verdict["claim"]).reason,
        verdict=verdict["verdict"],
        metric=verdict["metric"],
        values=verdict["values"],
        intervals={name: tuple(i) if i else None for name, i in verdict["intervals"].items()},
        comparisons=[
            (c["wanted"], tuple(c["interval"]) if c["interval"] else None, c["answer"])
            for c in verdict["comparisons"]
        ],
        notes=verdict["notes"],
        budget=verdict["budget"],
        command=verdict["command"],
        facts=f"{facts}; commit {verdict['commit'] or 'unknown'}",
    )
