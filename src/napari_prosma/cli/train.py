"""``prosma train``, ``ablate`` and ``demo``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_prosma.cli.arguments import Scheduler, was_given
from napari_prosma.cli.follow import describe, exit_codes, follow, notice, say
from napari_prosma.cli.tables import print_measures
from napari_prosma.data.limits import real
from napari_prosma.nn.gate_kinds import GATES

if TYPE_CHECKING:
    from napari_prosma.model.checkpoint import Checkpoint
    from napari_prosma.training.config import TrainConfig

DEMO_EPOCHS, DEMO_MINUTES = 8, 3.0
OLD_OPTIONS = ("dim", "dale")
"""Objectives whose options had a name of their own, which works for one release."""
OTHER_GATES = ",".join(name for name, kind in GATES.items() if kind.in_ablation)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with an option for every setting of a run in the place of its ``**options``, if any."""
    parameters = signature(command, eval_str=True).parameters.values()
    own = [p for p in parameters if p.kind is not Parameter.VAR_KEYWORD]
    if len(own) == len(parameters):
        return command
    from napari_prosma.training.config import grouped_settings

    added = []
    for setting in grouped_settings():
        shown = {
            "help": setting.help,
            "rich_help_panel": setting.setting.group,
            "show_default": setting.default_text or False,
        }
        kind: Any = {bool: bool, list: list[str] | None}.get(setting.kind, setting.kind | None)
        # A flag that turns something off, such as --no-augment, is on until it is given.
        default = setting.default if setting.kind is bool else None
        name = f" /{setting.option}" if default else setting.option
        annotation = Annotated[kind, typer.Option(name, **shown)]
        added.append(Parameter(setting.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    for old in OLD_OPTIONS:
        hidden: Any = Annotated[list[str] | None, typer.Option(f"--{old}-option", hidden=True)]
        added.append(Parameter(f"{old}_option", Parameter.KEYWORD_ONLY, default=None, annotation=hidden))
    command.__signature__ = Signature([*own, *added])  # type: ignore[attr-defined]
    return command


def train(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of images and masks paired by their names, or a CSV of pairs.",
            show_default=False,
        ),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--out", help="Run folder for the checkpoints.", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Resume the run in this folder, with its own settings.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Cross-validate: train this many networks, each validated on another part.",
            show_default=False,
        ),
    ] = None,
    scheduler: Scheduler = None,
    **options: object,
) -> None:
    """Train on a folder of annotated images.

    Writes RUN/best.safetensors (highest validation Dice) and RUN/last.safetensors, RUN/run.json (settings,
    versions, a hash of every case) and RUN/metrics.csv. Ctrl-C stops the run; --resume continues it.

    [bold]Examples:[/] prosma train Dataset_BUSI_with_GT --out runs/busi --minutes 15 --side 128

    prosma train --resume runs/busi

    prosma train my_scans --out runs/mine --from runs/busi

    prosma train labelled_scans --out runs/few --objective dim --unlabelled other_scans

    prosma train my_scans --out runs/mine --scheduler tcp://workstation:8786

    torchrun --nproc-per-node 2 -m napari_prosma train Dataset_BUSI_with_GT --out runs/busi
    """
    with exit_codes():
        from napari_prosma.errors import ConfigError
        from napari_prosma.training.lines import config_from_options

        if resume is not None:
            may_move = ("resume", "data", "unlabelled", "scheduler")
            others = [n for n in context.params if was_given(context, n) and n not in may_move]
            if others:
                raise ConfigError(
                    f"--resume takes the settings from the run; leave out {', '.join(others)} and give its "
                    f"folder, and the folder of the data if they were moved"
                )
            moved = options.get("unlabelled")
            folder = resume.parent if resume.is_file() else resume
            _resume(folder, data, Path(str(moved)) if moved else None, scheduler)
            return
        if data is None or run_dir is None:
            raise ConfigError("give a folder of images and masks and --out RUN, or --resume RUN")
        given: dict[str, Any] = {n: value for n, value in options.items() if was_given(context, n)}
        for old in OLD_OPTIONS:
            texts = given.pop(f"{old}_option", [])
            if texts:
                notice(f"--{old}-option is now called --objective-option; the old name will be removed")
            if texts and given.get("objective") == old:
                given["objective_options"] = [*given.get("objective_options", []), *texts]
        # Whole paths, so that the run can be resumed from another working directory.
        if "unlabelled" in given:
            given["unlabelled"] = str(real(Path(str(given["unlabelled"]))))
        config = config_from_options({**given, "data": real(data), "run_dir": run_dir})
        if folds is None:
            require_new_run(config, overwrite)
        elif scheduler is not None:
            raise ConfigError("folds are trained on this computer; leave out --folds, or --scheduler")
        _run(config, folds, overwrite=overwrite, scheduler=scheduler)


def ablate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)],
    gates: Annotated[str, typer.Option(help="The other gates, separated by commas.")] = OTHER_GATES,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a run folder per gate.", show_default="ablation in the run's folder"),
    ] = None,
) -> None:
    """Gate ablation of a run: train the same configuration, data, split and seed with other gates.

    The same line resumes a stopped ablation. At the end it prints the line that compares the runs.

    [bold]Example:[/] prosma ablate runs/busi --gates attention,dense
    """
    with exit_codes():
        from napari_prosma.app.runs import cases_of
        from napari_prosma.training.ablation import read_original, train_ablation
        from napari_prosma.training.steering import Steering

        original = read_original(run)
        data_set = cases_of(original.config)
        steering = Steering(wants_previews=False)
        wanted = [gate.strip() for gate in gates.split(",") if gate.strip()]
        try:
            events = train_ablation(
                original, data_set.cases, data_set.class_names, wanted, out and real(out), steering
            )
            found = follow(events, steering)
        except KeyboardInterrupt:
            say("resume with the same line")
            raise
        say(found.in_words())
        say(f"side by side: {found.inspect_line()}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run and the picture.")] = Path("demo"),
    window: Annotated[bool, typer.Option(help="Open napari at the end, if there is a display.")] = True,
    epochs: Annotated[
        int | None, typer.Option(help="Number of epochs.", show_default=str(DEMO_EPOCHS))
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop training after this time.", show_default=f"{DEMO_MINUTES:g}; none with --epochs"
        ),
    ] = None,
) -> None:
    """Train a small ProSMA-UNet on the sample ultrasound images, segment one, and show its gates.

    One to two minutes on two CPU cores; on a slower computer it trains for three minutes. Without a display
    the picture is written to a PNG.
    """
    with exit_codes():
        from napari_prosma.app.models import known_model
        from napari_prosma.data.layouts import find_cases
        from napari_prosma.data.metrics import dice_in_words
        from napari_prosma.data.phantoms import sample_folder
        from napari_prosma.inspection.report import measures_table, write_report
        from napari_prosma.inspection.trace import inspect_gates
        from napari_prosma.model.checkpoint import load_checkpoint
        from napari_prosma.model.header import shipped_models
        from napari_prosma.training.config import TrainConfig
        from napari_prosma.training.run import train as run

        data_set = find_cases(sample_folder() / "ultrasound")
        say(data_set.summary)
        if epochs is None and minutes is None:
            minutes = DEMO_MINUTES
        config = TrainConfig.of(
            run_dir=out / "run",
            widths="quick",
            epochs=DEMO_EPOCHS if epochs is None else epochs,
            minutes=minutes,
            device="cpu",
        )
        result = follow(run(config, data_set.cases, data_set.class_names))
        checkpoint = load_checkpoint(result.best)
        held_out = checkpoint.split["validation"][0]
        case = next(case for case in data_set.cases if case.name == held_out)
        assert case.read_label is not None
        events = inspect_gates(
            checkpoint, case.read_image(), name=case.name, label=case.read_label(), device="cpu"
        )
        record = follow(events)
        print_measures(measures_table(record))
        picture = write_report(record, out / "gates")[0]
        say(f"validation Dice {dice_in_words(result.score)}; picture of the gates: {real(picture)}")
        for name, model in shipped_models().items():
            finds = ", ".join(known_model(model).finds)
            say(f"To find {finds} in your own image: prosma segment {name} IMAGE --out labels")
        if window and _can_open_window():
            say("Opening napari ...")
            viewer = [sys.executable, "-m", "napari_prosma.plugin.demo", str(result.best)]
            raise typer.Exit(subprocess.call([*viewer, *(str(path) for path in case.files)]))


def require_new_run(config: TrainConfig, overwrite: bool) -> None:
    """Refuse a folder that is not ours, and one with a model that may not be overwritten."""
    from napari_prosma.errors import ConfigError
    from napari_prosma.model.checkpoint import BEST, ENSEMBLE, LAST
    from napari_prosma.training.run_claim import require_own_folder

    require_own_folder(config.run_dir, config.data)
    there = [name for name in (BEST, LAST, ENSEMBLE) if (config.run_dir / name).exists()]
    if there and not overwrite:
        raise ConfigError(
            f"'{config.run_dir}' already holds {' and '.join(there)}; choose another --out, or --overwrite it"
        )


def _resume(run_dir: Path, data: Path | None, unlabelled: Path | None, scheduler: str | None) -> None:
    from napari_prosma.app.elsewhere.note import note_of
    from napari_prosma.app.runs import left_run
    from napari_prosma.training.run_folder import with_data

    left = left_run(run_dir)
    note = note_of(run_dir)
    if left.is_finished and note is None:
        say(left.in_words())
        return
    if scheduler is None and note is not None:
        scheduler = note.scheduler
    _run(with_data(left.config, data, unlabelled), None, left.checkpoint, scheduler=scheduler)


def _run(
    config: TrainConfig,
    folds: int | None,
    resumed: Checkpoint | None = None,
    overwrite: bool = False,
    scheduler: str | None = None,
) -> None:
    from napari_prosma.app.elsewhere import training_on
    from napari_prosma.app.runs import cases_of
    from napari_prosma.data.layouts import check_foreground
    from napari_prosma.data.metrics import dice_in_words
    from napari_prosma.training.lines import quoted
    from napari_prosma.training.run_folder import RUN
    from napari_prosma.training.steering import Steering

    data_set = cases_of(config)
    describe(data_set)
    check_foreground(data_set)
    config = config.model_copy(update={"labels": data_set.labels})
    steering = Steering(wants_previews=False)
    try:
        if folds is not None:
            from napari_prosma.training.folds import cross_validate

            events = cross_validate(config, data_set.cases, data_set.class_names, folds, steering, overwrite)
        else:
            train_there = training_on(scheduler)
            events = train_there(config, data_set.cases, data_set.class_names, resumed, steering)
        result = follow(events, steering)
    except KeyboardInterrupt:
        if folds is not None:
            say("Resume with the same command, without --overwrite")
        else:
            kept = (config.run_dir / RUN).exists()
            line = quoted(["prosma", "train", "--resume", str(config.run_dir)])
            say(f"Resume with: {line}" if kept else "Nothing has been saved yet")
        raise
    if folds is not None:
        say(result.in_words())
    else:
        say(f"best validation Dice {dice_in_words(result.score)}: {result.best}")


def _can_open_window() -> bool:
    if find_spec("napari") is None or find_spec("qtpy") is None:
        return False
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
