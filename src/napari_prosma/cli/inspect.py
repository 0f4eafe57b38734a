"""``prosma inspect``, ``suspicious`` and ``next``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_prosma.cli.arguments import Device, Model, Overwrite, Scheduler, require_new
from napari_prosma.cli.follow import BAD_INPUT, console, describe, exit_codes, follow, notice, say
from napari_prosma.cli.tables import print_measures, table

if TYPE_CHECKING:
    import numpy as np

    from napari_prosma.data.labels import LabelRule
    from napari_prosma.inspection.record import GateRecord
    from napari_prosma.model.checkpoint import Checkpoint

SUSPICIOUS_SHOWN = 10
REPORT = ("report.html", "inspection.json", "measures.csv", "summary.csv", "cases.csv", "channels.csv")


def inspect(
    model: Model,
    data: Annotated[
        Path, typer.Argument(help="One image, or a data set in any known layout.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pictures, tables and maps.", show_default=False)],
    label: Annotated[
        Path | None,
        typer.Option(help="Label of the image, for the measures.", show_default="the prediction"),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=MODEL: another model to compare, such as one from prosma ablate; may be repeated.",
            show_default=False,
        ),
    ] = None,
    twin: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
    held_out: Annotated[bool, typer.Option("--held-out", help="Only the model's validation cases.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="At most this many cases, evenly spaced.", show_default="all"),
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Number of unusual cases to draw.")] = 12,
    tests: Annotated[
        int, typer.Option(min=0, help="Number of cases for the faithfulness tests: seconds to minutes each.")
    ] = 12,
    figure: Annotated[
        Path | None,
        typer.Option(help="One journal figure of one image: .svg, .pdf or .png.", show_default=False),
    ] = None,
    width: Annotated[
        str, typer.Option(help="Width in columns: single, one and a half, or double.")
    ] = "double",
    device: Device = "auto",
    scheduler: Scheduler = None,
    overwrite: Overwrite = False,
) -> None:
    """See what the gates of a model select on one image, or over a data set.

    For one image: NAME_gates.png and NAME_channels.png, NAME_measures.csv and NAME_channels.csv,
    NAME_inspection.json with every number, the labels, and every map on its own grid (NIfTI or TIFF).

    For a data set: report.html, one self-contained file, with the cases of unusual gating first;
    inspection.json with every number and sentence; measures.csv, summary.csv, cases.csv, channels.csv; plots
    as SVG, the rows of the tests as CSV and cases as PNG. A bad case does not end it, and the same line
    resumes what was stopped.

    [bold]Examples:[/] prosma inspect runs/busi scan1.png --label scan1_mask.png --out gates

    prosma inspect runs/busi Dataset_BUSI_with_GT --held-out --compare runs/busi/ablation/dense --out gates
    """
    with exit_codes():
        from napari_prosma.app.elsewhere import called
        from napari_prosma.data.atomic import require_writable
        from napari_prosma.data.layouts import case_from_files
        from napari_prosma.data.layouts.dicom_studies import holds_objects
        from napari_prosma.data.readers import can_read
        from napari_prosma.errors import ConfigError
        from napari_prosma.model.checkpoint import load_checkpoint

        require_writable(out)
        checkpoint = load_checkpoint(model)
        others = _others([*(compare or ()), *_renamed(twin)])
        is_image = can_read(data) and not (label is None and data.is_dir() and holds_objects(data))
        if not is_image and (data.is_dir() or data.suffix.lower() == ".csv"):
            if label is not None:
                raise ConfigError("--label is for one image; a data set has its own labels")
            if figure is not None:
                raise ConfigError("--figure is for one image; give one image of the data set")
            require_new((out / name for name in REPORT), overwrite)
            where = {"device": device, "on": partial(called, scheduler)}
            _inspect_data_set(checkpoint, data, out, others, held_out, limit, pictures, tests, where)
            return
        if held_out or limit is not None or len(others) > 1:
            raise ConfigError(
                f"'{data}' is one image; --held-out, --limit and more than one --compare need a folder of "
                "images"
            )
        from napari_prosma.inspection.data_set import read_fitting_case
        from napari_prosma.inspection.figure import gates_figure, require_drawable, save_figure
        from napari_prosma.inspection.kinship import as_learned
        from napari_prosma.inspection.one_image import ALONE, numbers_of, try_means
        from napari_prosma.inspection.report import (
            measures_table,
            numbers_file,
            report_files,
            write_report,
        )
        from napari_prosma.inspection.trace import inspect_gates
        from napari_prosma.inspection.what_if import WhatIf

        if figure is not None:
            require_drawable(figure, width)
        plan = checkpoint.plan
        case = case_from_files(data, label, class_names=plan.class_names)
        require_new((numbers_file(case.name, out), figure), overwrite)
        image, true_labels = read_fitting_case(case, checkpoint)
        of_label: list[str] = []
        if true_labels is not None:
            true_labels, words = as_learned(checkpoint, true_labels, partial(_label_by, data, label))
            of_label += [words] if words else []
            of_label += case.label_notices() if case.label_notices is not None else ()
        for line in of_label:
            notice(line)
        beside = next(iter(others.values()), None)
        events = called(scheduler, inspect_gates)(
            checkpoint, image, name=case.name, label=true_labels, second=beside, device=device
        )
        record = follow(events)
        here = device if scheduler is None else "auto"  # which is that of the worker

        def numbers(of: GateRecord, first: GateRecord | None = None) -> dict[str, Any]:
            what_if = WhatIf(of.checkpoint, of.image, name=case.name, label=true_labels, device=here)
            return numbers_of(of, follow(try_means(what_if, of)), first)

        further = {"label_notices": of_label, **numbers(record)}
        told = [*further["sentences"].values()]
        if record.second is not None:
            further["second model"] = numbers(record.second, record)
            told += [f"Model 2, {text}" for text in further["second model"]["sentences"].values()]
        print_measures(measures_table(record))
        for sentence in (*told, ALONE):
            say(sentence)
        require_new(report_files(record, out), overwrite)
        written = write_report(record, out, further)
        if figure is not None:
            written.append(save_figure(gates_figure(record, width), figure))
        say(f"{len(written)} files in {out}; the picture is {written[0]}")


def suspicious(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the maps and tables.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of labelled images; by default, those the model was trained on.", show_default=False
        ),
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """List suspicious labels: wrong ones, or cases unlike the others.

    Writes OUT/doubted_cases.csv and OUT/doubted_regions.csv, the most suspicious first, and CASE_doubt, a map
    of |p - y| (0 = the model agrees). A run with --objective dale leaves a list of its own.

    [bold]Example:[/] prosma suspicious runs/busi Dataset_BUSI_with_GT --out suspicious
    """
    with exit_codes():
        from napari_prosma.app.doubts import CASES, case_rows, doubt_files, find_doubts
        from napari_prosma.app.runs import labelled_as
        from napari_prosma.errors import ConfigError
        from napari_prosma.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(model)
        place = data or checkpoint.config.get("data")
        if place is None:
            raise ConfigError(
                f"'{model}' does not say what it was trained on; give a folder of labelled images"
            )
        data_set, notices = labelled_as(checkpoint, Path(place))
        describe(data_set, notices)
        require_new(doubt_files(out, (case.name for case in data_set.cases)), overwrite)
        found = follow(find_doubts(checkpoint, data_set.cases, out, device))
        console.print(table(case_rows(found[:SUSPICIOUS_SHOWN], checkpoint)))
        say(str(out / CASES))


def next_(
    model: Model,
    images: Annotated[
        Path,
        typer.Argument(help="Folder of images, some without a label, or one volume.", show_default=False),
    ],
    most: Annotated[int, typer.Option(min=1, help="How many to list.")] = 20,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Rank by how much mirrored passes disagree; slower.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the table as CSV.")] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """List what to annotate next: images without a label, or slices of a volume, in an order.

    First come images that the model is unsure of and that are unlike those above. It is an order, not a
    promise; the docs compare it with a random choice.

    [bold]Example:[/] prosma next runs/busi scans --most 20
    """
    with exit_codes():
        from napari_prosma.data.layouts import find_cases
        from napari_prosma.data.readers import can_read, read_image
        from napari_prosma.data.texts import write_rows
        from napari_prosma.model.checkpoint import load_checkpoint
        from napari_prosma.segmentation.informative import next_images, next_slices

        require_new([out], overwrite)
        checkpoint = load_checkpoint(model)
        if can_read(images):
            image = read_image(images)
            ranking = next_slices(checkpoint, image, images.name, most=most, mirror=mirror, device=device)
        else:
            data_set = find_cases(images, require_labels=False)
            describe(data_set)
            ranking = next_images(checkpoint, data_set.cases, most, mirror, device)
        rows = [each.row() for each in follow(ranking)]
        console.print(table(rows))
        if out is not None:
            write_rows(out, rows)
            say(str(out))


def _renamed(twin: Sequence[str] | None) -> Sequence[str]:
    """The models of an option's old name, with a notice."""
    if twin:
        notice("--twin is now called --compare; the old name will be removed")
    return twin or ()


def _others(given: Sequence[str]) -> dict[str, Checkpoint]:
    """Models by name; the name is the gate where none was given."""
    from napari_prosma.errors import ConfigError
    from napari_prosma.model.checkpoint import load_checkpoint

    others: dict[str, Checkpoint] = {}
    for text in given:
        name, _, path = ("", "", text) if Path(text).exists() else text.rpartition("=")
        if not path:
            raise ConfigError(f"--compare takes NAME=MODEL, found '{text}'; add the model's folder or file")
        other = load_checkpoint(path)
        name = name or other.spec.gate
        if name in others:
            raise ConfigError(f"two models are called '{name}'; give them names: --compare NAME=MODEL")
        others[name] = other
    return others


def _label_by(image: Path, label: Path | None, rule: LabelRule) -> np.ndarray:
    """The label of an image, read by a rule."""
    from napari_prosma.data.layouts import case_from_files

    read = case_from_files(image, label, labels=rule).read_label
    assert read is not None
    return read()


def _inspect_data_set(
    checkpoint: Checkpoint,
    data: Path,
    out: Path,
    others: dict[str, Checkpoint],
    held_out: bool,
    limit: int | None,
    pictures: int,
    tests: int,
    where: dict[str, Any],
) -> None:
    from napari_prosma.app.runs import labelled_as
    from napari_prosma.data.limits import real
    from napari_prosma.errors import ConfigError
    from napari_prosma.inspection.data_set import chosen_cases, evenly, inspect_cases
    from napari_prosma.inspection.data_set_trials import run_trials
    from napari_prosma.inspection.html import About, write_data_set

    name = checkpoint.spec.gate
    if name in others:
        raise ConfigError(
            f"the model itself is called '{name}'; give the other model another name: NAME=MODEL"
        )
    data_set, notices = labelled_as(checkpoint, data)
    cases = chosen_cases(checkpoint, data_set.cases, held_out, limit)
    describe(data_set, notices)
    found = follow(inspect_cases(checkpoint, cases, out, name=name, others=others, **where))
    about = About(real(data).name, data_set.summary, notices)
    sound = [case for case in cases if case.name not in found.failed]
    tested = None
    if tests:
        chosen = evenly(sound, tests)
        tested = follow(run_trials(checkpoint, chosen, out, name=name, others=others, **where))
    page = follow(write_data_set(found, cases, out, about, tested, pictures, **where))
    say(f"{len(found.cases)} of {len(cases)} case{'s' * (len(cases) != 1)} inspected; the report is {page}")
    if found.failed:
        say(f"left out: {', '.join(found.failed)}")
        raise typer.Exit(BAD_INPUT)
