"""``prosma segment`` and ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_prosma.cli.arguments import INSTEAD, Device, Model, Overwrite
from napari_prosma.cli.follow import BAD_INPUT, complain, console, exit_codes, follow, notice, say
from napari_prosma.cli.tables import table

WORST_SHOWN = 5


def segment(
    model: Model,
    images: Annotated[
        list[Path],
        typer.Argument(help="Image files, folders of them, or a CSV that lists them.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the labels.", show_default=False)],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the class probabilities too.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Write the entropy too: 0 = sure, 1 = unsure.")
    ] = False,
    regions: Annotated[
        bool, typer.Option("--regions", help="Write a table of every connected piece: size, diameter, ...")
    ] = False,
    clean: Annotated[
        list[str] | None,
        typer.Option(
            help="Such as 'liver:largest,holes' or '*:min=0.5,smooth=1,threshold=0.4'; may be repeated.",
            show_default=False,
        ),
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Mean of mirrored passes: slower, steadier.")
    ] = False,
    format: Annotated[
        str,
        typer.Option(
            help="Of the labels: auto, nifti, nrrd, tiff, or seg (DICOM SEG, which carries the patient's "
            "identity)."
        ),
    ] = "auto",
    meaning: Annotated[
        list[str] | None,
        typer.Option(
            help="For DICOM SEG: what a class is, such as 'lesion=Mass' or 'liver=10200004^SCT^Liver'; may "
            "be repeated.",
            show_default=False,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Work on a Dask cluster (tcp://..., or local) and write OME-Zarr.", show_default=False
        ),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="For images larger than memory: write OME-Zarr row by row."),
    ] = False,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace labels that are there.")] = False,
    skip_done: Annotated[
        bool, typer.Option("--skip-done", help="Leave out what has labels already.")
    ] = False,
) -> None:
    """Segment images; each result lies on its image's own grid.

    NAME_labels is written, unless --format says otherwise, as NIfTI for volumes that know where the patient
    lies, as TIFF for other volumes and TIFF images, else as PNG whose gray values are the class numbers (1
    looks black). One bad file does not end the batch. Colour becomes gray, and gray is repeated, as the model
    needs it. With --stream or --scheduler a run that was stopped goes on at its last finished rows.

    [bold]Example:[/] prosma segment runs/busi scan1.png scan2.png --out labels --regions
    """
    with exit_codes():
        from napari_prosma.app.models import ImageKind, known_model
        from napari_prosma.data.atomic import require_new
        from napari_prosma.data.formats.dicom_results import IDENTITY
        from napari_prosma.errors import ConfigError, DataError, ProsmaError
        from napari_prosma.model.checkpoint import load_checkpoint
        from napari_prosma.model.header import model_file
        from napari_prosma.segmentation.batch import Record, plan_batch, read_regions, write_regions
        from napari_prosma.segmentation.files import (
            Wanted,
            cleanings_from_text,
            meanings_from_text,
            read_fitting,
            segment_file,
        )
        from napari_prosma.segmentation.scale_out import segment_to

        in_parts = stream or scheduler is not None
        if in_parts and (probabilities or uncertainty or regions or clean or format != "auto"):
            raise ConfigError(
                "what is written row by row is labels alone, as OME-Zarr; leave out --stream and "
                "--scheduler, or --probabilities, --uncertainty, --regions, --clean and --format"
            )
        checkpoint, known = load_checkpoint(model), known_model(model_file(model))
        cleanings = cleanings_from_text(clean or (), checkpoint.plan.class_names)
        meanings = meanings_from_text(meaning or (), checkpoint.plan.class_names)
        wanted = Wanted(
            probabilities, uncertainty, regions, cleanings, mirror, device, format=format, meanings=meanings
        )
        wanted.require_possible()
        if wanted.is_dicom:
            say(f"{IDENTITY}: --format nifti")
        failed: list[str] = []
        skipped: list[str] = []
        written: list[Path] = []
        rows: list[dict[str, str | float]] = []
        from_folder = any(path.is_dir() for path in images)
        planned = plan_batch(
            image_files(images), checkpoint.plan.channels, out, wanted, in_parts, from_folder
        )
        record = Record(out)
        pieces = read_regions(out) if regions else {}

        def keep_regions() -> None:
            if regions:
                say(str(write_regions(out, pieces)))

        for each in planned:
            path = each.image
            try:
                if in_parts and len(each.sources) > 1:
                    raise DataError(
                        f"'{path}' has its channels in {len(each.sources)} files, which cannot be read row "
                        f"by row; leave out --stream and --scheduler, or join them to one file"
                    )
                if skip_done and not overwrite and each.files and each.files[0].exists():
                    record.require_of(each)
                    skipped.append(path.name)
                    continue
                if not overwrite:
                    require_new(each.files, "choose another --out, --skip-done, or --overwrite it")
                image = None if in_parts else read_fitting(each.sources, checkpoint)
                if image is not None and (warning := known.warning(ImageKind.of(image))):
                    notice(f"{path.name}: {warning}")
                if image is None:
                    target = each.files[0]
                    run = segment_to(
                        checkpoint, each.sources[0], target, device=device, mirror=mirror, scheduler=scheduler
                    )
                    follow(run)
                else:
                    found = follow(segment_file(checkpoint, path, image, out, wanted))
                    target = found.files[0]
                    rows.append(found.row)
                    pieces[path.name] = list(found.regions)
                record.add(each)
                written.append(path)
                say(f"{path.name}: {target}")
            except ProsmaError as error:
                complain(error)
                failed.append(path.name)
            except BaseException:
                keep_regions()  # of what has labels by now, which --skip-done will leave out
                raise
        if len(rows) > 1:
            console.print(table(rows))
        keep_regions()
        say(f"{len(written)} of {len(written) + len(failed)} segmented")
        if skipped:
            say(f"{len(skipped)} had labels already and were left out")
        if failed:
            say(f"failed: {', '.join(failed)}")
            raise typer.Exit(BAD_INPUT)


def evaluate(
    predicted: Annotated[
        Path, typer.Argument(help="Folder of predicted labels, or one file.", show_default=False)
    ],
    truth: Annotated[
        Path, typer.Argument(help="Folder of true labels, a data set, or one file.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the tables and box plots.")] = None,
    tolerance: Annotated[float, typer.Option(help="Of the surface Dice, in mm (else in pixels).")] = 1.0,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Stored values of the truth, such as 0=background,1=liver; with ,slices behind them where a "
            "slice without any label is unlabelled."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure predictions against the truth: Dice, IoU, surface Dice and HD95, worst cases first.

    Pairs are found by their names: scan_labels.nii.gz belongs to scan.nii.gz. One bad pair does not end it.

    [bold]Example:[/] prosma evaluate labels Dataset_BUSI_with_GT --out figures
    """
    with exit_codes():
        from napari_prosma.data.atomic import require_new
        from napari_prosma.data.labels import rule_from_text
        from napari_prosma.segmentation.evaluate import evaluate as run
        from napari_prosma.segmentation.evaluation_report import FILES, summary_rows, write_evaluation
        from napari_prosma.segmentation.pairs import find_pairs

        if out is not None and not overwrite:
            require_new((out / name for name in FILES), INSTEAD)
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


def image_files(paths: list[Path]) -> list[Path]:
    """The image files of files, folders of images, and tables with a column ``image``.

    A folder that holds images in folders only, such as one per patient, gives all of these.
    """
    from napari_prosma.data.layouts.found import images_in, is_hidden
    from napari_prosma.data.readers import can_read
    from napari_prosma.errors import DataError

    files: list[Path] = []
    for path in paths:
        if path.suffix.lower() == ".csv":
            files += _listed(path)
            continue
        # A folder that is itself an image: OME-Zarr, a DICOM series.
        is_folder = path.is_dir() and not can_read(path)
        inside = [path]
        if is_folder:
            inside = sorted(p for p in path.iterdir() if not is_hidden(p.name) and can_read(p)) or images_in(
                path
            )
        if not inside:
            raise DataError(f"folder '{path}' holds no image that can be read; give image files")
        files += inside
    return files


def _listed(table: Path) -> list[Path]:
    from napari_prosma.data.texts import read_rows

    names = (row["image"] for row in read_rows(table, ("image",)))
    return [table.parent / name for name in names if name]
