"""``prosma``: train, segment, evaluate, inspect and more in a shell. Exit codes: 0, 2 bad input, 130 Ctrl-C.

Nothing heavy is imported before a command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_prosma import __version__
from napari_prosma.training.options import OPTIONS

if TYPE_CHECKING:
    from rich.table import Table

    from napari_prosma.data.layouts import DataSet
    from napari_prosma.model.checkpoint import Checkpoint
    from napari_prosma.training.config import TrainConfig

app = typer.Typer(
    help="Train ProSMA-UNet on your own annotations, segment images with it, and see what each of its gated "
    "skip connections let through.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Device = Annotated[str, typer.Option(help="auto (CUDA, then MPS, then CPU), cpu, cuda or mps.")]
Model = Annotated[
    Path, typer.Argument(help="A checkpoint (.safetensors) or a run folder.", show_default=False)
]
DEMO_EPOCHS = 8
TWIN_GATES = "attention,dense,prosma-exact"
WORST_SHOWN = 5
DOUBTS_SHOWN = 10
REPORT = ("report.html", "measures.csv", "summary.csv", "cases.csv", "channels.csv")
INSTEAD = "choose another --out, or --overwrite it"


def main() -> None:
    """Entry point of ``prosma``."""
    app()


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"napari-prosma {__version__}")
        raise typer.Exit


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting of a run, in place of its ``**options``."""
    own = [
        p
        for p in signature(command, eval_str=True).parameters.values()
        if p.kind is not Parameter.VAR_KEYWORD
    ]
    added = []
    for option in OPTIONS:
        shown = {
            "help": option.help,
            "rich_help_panel": option.group,
            "show_default": option.default or False,
        }
        kind: Any = {bool: bool, list: list[str] | None}.get(option.kind, option.kind | None)
        # A flag that turns something off, such as --no-augment, is on until it is given.
        default = (option.name.startswith("--no-")) if option.kind is bool else None
        name = f" /{option.name}" if default else option.name
        annotation = Annotated[kind, typer.Option(name, **shown)]
        added.append(Parameter(option.field, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    command.__signature__ = Signature([*own, *added])  # type: ignore[attr-defined]
    return command


@app.command()
@_with_options
def train(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Images and masks whose names tell what belongs together, or a CSV of pairs.",
            show_default=False,
        ),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--out", help="Run folder for the checkpoints.", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the run in this folder, with its own settings.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    folds: Annotated[
        int | None,
        typer.Option(help="Train so many networks, each holding out another part.", show_default=False),
    ] = None,
    **options: object,
) -> None:
    """Train on a folder of annotated images.

    Writes RUN/best.safetensors (highest validation Dice) and RUN/last.safetensors, RUN/run.json (settings,
    versions, a hash of every case) and RUN/metrics.csv. Ctrl-C stops and keeps the place.

    [bold]Examples:[/] prosma train Dataset_BUSI_with_GT --out runs/busi --minutes 15 --side 128

    prosma train --resume runs/busi

    prosma train my_scans --out runs/mine --from runs/busi

    prosma train labelled_scans --out runs/few --objective dim --unlabelled other_scans

    torchrun --nproc-per-node 2 -m napari_prosma train Dataset_BUSI_with_GT --out runs/busi
    """
    from napari_prosma.cli.follow import exit_codes

    with exit_codes():
        from napari_prosma.errors import ConfigError
        from napari_prosma.training.lines import config_from_options

        if resume is not None:
            may_move = ("resume", "data", "unlabelled")
            others = [n for n in context.params if _was_given(context, n) and n not in may_move]
            if others:
                raise ConfigError(
                    f"--resume takes the settings from the run; leave out {', '.join(others)} and give its "
                    f"folder, and the folder of the data if they were moved"
                )
            moved = options.get("unlabelled")
            _resume(resume.parent if resume.is_file() else resume, data, Path(str(moved)) if moved else None)
            return
        if data is None or run_dir is None:
            raise ConfigError("give a folder of images and masks and --out RUN, or --resume RUN")
        given = {name: value for name, value in options.items() if _was_given(context, name)}
        # Whole paths, so that the run can be resumed from another working directory.
        if "unlabelled" in given:
            given["unlabelled"] = str(Path(str(given["unlabelled"])).resolve())
        config = config_from_options({**given, "data": data.resolve(), "run_dir": run_dir})
        if folds is None:
            _refuse_to_replace(config, overwrite)
        _run(config, folds, overwrite=overwrite)


@app.command()
def twins(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)],
    gates: Annotated[str, typer.Option(help="Gates of the twins, with commas.")] = TWIN_GATES,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a run folder per gate.", show_default="twins in the run's folder"),
    ] = None,
) -> None:
    """Train twins of a run: the same configuration, data, split and seed with other gates.

    The same line goes on with twins that were stopped. At the end it prints the line that shows run and
    twins side by side.

    [bold]Example:[/] prosma twins runs/busi --gates attention,dense
    """
    from napari_prosma.cli.follow import exit_codes, follow, say

    with exit_codes():
        from napari_prosma.app.runs import cases_of
        from napari_prosma.training.steering import Steering
        from napari_prosma.training.twins import read_original, train_twins

        original = read_original(run)
        data_set = cases_of(original.config)
        steering = Steering(wants_previews=False)
        wanted = [gate.strip() for gate in gates.split(",") if gate.strip()]
        try:
            events = train_twins(
                original, data_set.cases, data_set.class_names, wanted, out and out.resolve(), steering
            )
            found = follow(events, steering)
        except KeyboardInterrupt:
            say("go on with the same line")
            raise
        say(found.in_words())
        say(f"side by side: {found.inspect_line()}")


@app.command()
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

    NAME_labels is written as NIfTI for volumes that know where the patient lies, as TIFF for other volumes
    and TIFF images, else as PNG whose gray values are the class numbers (1 looks black). One bad file does
    not end the batch. Colour becomes gray, and gray is repeated, as the model needs it. With --stream or
    --scheduler a run that was stopped goes on at its last finished rows.

    [bold]Example:[/] prosma segment runs/busi scan1.png scan2.png --out labels --regions
    """
    from napari_prosma.cli.follow import BAD_INPUT, complain, console, exit_codes, follow, say

    with exit_codes():
        from napari_prosma.data.atomic import require_new
        from napari_prosma.errors import ConfigError, DataError, ProsmaError
        from napari_prosma.model.checkpoint import load_checkpoint
        from napari_prosma.segmentation.batch import Record, plan_batch, read_regions, write_regions
        from napari_prosma.segmentation.files import Wanted, cleanings_from_text, read_fitting, segment_file
        from napari_prosma.segmentation.scale_out import segment_to

        in_parts = stream or scheduler is not None
        if in_parts and (probabilities or uncertainty or regions or clean):
            raise ConfigError(
                "what is written row by row is labels alone; leave out --stream and --scheduler, or "
                "--probabilities, --uncertainty, --regions and --clean"
            )
        checkpoint = load_checkpoint(model)
        cleanings = cleanings_from_text(clean or (), checkpoint.plan.class_names)
        wanted = Wanted(probabilities, uncertainty, regions, cleanings, mirror, device)
        failed: list[str] = []
        skipped: list[str] = []
        written: list[Path] = []
        rows: list[dict[str, str | float]] = []
        from_folder = any(path.is_dir() for path in images)
        planned = plan_batch(
            _image_files(images), checkpoint.plan.channels, out, wanted, in_parts, from_folder
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
            except KeyboardInterrupt:
                keep_regions()  # of what has labels by now, which --skip-done will leave out
                raise
        if len(rows) > 1:
            console.print(_table(rows))
        keep_regions()
        say(f"{len(written)} of {len(written) + len(failed)} segmented")
        if skipped:
            say(f"{len(skipped)} had labels already and were left out")
        if failed:
            say(f"failed: {', '.join(failed)}")
            raise typer.Exit(BAD_INPUT)


@app.command()
def inspect(
    model: Model,
    data: Annotated[
        Path, typer.Argument(help="One image, or a data set in any known layout.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pictures, tables and maps.", show_default=False)],
    label: Annotated[
        Path | None,
        typer.Option(help="The true label of one image, for the measures.", show_default="the prediction"),
    ] = None,
    twin: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=MODEL: another model to compare, such as one of prosma twins; may be repeated.",
            show_default=False,
        ),
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Only the cases that the model's training held out.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many cases, evenly chosen.", show_default="all"),
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="How many unusual cases are drawn.")] = 12,
    tests: Annotated[
        int, typer.Option(min=0, help="How many cases the gates are tested on: seconds to minutes each.")
    ] = 12,
    figure: Annotated[
        Path | None,
        typer.Option(help="One figure for a journal, of one image: .svg, .pdf or .png.", show_default=False),
    ] = None,
    width: Annotated[str, typer.Option(help="Its columns: single, one and a half, or double.")] = "double",
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """See what the gates of a model select on one image, or over a data set.

    Of one image: NAME_gates.png and NAME_channels.png, NAME_measures.csv and NAME_channels.csv, the labels,
    and every map on its own grid (NIfTI or TIFF).

    Of a data set: report.html, one file for a reader or a supplement, with the cases of unusual gating first;
    measures.csv, summary.csv, cases.csv, channels.csv; and every plot as SVG, PNG and CSV. A bad case does
    not end it, and the same line goes on with what was stopped.

    [bold]Examples:[/] prosma inspect runs/busi scan1.png --label scan1_mask.png --out gates

    prosma inspect runs/busi Dataset_BUSI_with_GT --held-out --twin dense=runs/busi/twins/dense --out gates
    """
    from napari_prosma.cli.follow import exit_codes, follow, say

    with exit_codes():
        from napari_prosma.data.atomic import require_new
        from napari_prosma.data.layouts import case_from_files
        from napari_prosma.data.readers import can_read
        from napari_prosma.errors import ConfigError
        from napari_prosma.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(model)
        twins = _twins(twin or ())
        if not can_read(data) and (data.is_dir() or data.suffix.lower() == ".csv"):
            if label is not None:
                raise ConfigError("--label is of one image; a data set brings its own labels")
            if figure is not None:
                raise ConfigError("--figure is of one image; give one image of the data set")
            if not overwrite:
                require_new((out / name for name in REPORT), INSTEAD)
            _inspect_data_set(checkpoint, data, out, twins, held_out, limit, pictures, tests, device)
            return
        if held_out or limit is not None or len(twins) > 1:
            raise ConfigError(
                f"'{data}' is one image; --held-out, --limit and several twins need a folder of images"
            )
        from napari_prosma.inspection.report import measures_table, report_files, write_report
        from napari_prosma.inspection.trace import inspect_gates

        case = case_from_files(data, label, channels=checkpoint.plan.channels)
        truth = None if case.read_label is None else case.read_label()
        beside = next(iter(twins.values()), None)
        events = inspect_gates(
            checkpoint, case.read_image(), name=case.name, label=truth, twin=beside, device=device
        )
        record = follow(events)
        _print_measures(measures_table(record))
        if not overwrite:
            require_new((*report_files(record, out), *([figure] if figure else ())), INSTEAD)
        written = write_report(record, out)
        if figure is not None:
            from napari_prosma.inspection.figure import gates_figure, save_figure

            written.append(save_figure(gates_figure(record, width), figure))
        say(f"{len(written)} files in {out}; the picture is {written[0]}")


@app.command()
def doubts(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the maps and tables.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Argument(help="By default what the model learned from.", show_default=False),
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Show where a model doubts labels: wrong ones, or cases unlike the others.

    Writes OUT/doubted_cases.csv and OUT/doubted_regions.csv, the most doubtful first, and CASE_doubt, a map
    of |p - y| (0 = the model agrees). A run with --objective dale leaves a list of its own.

    [bold]Example:[/] prosma doubts runs/busi Dataset_BUSI_with_GT --out doubts
    """
    from napari_prosma.cli.follow import console, exit_codes, follow, say

    with exit_codes():
        from napari_prosma.app.doubts import CASES, case_rows, doubt_files, find_doubts
        from napari_prosma.data.atomic import require_new
        from napari_prosma.errors import ConfigError
        from napari_prosma.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(model)
        place = data or checkpoint.config.get("data")
        if place is None:
            raise ConfigError(
                f"'{model}' does not say what it learned from; give a folder of labelled images"
            )
        data_set, notices = _labelled_as(checkpoint, Path(place))
        for line in (data_set.summary, *notices):
            say(line)
        if not overwrite:
            require_new(doubt_files(out, (case.name for case in data_set.cases)), INSTEAD)
        found = follow(find_doubts(checkpoint, data_set.cases, out, device))
        console.print(_table(case_rows(found[:DOUBTS_SHOWN], checkpoint)))
        say(str(out / CASES))


@app.command()
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
    from napari_prosma.cli.follow import BAD_INPUT, console, exit_codes, follow, say

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
        console.print(_table(summary_rows(found)))
        worst = (f"{case.pair.name} {case.dice:.3f}" for case in found.cases[:WORST_SHOWN])
        say(f"lowest Dice: {', '.join(worst)}")
        if out is not None:
            for path in write_evaluation(found, out):
                say(str(path))
        if found.failed:
            say(f"not measured: {', '.join(found.failed)}")
            raise typer.Exit(BAD_INPUT)


@app.command()
def export(
    model: Model,
    onnx: Annotated[Path | None, typer.Option(help="Write an ONNX file.", show_default=False)] = None,
    bioimageio: Annotated[
        Path | None, typer.Option(help="Write a bioimage.io package (.zip).", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a model for other programs; what is written was held against PyTorch before.

    [bold]Example:[/] prosma export runs/busi --onnx busi.onnx --bioimageio busi.zip
    """
    from napari_prosma.cli.follow import exit_codes, say

    with exit_codes():
        from napari_prosma.data.atomic import require_new
        from napari_prosma.errors import ConfigError
        from napari_prosma.export.bioimageio import export_bioimageio
        from napari_prosma.export.onnx import export_onnx

        wanted = [(export_onnx, onnx), (export_bioimageio, bioimageio)]
        if not any(path for _, path in wanted):
            raise ConfigError("say what to write: --onnx FILE, --bioimageio FILE, or both")
        if not overwrite:
            require_new(
                (path for _, path in wanted if path is not None), "choose another name, or --overwrite it"
            )
        for write, path in wanted:
            if path is not None:
                say(str(write(model, path)))


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Folder with images and masks.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Write the table as CSV, too.")] = None,
    overwrite: Overwrite = False,
    images: Annotated[
        str | None, typer.Option(help="Which files are images, such as 'images/*'.", show_default="as found")
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(help="Which files are masks, such as 'masks/*'.", show_default="as found"),
    ] = None,
) -> None:
    """Look for what is wrong with a data set, case by case, with remedies, before minutes are lost.

    Shapes, frames, empty or unexpected labels, NaN, constant images, duplicates, cases in two splits. Exit
    status 2 if there are errors; warnings are worth a look.

    [bold]Example:[/] prosma check Dataset_BUSI_with_GT --out problems.csv
    """
    from napari_prosma.cli.follow import BAD_INPUT, console, exit_codes, say, track

    with exit_codes():
        from napari_prosma.data.atomic import require_new
        from napari_prosma.data.check import check_each, compare, write_table
        from napari_prosma.data.layouts import find_cases

        if out is not None and not overwrite:
            require_new([out], "choose another --out, or --overwrite it")
        data_set = find_cases(data, require_labels=False, images=images, masks=masks)
        for line in (data_set.summary, *data_set.notices):
            say(line)
        checked = list(track(check_each(data_set), len(data_set.cases), "Checking"))
        problems = [*(p for each in checked for p in each.problems), *compare(data_set, checked)]
        if problems:
            columns = {"case": "case", "": "severity", "found": "found", "remedy": "remedy"}
            console.print(
                _table([{title: getattr(p, name) for title, name in columns.items()} for p in problems])
            )
        errors = sum(problem.severity == "error" for problem in problems)
        say(f"cases: {len(checked)}; errors: {errors}; warnings and notes: {len(problems) - errors}")
        if out is not None:
            write_table(problems, out)
        if errors:
            raise typer.Exit(BAD_INPUT)


@app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(help="busi, kvasir-seg, spleen or colon (Decathlon).", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to unpack into.", show_default=False)],
) -> None:
    """Download a public data set, verified and unpacked; its licence is shown first.

    Stopped by Ctrl-C or a broken connection, the same command goes on where it was.

    [bold]Example:[/] prosma fetch kvasir-seg --out data
    """
    from napari_prosma.cli.follow import exit_codes, follow, say

    with exit_codes():
        from napari_prosma.data.fetch import fetch as run
        from napari_prosma.data.layouts import find_cases

        try:
            folder = follow(run(name, out))
        except KeyboardInterrupt:
            say("what came is kept; the same command goes on from there")
            raise
        say(f"{folder}: {find_cases(folder, require_labels=False).summary}")


@app.command()
def tune(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A checkpoint (.safetensors) or a run folder.", show_default="the default networks"
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also try to compile the network: minutes, and slower on many.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Measure how a network computes fastest on this machine, and remember it for later runs.

    Measures the memory layouts for the windows and batches of a model; with --compile also whether compiling
    gives back its time, as in later runs. Another way gives the same numbers to rounding. PROSMA_CACHE names
    another folder to remember in than the user's cache; where it is empty, nothing is remembered.

    [bold]Example:[/] prosma tune runs/busi
    """
    from napari_prosma.cli.follow import exit_codes, follow, say

    with exit_codes():
        from napari_prosma.model.checkpoint import load_checkpoint
        from napari_prosma.model.tuning import cache_file, works_of
        from napari_prosma.model.tuning import tune as run

        works = works_of(None if model is None else load_checkpoint(model), device)
        for work, measured in follow(run(works, compiled)).items():
            say(f"{work.in_words()}: {measured.in_words()}")
        file = cache_file()
        say("PROSMA_CACHE is empty: nothing is remembered" if file is None else f"remembered in {file}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run and the picture.")] = Path("demo"),
    window: Annotated[bool, typer.Option(help="Open napari at the end, where there is a display.")] = True,
    epochs: Annotated[int, typer.Option(help="Rounds of training.")] = DEMO_EPOCHS,
) -> None:
    """Train a small ProSMA-UNet on the sample ultrasound images, segment one, and show its gates.

    One to two minutes on two CPU cores. Without a display the picture is written to a PNG.
    """
    from napari_prosma.cli.follow import exit_codes, follow, say

    with exit_codes():
        from napari_prosma.data.layouts import find_cases
        from napari_prosma.data.phantoms import sample_folder
        from napari_prosma.inspection.report import measures_table, write_report
        from napari_prosma.inspection.trace import inspect_gates
        from napari_prosma.model.checkpoint import load_checkpoint
        from napari_prosma.training.config import TrainConfig
        from napari_prosma.training.run import train as run

        data_set = find_cases(sample_folder() / "ultrasound")
        say(data_set.summary)
        config = TrainConfig.of(run_dir=out / "run", widths="quick", epochs=epochs, device="cpu")
        result = follow(run(config, data_set.cases, data_set.class_names))
        checkpoint = load_checkpoint(result.best)
        held_out = checkpoint.split["validation"][0]
        case = next(case for case in data_set.cases if case.name == held_out)
        assert case.read_label is not None
        events = inspect_gates(
            checkpoint, case.read_image(), name=case.name, label=case.read_label(), device="cpu"
        )
        record = follow(events)
        _print_measures(measures_table(record))
        picture = write_report(record, out / "gates")[0]
        say(f"validation Dice {result.score:.3f}; picture of the gates: {picture.resolve()}")
        if window and _can_open_window():
            say("opening napari ...")
            viewer = [sys.executable, "-m", "napari_prosma.plugin.demo", str(result.best)]
            raise typer.Exit(subprocess.call([*viewer, *(str(path) for path in case.files)]))


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _resume(run_dir: Path, data: Path | None, unlabelled: Path | None) -> None:
    from napari_prosma.app.runs import left_run
    from napari_prosma.cli.follow import say
    from napari_prosma.training.run_folder import with_data

    left = left_run(run_dir)
    if left.is_finished:
        say(left.in_words())
        return
    _run(with_data(left.config, data, unlabelled), None, left.checkpoint)


def _run(
    config: TrainConfig, folds: int | None, resumed: Checkpoint | None = None, overwrite: bool = False
) -> None:
    from napari_prosma.app.runs import cases_of
    from napari_prosma.cli.follow import follow, say
    from napari_prosma.data.layouts import check_foreground
    from napari_prosma.training.lines import quoted
    from napari_prosma.training.run import train
    from napari_prosma.training.run_folder import RUN
    from napari_prosma.training.steering import Steering

    data_set = cases_of(config)
    for line in (data_set.summary, *data_set.notices):
        say(line)
    check_foreground(data_set)
    config = config.model_copy(update={"labels": data_set.labels})
    steering = Steering(wants_previews=False)
    try:
        if folds is not None:
            from napari_prosma.training.folds import cross_validate

            events = cross_validate(config, data_set.cases, data_set.class_names, folds, steering, overwrite)
        else:
            events = train(config, data_set.cases, data_set.class_names, resumed, steering)
        result = follow(events, steering)
    except KeyboardInterrupt:
        if folds is not None:
            say("go on with the same line, without --overwrite")
        else:
            kept = (config.run_dir / RUN).exists()
            line = quoted(["prosma", "train", "--resume", str(config.run_dir)])
            say(f"go on with: {line}" if kept else "nothing was kept yet")
        raise
    if folds is not None:
        say(result.in_words())
    else:
        say(f"best validation Dice {result.score:.3f}: {result.best}")


def _refuse_to_replace(config: TrainConfig, overwrite: bool) -> None:
    from napari_prosma.errors import ConfigError
    from napari_prosma.model.checkpoint import BEST, ENSEMBLE, LAST
    from napari_prosma.training.run_claim import require_own_folder

    require_own_folder(config.run_dir, config.data)
    there = [name for name in (BEST, LAST, ENSEMBLE) if (config.run_dir / name).exists()]
    if there and not overwrite:
        raise ConfigError(
            f"'{config.run_dir}' already holds {' and '.join(there)}; choose another --out, or --overwrite it"
        )


def _image_files(paths: list[Path]) -> list[Path]:
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


def _twins(given: Sequence[str]) -> dict[str, Checkpoint]:
    """Models by name; the name is the gate where none was given."""
    from napari_prosma.errors import ConfigError
    from napari_prosma.model.checkpoint import load_checkpoint

    twins: dict[str, Checkpoint] = {}
    for text in given:
        name, _, path = ("", "", text) if Path(text).exists() else text.rpartition("=")
        twin = load_checkpoint(path)
        name = name or twin.spec.gate
        if name in twins:
            raise ConfigError(f"two twins are called '{name}'; give them names: --twin NAME=MODEL")
        twins[name] = twin
    return twins


def _inspect_data_set(
    checkpoint: Checkpoint,
    data: Path,
    out: Path,
    twins: dict[str, Checkpoint],
    held_out: bool,
    limit: int | None,
    pictures: int,
    tests: int,
    device: str,
) -> None:
    from napari_prosma.cli.follow import BAD_INPUT, follow, say
    from napari_prosma.errors import ConfigError
    from napari_prosma.inspection.data_set import chosen_cases, evenly, inspect_cases
    from napari_prosma.inspection.data_set_trials import run_trials
    from napari_prosma.inspection.html import About, write_data_set

    name = checkpoint.spec.gate
    if name in twins:
        raise ConfigError(f"the model itself is called '{name}'; give the twin another name: NAME=MODEL")
    data_set, notices = _labelled_as(checkpoint, data)
    cases = chosen_cases(checkpoint, data_set.cases, held_out, limit)
    for line in (data_set.summary, *notices):
        say(line)
    found = follow(inspect_cases(checkpoint, cases, out, name=name, twins=twins, device=device))
    about = About(data.resolve().name, data_set.summary, notices)
    sound = [case for case in cases if case.name not in found.failed]
    tested = None
    if tests:
        chosen = evenly(sound, tests)
        tested = follow(run_trials(checkpoint, chosen, out, name=name, twins=twins, device=device))
    page = follow(write_data_set(found, cases, out, about, tested, pictures, device))
    say(f"{len(found.cases)} of {len(cases)} cases inspected; the report is {page}")
    if found.failed:
        say(f"left out: {', '.join(found.failed)}")
        raise typer.Exit(BAD_INPUT)


def _labelled_as(checkpoint: Checkpoint, data: Path) -> tuple[DataSet, tuple[str, ...]]:
    """The data set with the classes of the model, and notices; without labels where they are others."""
    from dataclasses import replace

    from pydantic import TypeAdapter

    from napari_prosma.data.labels import LabelRule
    from napari_prosma.data.layouts import find_cases

    names = checkpoint.plan.class_names
    data_set = find_cases(data, require_labels=False)
    if kept := checkpoint.config.get("labels"):
        rule = TypeAdapter(LabelRule).validate_python(kept)
        # Scribbles have a number of their own for the background: labels of the very same classes are none.
        is_complete = data_set.class_names == names and rule.unlabelled == 0
        if data_set.class_names != names or (rule.is_sparse and not is_complete):
            data_set = find_cases(data, require_labels=False, labels=rule)
    labelled = checkpoint.config.get("labelled", "all")
    if not data_set.labels.is_sparse and (
        (labelled == "slices" and data_set.dims == 3)
        or (labelled == "scribbles" and data_set.num_classes > len(names))
    ):
        data_set = find_cases(data, require_labels=False, labels=data_set.labels.sparse(labelled))
    if data_set.num_classes == len(names):
        return data_set, data_set.notices
    bare = tuple(replace(case, read_label=None) for case in data_set.cases)
    unused = (
        f"the labels ({', '.join(data_set.class_names)}) are not those of the model ({', '.join(names)}) and "
        f"are not used"
    )
    return replace(data_set, cases=bare), (*data_set.notices, unused)


def _table(rows: Sequence[dict[str, str | float]]) -> Table:
    """Rows that need not have the same columns."""
    from rich.table import Table

    from napari_prosma.cli.follow import as_it_is

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table()
    for place, name in enumerate(columns):
        table.add_column(as_it_is(name), no_wrap=place == 0)  # what a row is about is cut last
    for row in rows:
        cells = (row.get(name, "") for name in columns)
        table.add_row(*(as_it_is(f"{cell:.4g}" if isinstance(cell, float) else str(cell)) for cell in cells))
    return table


def _print_measures(rows: list[dict[str, str | float]]) -> None:
    """A table per model, a column per skip."""
    from itertools import groupby

    from rich.table import Table

    from napari_prosma.cli.follow import as_it_is, console

    for _, group in groupby(rows, key=lambda row: row["model"]):
        skips = list(group)
        title = f"gate {skips[0]['gate']}, measured against the {skips[0]['foreground']}"
        table = Table(title=as_it_is(title), title_justify="left")
        table.add_column(no_wrap=True)
        for row in skips:
            table.add_column(f"skip {row['skip']}")
        said = ("image", "model", "gate", "skip", "foreground")
        for name in dict.fromkeys(name for row in skips for name in row if name not in said):
            cells = (row.get(name, "") for row in skips)
            shown = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells)
            table.add_row(*map(as_it_is, (name, *shown)))
        console.print(table)


def _can_open_window() -> bool:
    if find_spec("napari") is None or find_spec("qtpy") is None:
        return False
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
