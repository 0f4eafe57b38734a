"""An inspection of many cases as one HTML file that holds all it shows, and as tables and pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as Pictures

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case
from napari_prosma.data.names import file_stems
from napari_prosma.data.texts import write_rows
from napari_prosma.events import Event, Finished, Progress, Started
from napari_prosma.inspection import data_set_plots as plots
from napari_prosma.inspection import findings
from napari_prosma.inspection.citing import (
    NUMBERS,
    content_of,
    everything,
    versions,
    without_folders,
    write_numbers,
)
from napari_prosma.inspection.compare import Comparison, compare, comparison_figure
from napari_prosma.inspection.data_set import (
    PARTS,
    CaseNumbers,
    DataSetInspection,
    On,
    here,
    read_fitting_case,
)
from napari_prosma.inspection.data_set_trials import Trials
from napari_prosma.inspection.faithfulness import Row
from napari_prosma.inspection.faithfulness_plots import table_figure
from napari_prosma.inspection.measures import MEASURES
from napari_prosma.inspection.report import channel_plot, gate_panel
from napari_prosma.inspection.statistics import noting
from napari_prosma.inspection.trace import cautions, inspect_gates
from napari_prosma.inspection.trial_findings import TESTED
from napari_prosma.nn.gate_kinds import GATES

PAGE = "report.html"
TEMPLATE = "data_set.html.jinja"
DPI = 100  # of the pictures of cases
IN_PAGE = {"gates": "image and gate maps", "side_by_side": "masks of the models side by side"}
"""Figures of a case that stand in the page too, with what they show."""
PICTURES = 12
"""Cases that are drawn: those with the most unusual gating."""


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure with a plain sentence on what it shows, its intervals, and rows that no other table has."""

    name: str
    figure: Figure | None  # None where there is only something to say
    sentence: str
    intervals: list[dict[str, Any]]
    rows: Sequence[dict[str, str | float]] = ()


@dataclass(frozen=True)
class About:
    """What was inspected: a name for the data, what was found there, and what was decided about it."""

    data: str
    summary: str
    notices: tuple[str, ...] = ()


def write_data_set(
    inspection: DataSetInspection,
    cases: Sequence[Case],
    folder: Path,
    about: About,
    tests: Trials | None = None,
    pictures: int = PICTURES,
    device: str = "auto",
    on: On = here,
) -> Iterator[Event]:
    """Write ``report.html``, tables and pictures; the last event is ``Finished`` with the page's path.

    The page needs nothing but itself. Beside it: ``measures.csv`` (a row per case, model and skip),
    ``summary.csv`` (per model, skip and measure), ``cases.csv`` (per case, unusual ones first),
    ``channels.csv``, ``inspection.json`` (every number and sentence), plots (SVG), cases (PNG).

    Parameters
    ----------
    cases : those that were inspected
        The unusual ones are read again, to be drawn.
    tests : Trials, optional
        What ``run_trials`` found.
    pictures : int
        How many cases are drawn.
    on : as for ``inspect_cases``
    """
    drawn = inspection.cases[:pictures]
    by_name, stems = {case.name: case for case in cases}, file_stems(case.name for case in cases)
    yield Started(len(drawn) + 1, "Drawing the most unusual cases")
    shown: list[dict[str, Any]] = []
    for number, case in enumerate(drawn, start=1):
        figures = _pictures(inspection, by_name[case.name], device, on)
        stem = folder / "pictures" / stems[case.name]
        encoded = {
            name: _saved_picture(figure, stem.with_name(f"{stem.name}_{name}.png"))
            for name, figure in figures.items()
        }
        embedded_here = {name: _data_uri("image/png", encoded[name]) for name in IN_PAGE if name in encoded}
        shown.append({"case": case, "pictures": embedded_here, **_about_case(inspection, case)})
        yield Progress(number, len(drawn) + 1, case.name)
    overview = list(_overview(inspection))
    tested = (
        [] if tests is None else [_tested(test, rows, inspection.units) for test, rows in tests.rows.items()]
    )
    embedded: dict[str, dict[str, str]] = {}
    for plot in (*overview, *tested):
        picture = ""
        if plot.figure is not None:
            drawing = _saved_plot(plot.figure, folder / "plots" / f"{plot.name}.svg")
            picture = _data_uri("image/svg+xml", drawing)
        embedded[plot.name] = {"picture": picture, "says": plot.sentence}
        if plot.rows:
            write_rows(folder / "plots" / f"{plot.name}.csv", plot.rows)
    tables = {
        "measures": measure_rows(inspection),
        "summary": summary_rows(inspection),
        "cases": case_rows(inspection),
        "channels": channel_rows(inspection),
    }
    for name, rows in tables.items():
        if rows:
            write_rows(folder / f"{name}.csv", rows)
    said = {plot.name: plot.sentence for plot in (*overview, *tested)}
    intervals = {plot.name: plot.intervals for plot in (*overview, *tested)}
    further = {
        "about": asdict(about),
        "lead": findings.unusual(inspection),
        "cautions": {name: cautions(each) for name, each in inspection.checkpoints.items()},
        "of_cases": {case.name: _about_case(inspection, case)["says"] for case in inspection.cases},
    }
    kept = everything(inspection, tests, said, intervals, further)
    write_numbers(kept, folder / NUMBERS)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(TEMPLATE).render(
        found=inspection,
        about=about,
        when=datetime.now().astimezone().isoformat(timespec="minutes"),
        versions=versions(),
        methods=kept["methods"],
        numbers=NUMBERS,
        cautions=kept["cautions"],
        models=[_about_model(inspection, name) for name in inspection.checkpoints],
        in_page=IN_PAGE,
        plots={plot.name: embedded[plot.name] for plot in overview},
        tests=tests,
        labelled=0 if tests is None else tests.labelled,
        tested={plot.name: embedded[plot.name] for plot in tested},
        tables=_summary_tables(inspection),
        unusual=kept["lead"],
        shown=shown,
        cases=[{"case": case, **_about_case(inspection, case)} for case in inspection.cases],
        parts={part: sum(case.part == part for case in inspection.cases) for part in PARTS},
    )
    with written_whole(folder / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    yield Progress(len(drawn) + 1, len(drawn) + 1, PAGE)
    yield Finished(folder / PAGE)


# ---- tables ---------------------------------------------------------------------------------------------


def measure_rows(inspection: DataSetInspection) -> list[dict[str, str | float]]:
    """A row per case, model and skip."""
    rows: list[dict[str, str | float]] = []
    for case in inspection.cases:
        for model, numbers in case.models.items():
            known: dict[str, str | float] = {"case": case.name, "group": case.group, "part": case.part}
            known |= {"model": model, "gate": inspection.checkpoints[model].spec.gate}
            known["foreground"] = case.reference
            rows += [{**known, "skip": k, **skip.measures} for k, skip in sorted(numbers.skips.items())]
    return rows


def summary_rows(inspection: DataSetInspection) -> list[dict[str, str | float]]:
    """A row per model, skip and measure: over how many cases, mean, standard deviation, median."""
    rows: list[dict[str, str | float]] = []
    for model, checkpoint in inspection.checkpoints.items():
        for level in inspection.levels(model):
            names = dict.fromkeys(
                name
                for case in inspection.cases
                if level in case.models[model].skips
                for name in case.models[model].skips[level].measures
            )
            for name in names:
                spread = inspection.spread(model, level, name)
                assert spread is not None
                known: dict[str, str | float] = {"model": model, "gate": checkpoint.spec.gate, "skip": level}
                rows.append({**known, "measure": name, **vars(spread)})
    return rows


def case_rows(inspection: DataSetInspection) -> list[dict[str, str | float]]:
    """A row per case, unusual ones first, then those that failed."""
    rows: list[dict[str, str | float]] = []
    for case in inspection.cases:
        row: dict[str, str | float] = {"case": case.name, "group": case.group, "part": case.part}
        deviation = inspection.deviations.get(case.name)
        if deviation is not None:
            row |= {"unusual": "yes" if inspection.is_unusual(case.name) else "no", **vars(deviation)}
        for model, numbers in case.models.items():
            row |= {f"{figure} ({model})": value for figure, value in numbers.overlap.items()}
        if case.notices:
            row["notices"] = " ".join(case.notices)
        rows.append(row)
    return rows + [{"case": name, "error": why} for name, why in inspection.failed.items()]


def channel_rows(inspection: DataSetInspection) -> list[dict[str, str | float]]:
    """A row per model, skip and latent channel: mean share of zeros, in how many cases dead and open."""
    rows: list[dict[str, str | float]] = []
    for model in inspection.checkpoints:
        for level in inspection.levels(model):
            for channel, zeros in enumerate(inspection.channel_zeros(model, level).T):
                rows.append(
                    {
                        "model": model,
                        "skip": level,
                        "channel": channel,
                        "mean zero fraction": float(zeros.mean()),
                        "cases": zeros.size,
                        "dead in": int((zeros == 1).sum()),
                        "open in": int((zeros == 0).sum()),
                    }
                )
    return rows


# ---- what stands in the page ----------------------------------------------------------------------------


def _overview(inspection: DataSetInspection) -> Iterator[Plot]:
    made: dict[str, tuple[Figure | None, Callable[[DataSetInspection], str]]] = {
        "dice": (plots.overlap(inspection), findings.overlap),
        "selectivity": (plots.distribution(inspection, "selectivity"), findings.selecting),
        "relative_energy": (plots.distribution(inspection, "relative_energy_inside"), findings.focus),
        "auc": (plots.distribution(inspection, "psi_auc"), findings.telling_apart),
        "auc_in_errors": (
            plots.distribution(inspection, "psi_auc_in_errors"),
            findings.telling_apart_in_errors,
        ),
        "zeros_in_z": (plots.distribution(inspection, "z_zero_fraction"), findings.zeros_in_z),
        "without_evidence": (
            plots.distribution(inspection, "floor_pixel_fraction"),
            findings.without_evidence,
        ),
        "psi": (plots.distribution(inspection, "psi_mean"), findings.mask_level),
        "energy_ratio": (plots.distribution(inspection, "retained_energy_ratio"), findings.energy_ratio),
        "channels": (plots.channel_states(inspection), findings.channels),
        "unusual": (
            plots.unusual_against_dice(inspection),
            lambda inspected: inspected.association().in_words(),
        ),
    }
    # What models find in images without a structure, and in what they differ, is said without a Dice, too.
    is_said = len(inspection.checkpoints) > 1 or any(case.empty for case in inspection.cases)
    for name, (figure, say) in made.items():
        if figure is not None or (name == "dice" and is_said):
            with noting() as intervals:
                sentence = say(inspection)
            yield Plot(name, figure, sentence, intervals)


def _tested(test: str, rows: Sequence[Row], units: Mapping[str, str]) -> Plot:
    with noting() as intervals:
        sentence = TESTED[test](rows, units)
    return Plot(test, table_figure(test, rows), sentence, intervals, rows)


def _pictures(inspection: DataSetInspection, case: Case, device: str, on: On) -> dict[str, Figure]:
    """What a case is drawn as; with other models also their masks beside the first model's."""
    first = inspection.checkpoints[inspection.model]
    image, label = read_fitting_case(case, first)
    if len(inspection.checkpoints) == 1:
        # What has to be said of the image was said when it was inspected.
        run = on(inspect_gates)(first, image, name=case.name, label=label, device=device)
        record = next(event.result for event in run if isinstance(event, Finished))
        return {"gates": gate_panel(record), "channels": channel_plot(record)}
    events = on(compare)(inspection.checkpoints, image, label, name=case.name, device=device)
    comparison: Comparison = next(event.result for event in events if isinstance(event, Finished))
    record = comparison.records[inspection.model]
    figures = {"gates": gate_panel(record), "channels": channel_plot(record)}
    if any(skip.psi is not None for each in comparison.records.values() for skip in each.skips.values()):
        figures["side_by_side"] = comparison_figure(comparison)
    return figures


def _about_case(inspection: DataSetInspection, case: CaseNumbers) -> dict[str, Any]:
    deviation = inspection.deviations.get(case.name)
    dice = {model: numbers.overlap.get("dice") for model, numbers in case.models.items()}
    usual = "" if inspection.is_unusual(case.name) else " That is not unusual."
    return {
        "deviation": deviation,
        "says": "" if deviation is None else f"{deviation.in_words()}{usual}",
        "dice": {m: f"{d:.3f}" for m, d in dice.items() if d is not None},
    }


def _about_model(inspection: DataSetInspection, name: str) -> dict[str, Any]:
    checkpoint = inspection.checkpoints[name]
    seen = set(checkpoint.split.get("training", ()))
    config = {key: without_folders(value) for key, value in checkpoint.config.items()}
    return {
        "name": name,
        "gate": checkpoint.spec.gate,
        "file": "/".join(checkpoint.path.parts[-2:]) if checkpoint.path else "",
        "content": content_of(checkpoint),
        "widths": ", ".join(map(str, checkpoint.spec.widths)),
        "epoch": checkpoint.epoch,
        "steps": checkpoint.steps,
        "dice": checkpoint.metrics.get("dice"),
        "seen": sum(case.name in seen for case in inspection.cases),
        "plan": checkpoint.plan.in_words(),
        "config": {key: value for key, value in config.items() if value is not None},
    }


def _summary_tables(inspection: DataSetInspection) -> dict[str, dict[str, Any]]:
    """Per model the skips, and per measure the cells ``mean +- deviation``."""
    tables = {}
    for model in inspection.checkpoints:
        levels, rows = inspection.levels(model), {}
        spec = inspection.checkpoints[model].spec
        kind = GATES[spec.gate]
        for name, measure in MEASURES.items():
            spreads = {level: inspection.spread(model, level, name) for level in levels}
            if any(spreads.values()):
                neutral = measure.neutral(kind)
                cells = [
                    "" if s is None else f"{measure.text(s.mean)} ± {measure.text(s.deviation)}"
                    for s in spreads.values()
                ]
                rows[measure.label] = ["" if neutral is None else measure.text(neutral), *cells]
        without = {level for level in levels if kind.parts and level not in spec.gated_levels}
        titles = [f"skip {level}{' (no gate)' if level in without else ''}" for level in levels]
        tables[model] = {"levels": titles, "rows": rows}
    return tables


# ---- pictures -------------------------------------------------------------------------------------------


def _saved_plot(figure: Figure, path: Path) -> bytes:
    """Written as SVG, drawn once; the same numbers give the same bytes."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return _written(path, drawn.getvalue())


def _saved_picture(figure: Figure, path: Path) -> bytes:
    """Written as PNG with 256 colours, drawn and encoded once: a third of the bytes.

    They are chosen so that none is far off: the most frequent ones would leave few to a map and its legend
    beside a photograph.
    """
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    encoded = io.BytesIO()
    drawn = Pictures.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    drawn.quantize(256, method=Pictures.Quantize.MAXCOVERAGE).save(encoded, "png")
    return _written(path, encoded.getvalue())


def _written(path: Path, content: bytes) -> bytes:
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
    return content


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
