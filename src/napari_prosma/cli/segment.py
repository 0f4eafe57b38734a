"""``prosma segment`` and ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from napari_prosma.cli.arguments import Device, Model, Overwrite, require_new
from napari_prosma.cli.follow import BAD_INPUT, complain, console, exit_codes, follow, notice, say
from napari_prosma.cli.tables import table
from napari_prosma.events import Event

WORST_SHOWN = 5


def segment(
    model: Model,
    images: Annotated[
        list[Path],
        typer.Argument(help="Image files, folders of them, or a CSV that lists them.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the labels.", show_default=False)],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the class probabilities.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write the entropy: 0 = sure, 1 = unsure.")
    ] = False,
    regions: Annotated[
        bool, typer.Option("--regions", help="Write a table of every connected region: size, diameter, ...")
    ] = False,
    clean: Annotated[
        list[str] | None,
        typer.Option(
            help="Clean the labels, such as 'liver:largest,holes' or '*:min=0.5,smooth=1,threshold=0.4'; may "
            "be repeated.",
            show_default=False,
        ),
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Average mirrored passes; slower, but steadier.")
    ] = False,
    format: Annotated[
        str,
        typer.Option(
            help="Format of the labels: auto, nifti, nrrd, tiff, or seg or rtstruct (in DICOM, which carries "
            "the patient's identity)."
        ),
    ] = "auto",
    meaning: Annotated[
        list[str] | None,
        typer.Option(
            help="For DICOM SEG: the term of a class, such as 'lesion=Mass' or 'liver=10200004^SCT^Liver'; "
            "may be repeated.",
            show_default=False,
        ),
    ] = None,
    descriptions: Annotated[
        bool, typer.Option("--descriptions", help="Write names and colours for ITK-SNAP beside the labels.")
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Compute on another machine: the address of its Dask scheduler, such as tcp://HOST:8786; "
            "with --stream on all of its workers, which see the files (or local: on all cores here).",
            show_default=False,
        ),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="For images larger than memory: write OME-Zarr row by row."),
    ] = False,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing labels.")] = False,
    skip_done: Annotated[
        bool, typer.Option("--skip-done", help="Skip images that already have labels.")
    ] = False,
) -> None:
    """Segment images; each result lies on its image's own grid.

    Writes NAME_labels, unless --format says otherwise, as NIfTI for volumes with a known orientation, as TIFF
    for other volumes and TIFF images, else as PNG whose gray values are the class numbers (1 looks black). A
    bad file does not end the batch. Colour becomes gray, and gray is repeated, as the model needs it. With
    --stream the same line resumes at the last finished row.

    [bold]Example:[/] prosma segment runs/busi scan1.png scan2.png --out labels --regions
    """
    with exit_codes():
        from napari_prosma.app.batch import (
            Batch,
            ImageFailed,
            ImageLeftOut,
            ImageSegmented,
            UnusualImage,
            segment_batch,
        )
        from napari_prosma.data.formats.dicom_results import IDENTITY
        from napari_prosma.model.checkpoint import load_checkpoint
        from napari_prosma.segmentation.cleaning import cleanings_from_text
        from napari_prosma.segmentation.files import Wanted, meanings_from_text

        checkpoint = load_checkpoint(model)
        cleanings = cleanings_from_text(clean or (), checkpoint.plan.class_names)
        meanings = meanings_from_text(meaning or (), checkpoint.plan.class_names)
        wanted = Wanted(
            probabilities,
            uncertainty,
            regions,
            cleanings,
            mirror,
            device,
            format=format,
            meanings=meanings,
            descriptions=descriptions,
        )
        batch = Batch(out, wanted, stream, scheduler, overwrite, skip_done)
        if wanted.is_dicom:
            say(f"{IDENTITY}: --format nifti")
        segmented: list[ImageSegmented] = []
        left_out: list[str] = []
        failed: list[str] = []

        def told(events: Iterator[Event]) -> Iterator[Event]:
            for event in events:
                match event:
                    case ImageSegmented():
                        segmented.append(event)
                        say(f"{event.name}: {event.target}")
                    case UnusualImage():
                        notice(f"{event.name}: {event.warning}")
                    case ImageLeftOut():
                        left_out.append(event.name)
                    case ImageFailed():
                        failed.append(event.name)
                        complain(event.error)
                yield event

        table_of_regions = follow(told(segment_batch(checkpoint, images, batch)))
        rows = [event.row for event in segmented if event.row is not None]
        if len(rows) > 1:
            console.print(table(rows))
        if table_of_regions is not None:
            say(str(table_of_regions))
        say(f"{len(segmented)} of {len(segmented) + len(failed)} segmented")
        if left_out:
            say(f"{len(left_out)} already had labels and were skipped")
        if failed:
            say(f"failed: {', '.join(failed)}")
            raise typer.Exit(BAD_INPUT)


def evaluate(
    predicted: Annotated[
        Path, typer.Argument(help="Folder of predicted labels, or one file.", show_default=False)
    ],
    truth: Annotated[
        Path, typer.Argument(help="Folder of reference labels, a data set, or one file.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the tables and box plots.")] = None,
    tolerance: Annotated[
        float, typer.Option(help="Tolerance of the surface Dice, in mm (else in pixels).")
    ] = 1.0,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Stored values of the reference, such as 0=background,1=liver; append ,slices if slices "
            "without any label are not labelled."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare predictions with references: Dice, IoU, surface Dice and HD95, worst cases first.

    Pairs are found by their names: scan_labels.nii.gz belongs to scan.nii.gz. A bad pair does not end it.

    [bold]Example:[/] prosma evaluate labels Dataset_BUSI_with_GT --out figures
    """
    with exit_codes():
        from napari_prosma.data.atomic import require_writable
        from napari_prosma.data.labels import rule_from_text
        from napari_prosma.segmentation.evaluate import evaluate as run
        from napari_prosma.segmentation.evaluation_report import FILES, summary_rows, write_evaluation
        from napari_prosma.segmentation.pairs import find_pairs

        if out is not None:
            require_writable(out)
            require_new((out / name for name in FILES), overwrite)
        pairs = find_pairs(predicted, truth, None if classes is None else rule_from_text(classes))
        found = follow(run(pairs, tolerance))
        console.print(table(summary_rows(found)))
        worst = (f"{case.pair.name} {case.dice:.3f}" for case in found.cases[:WORST_SHOWN])
        say(f"lowest Dice: {', '.join(worst)}")
        if out is not None:
            for path in write_evaluation(found, out):
                say(str(path))
        if found.failed:
            say(f"not measured: {', '.join(found.failed)}")
            raise typer.Exit(BAD_INPUT)
