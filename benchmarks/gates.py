"""The gates of a model and its twins on the cases that all of them held out: every number with its spread.

    python benchmarks/gates.py Dataset_BUSI_with_GT runs/busi --twins runs/busi/twins --out busi_gates
    python benchmarks/gates.py Dataset_BUSI_with_GT runs/busi --twin dense=runs/dense --cases 20 --out quick

Prints a table per measure (mean and standard deviation over the cases, a column per skip) and a plain
sentence per plot; writes ``gates.json`` with every row and ``report.html`` with every plot. Stopped, the same
line goes on: finished cases are kept under ``--out``. ``--cases`` and ``--tests`` limit what is measured and
what is tested (leaving out, deletion, thresholds, random decoder, noise), evenly chosen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from napari_prosma.data.layouts import find_cases
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.events import Event, Finished, Notice, Progress
from napari_prosma.inspection import findings
from napari_prosma.inspection.data_set import DataSetInspection, chosen_cases, evenly, inspect_cases
from napari_prosma.inspection.data_set_trials import run_trials
from napari_prosma.inspection.html import About, case_rows, summary_rows, write_data_set
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint

SHOWN = (
    "z_zero_fraction",
    "floor_pixel_fraction",
    "psi_zero_fraction",
    "psi_mean",
    "psi_auc",
    "retained_energy",
    "retained_energy_inside",
    "retained_energy_outside",
    "retained_energy_ratio",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--twins", type=Path, help="folder with a run folder per gate, as of prosma ablate")
    parser.add_argument("--twin", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--cases", type=int, help="at most so many of the held-out ones; by default all")
    parser.add_argument("--tests", type=int, default=12, help="on so many of them; 0 = none")
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        measure(given)
    except ProsmaError as error:
        parser.error(str(error))


def measure(given: argparse.Namespace) -> None:
    checkpoint = load_checkpoint(given.model)
    twins = twins_of(given, checkpoint)
    name = checkpoint.spec.gate
    data = find_cases(given.data, require_labels=False)
    cases = chosen_cases(checkpoint, data.cases, held_out=True, limit=given.cases)
    seconds: dict[str, float] = {}
    run: dict[str, Any] = {"name": name, "twins": twins, "device": given.device}
    found = timed(seconds, "inspect", inspect_cases(checkpoint, cases, given.out, **run))
    sound = [case for case in cases if case.name not in found.failed]
    trials = None
    if given.tests:
        trials = timed(seconds, "test", run_trials(checkpoint, evenly(sound, given.tests), given.out, **run))
    about = About(given.data.resolve().name, data.summary, data.notices)
    writing = write_data_set(found, cases, given.out, about, trials, given.pictures, given.device)
    page = timed(seconds, "write", writing)
    print_tables(found)
    said = {
        **{say.__name__: say(found) for say in SENTENCES},
        **({} if trials is None else {t: findings.TESTED[t](rows) for t, rows in trials.rows.items()}),
    }
    for about_what, sentence in said.items():
        print(f"\n{about_what.replace('_', ' ')}: {sentence}")
    kept = {
        "models": {model: str(each.path) for model, each in found.checkpoints.items()},
        "cases": case_rows(found),
        "summary": summary_rows(found),
        "tests": {} if trials is None else trials.rows,
        "said": said,
        "seconds": seconds,
    }
    (given.out / "gates.json").write_text(json.dumps(kept, indent=1))
    print(f"\n{len(found.cases)} cases; {', '.join(f'{k} {v:.1f} s' for k, v in seconds.items())}; {page}")


SENTENCES = (
    findings.overlap,
    findings.zeros_in_z,
    findings.without_evidence,
    findings.mask_level,
    findings.telling_apart,
    findings.energy_inside,
    findings.energy_outside,
    findings.channels,
    findings.unusual,
)


def twins_of(given: argparse.Namespace, checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """Models by name, all of which held out the very cases that the first one did."""
    paths = dict(text.split("=", 1) for text in given.twin)
    if given.twins is not None:
        paths |= {folder.name: folder for folder in sorted(given.twins.iterdir()) if folder.is_dir()}
    twins = {name: load_checkpoint(path) for name, path in paths.items()}
    for name, twin in twins.items():
        if twin.split != checkpoint.split:
            raise ConfigError(
                f"'{paths[name]}' was trained on another split than '{given.model}'; train it with: prosma "
                f"twins {given.model}"
            )
    return twins


def timed(seconds: dict[str, float], what: str, events: Iterator[Event]) -> Any:
    """The result of a run, its progress on a line."""
    began, result = time.perf_counter(), None
    for event in events:
        if isinstance(event, Notice):
            print(event.message)
        elif isinstance(event, Progress):
            print(f"\r{what} {event.done} of {event.total}   ", end="", flush=True)
        elif isinstance(event, Finished):
            result = event.result
    print()
    seconds[what] = time.perf_counter() - began
    return result


def print_tables(found: DataSetInspection) -> None:
    width = max(map(len, found.checkpoints))
    for measure_name in SHOWN:
        print(f"\n{measure_name}")
        for model in found.checkpoints:
            spreads = [found.spread(model, level, measure_name) for level in found.levels(model)]
            cells = (
                "        -      " if s is None else f"{s.mean:7.3f} +-{s.deviation:6.3f}" for s in spreads
            )
            print(f"  {model:{width}}  {'  '.join(cells)}")


if __name__ == "__main__":
    main()
