"""The tests of ``inspection.faithfulness`` over several cases; what was tested before is not tested again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_prosma.data.case import Case
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.inspection.data_set import On, here, read_fitting_case
from napari_prosma.inspection.faithfulness import TESTS, Row, run_test, windows_in_words
from napari_prosma.inspection.kept import KeptCases
from napari_prosma.model.checkpoint import Checkpoint

CASES = 12
"""Cases that are tested unless told otherwise: each takes some hundred passes through the decoder."""
BRIEF: dict[str, dict[str, Any]] = {"deletion_curve": {"quantiles": (0.0, 0.25, 0.5, 0.75), "draws": 2}}
"""Tests that measure less than of one image, because there are many (``docs/inspect.md`` says so)."""


@dataclass(frozen=True)
class CaseTrials:
    """The rows of every test (keys of ``TESTS``) on one case, what does not apply, and what they hang on."""

    name: str
    rows: dict[str, list[dict[str, str | int | float]]]
    not_applied: dict[str, str]
    of: dict[str, str]


@dataclass(frozen=True, eq=False)
class Trials:
    """The rows of every test over all tested cases, and why a test was left out."""

    cases: int
    rows: dict[str, list[Row]]  # by test; none of a test that does not apply
    not_applied: dict[str, str]  # in words, by test: why, and in which cases where not in all

    @property
    def labelled(self) -> int:
        """Tested cases with a label."""
        return len({row["image"] for rows in self.rows.values() for row in rows if "dice" in row})

    def in_words(self) -> str:
        """What was tested, such as ``12 cases, evenly spaced; one window of each image``."""
        where = windows_in_words([row for rows in self.rows.values() for row in rows])
        cases = "1 case" if self.cases == 1 else f"{self.cases} cases, evenly spaced"
        return f"{cases}; {where}" if where else cases


def run_trials(
    checkpoint: Checkpoint,
    cases: Sequence[Case],
    folder: Path,
    *,
    name: str = "model",
    others: Mapping[str, Checkpoint] | None = None,
    device: str = "auto",
    on: On = here,
) -> Iterator[Event]:
    """Test every case; the last event is ``Finished`` with :class:`Trials`.

    The noise test compares all models, the others look at the first. A case that cannot be read is told in a
    notice and left out.

    Parameters
    ----------
    checkpoint, cases, name, others, on : as for ``inspect_cases``
    folder : Path
        Keeps a file per finished case under ``tests``.
    """
    models = {name: checkpoint, **(others or {})}
    kept = KeptCases(CaseTrials, folder / "tests", cases, models)
    tested: list[CaseTrials] = []
    yield Started(len(cases), f"Testing the gates on {len(cases)} case{'s' * (len(cases) != 1)}")
    for number, case in enumerate(cases, start=1):
        of = kept.of(case)
        trials = kept.read(case, of)
        if trials is None:
            try:
                trials = _tested(case, models, of, device, on)
            except (ProsmaError, MemoryError) as error:
                reason = str(error).removeprefix(f"'{case.name}': ")
                yield Notice(f"'{case.name}' is not tested: {reason}")
            else:
                kept.write(case, trials)
        if trials is not None:
            tested.append(trials)
        yield Progress(number, len(cases), case.name)
    rows: dict[str, list[Row]] = {
        test: [r for each in tested for r in each.rows.get(test, ())] for test in TESTS
    }
    why = {test: _not_applied(test, tested) for test in TESTS}
    not_applied = {test: said for test, said in why.items() if said}
    yield Finished(Trials(len(tested), {test: found for test, found in rows.items() if found}, not_applied))


def _not_applied(test: str, tested: Sequence[CaseTrials]) -> str:
    """Why a test was left out, and in how many cases where it was not in all; empty where in none."""
    cases: dict[str, list[str]] = {}
    for each in tested:
        if test in each.not_applied:
            cases.setdefault(each.not_applied[test], []).append(each.name)
    return "; ".join(
        f"left out: {why}"
        if len(names) == len(tested)
        else f"left out in {len(names)} of {len(tested)} cases, such as '{names[0]}': {why}"
        for why, names in cases.items()
    )


def _tested(
    case: Case, models: Mapping[str, Checkpoint], of: dict[str, str], device: str, on: On
) -> CaseTrials:
    first = next(iter(models.values()))
    image, label = read_fitting_case(case, first)
    rows: dict[str, list[dict[str, str | int | float]]] = {}
    not_applied: dict[str, str] = {}
    for test in TESTS:
        brief = BRIEF.get(test, {})
        events = on(run_test)(test, models, image, name=case.name, label=label, device=device, **brief)
        try:
            rows[test] = next(list(e.result.rows) for e in events if isinstance(e, Finished))
        except ConfigError as error:  # its gates have nothing to test so
            not_applied[test] = str(error)
    return CaseTrials(case.name, rows, not_applied, of)
