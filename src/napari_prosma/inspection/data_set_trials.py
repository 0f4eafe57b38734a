"""The tests of ``inspection.faithfulness`` over several cases; what was tested before is not tested again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case
from napari_prosma.data.names import file_stems
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.inspection.data_set import On, files_of, here, read_fitting_case, what_models_hold
from napari_prosma.inspection.faithfulness import (
    TESTS,
    Row,
    deletion_curve,
    leave_one_out,
    noise_test,
    sanity_check,
    threshold_sweep,
)
from napari_prosma.inspection.kinship import is_another_training
from napari_prosma.model.checkpoint import Checkpoint

CASES = 12
"""Cases that are tested unless told otherwise: each takes some hundred passes through the decoder."""
SHARES, DRAWS = (0.0, 0.25, 0.5, 0.75), 2
"""Of the deletion curve: fewer than of one image, because there are many."""
_OF_ONE: dict[str, Callable[..., Iterator[Event]]] = {
    "leave_one_out": leave_one_out,
    "deletion_curve": partial(deletion_curve, quantiles=SHARES, draws=DRAWS),
    "threshold_sweep": threshold_sweep,
}


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
    not_applied: dict[str, str]  # in words, by test


def run_trials(
    checkpoint: Checkpoint,
    cases: Sequence[Case],
    folder: Path,
    *,
    name: str = "model",
    twins: Mapping[str, Checkpoint] | None = None,
    device: str = "auto",
    on: On = here,
) -> Iterator[Event]:
    """Test every case; the last event is ``Finished`` with :class:`Trials`.

    The noise test compares all models, the others look at the first. A case that cannot be read is told in a
    notice and left out.

    Parameters
    ----------
    checkpoint, cases, name, twins, on : as for ``inspect_cases``
    folder : Path
        Keeps a file per finished case under ``tests``.
    """
    models = {name: checkpoint, **(twins or {})}
    hashes, stems = what_models_hold(models), file_stems(case.name for case in cases)
    tested: list[CaseTrials] = []
    yield Started(len(cases), f"Testing the gates on {len(cases)} cases")
    for number, case in enumerate(cases, start=1):
        path = folder / "tests" / f"{stems[case.name]}.json"
        of = {**hashes, **files_of(case)}
        kept = _kept(path, case.name, of)
        if kept is None:
            try:
                kept = _tested(case, models, of, device, on)
            except (ProsmaError, MemoryError) as error:
                yield Notice(f"'{case.name}' is not tested: {error}")
            else:
                with written_whole(path) as temporary:
                    temporary.write_bytes(_TESTED.dump_json(kept))
        if kept is not None:
            tested.append(kept)
        yield Progress(number, len(cases), case.name)
    rows: dict[str, list[Row]] = {
        test: [r for each in tested for r in each.rows.get(test, ())] for test in TESTS
    }
    not_applied = {test: why for each in tested for test, why in each.not_applied.items()}
    yield Finished(Trials(len(tested), {test: found for test, found in rows.items() if found}, not_applied))


_TESTED = TypeAdapter(CaseTrials)


def _tested(
    case: Case, models: Mapping[str, Checkpoint], of: dict[str, str], device: str, on: On
) -> CaseTrials:
    first = next(iter(models.values()))
    other = next((model for model in models.values() if is_another_training(first, model)), None)
    image, label = read_fitting_case(case, first)
    rows: dict[str, list[dict[str, str | int | float]]] = {}
    not_applied: dict[str, str] = {}
    for test in TESTS:
        if test == "noise_test":
            events = on(noise_test)(models, image, name=case.name, label=label, device=device)
        elif test == "sanity_check":
            events = on(sanity_check)(first, image, name=case.name, label=label, device=device, other=other)
        else:
            events = on(_OF_ONE[test])(first, image, name=case.name, label=label, device=device)
        try:
            rows[test] = next(list(e.result.rows) for e in events if isinstance(e, Finished))
        except ConfigError as error:  # its gates have nothing to test so
            not_applied[test] = str(error)
    return CaseTrials(case.name, rows, not_applied, of)


def _kept(path: Path, name: str, of: Mapping[str, str]) -> CaseTrials | None:
    try:
        kept = _TESTED.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return kept if (kept.name, kept.of) == (name, dict(of)) else None
