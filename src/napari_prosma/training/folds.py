"""Cross-validation: a run per fold on one plan, mean and spread of their figures, and an ensemble of all."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import CaseFacts
from napari_prosma.data.metrics import dice_in_words
from napari_prosma.data.texts import read_rows, write_rows
from napari_prosma.errors import CheckpointError, ConfigError, DataError, as_sentence, first_of
from napari_prosma.events import Event, Finished, Notice, result_of
from napari_prosma.model.checkpoint import (
    BEST,
    ENSEMBLE,
    FOLD,
    LAST,
    Checkpoint,
    ensemble_of,
    load_checkpoint,
    save_checkpoint,
)
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.processes import Processes
from napari_prosma.training.reading import data_difference, read_cases
from napari_prosma.training.run import RunResult, train
from napari_prosma.training.run_claim import claimed, is_run
from napari_prosma.training.run_folder import changed_data, read_run
from napari_prosma.training.split import (
    as_it_began,
    learnable,
    split_cases,
    with_patients_of_names,
    without_test_cases,
)
from napari_prosma.training.steering import Steering
from napari_prosma.training.transfer import ARCHITECTURE

SUMMARY = "summary.csv"
PLANNED = ("dims", "spacing", "patch", "batch", "intensity", "slices")
"""Settings that a whole plan takes the place of."""
STEERED = ("learning_rate", "epochs", "minutes")
"""Settings that may change while a run goes on."""
FREE = {"run_dir", "data", "plan", "device", "precision", "threads", "compile", "tensorboard", *STEERED}
"""Settings that may differ from those that a fold began with."""


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation found.

    Attributes
    ----------
    run_dir : Path
        With a run folder ``fold1``, ``fold2``, ... each, and ``summary.csv``.
    ensemble : Path
        Checkpoint of the best model of every fold.
    scores : tuple of float
        Best mean Dice of each fold on the cases it held out.
    figures : dict
        Mean and spread (sample standard deviation over the folds) of every validation figure, by its name.
    """

    run_dir: Path
    ensemble: Path
    scores: tuple[float, ...]
    figures: dict[str, tuple[float, float]]

    def in_words(self) -> str:
        """One line a person can check: Dice as mean and spread, over all and per class."""
        middle, spread = self.figures["dice"]
        per_class = ", ".join(
            f"{name.removeprefix('dice/')} {m:.3f} (spread {s:.3f})"
            for name, (m, s) in self.figures.items()
            if name.startswith("dice/")
        )
        return (
            f"validation Dice over {len(self.scores)} folds {dice_in_words(middle)} "
            f"(spread {spread:.3f}): {per_class}; ensemble: {self.ensemble}"
        )


def cross_validate(
    config: TrainConfig,
    cases: Sequence[Case],
    class_names: Sequence[str] = (),
    folds: int = 5,
    steering: Steering | None = None,
    overwrite: bool = False,
) -> Iterator[Event]:
    """Train once per fold, each time holding out another part; ends with a :class:`CrossValidation`.

    The events are those of the runs, one after the other, without their ends. Stopped and called again it
    goes on where it was: folds that are over are not trained again.

    Parameters
    ----------
    config : TrainConfig
        ``run_dir`` is the folder of all folds. The plan is made in the first one for all.
    cases : every one with a label
    class_names : background first
    folds : int
        At least 2, at most as many as cases.
    steering : Steering, optional
        Of the fold in work.
    overwrite : bool
        Forget an earlier cross-validation in the folder.

    Raises
    ------
    ConfigError
        Fewer cases than folds, a ``fold`` in ``config``, or a folder that holds other runs.
    DataError
        A fold that is there was trained on other cases or classes, or held out others; and as for the next.
    CheckpointError, ProsmaError
        As :func:`~napari_prosma.training.run.train`.
    """
    folder = config.run_dir
    _require_possible(config, cases, folds)
    steering = steering or Steering()
    # Held open over all folds: processes that part after each of them may not find each other again.
    with claimed(folder, steering, config.data), Processes(config) as processes:
        if overwrite:
            _forget(folder)
        yield from _folds(config, cases, class_names, folds, steering, processes)


def _folds(
    config: TrainConfig,
    cases: Sequence[Case],
    class_names: Sequence[str],
    folds: int,
    steering: Steering,
    processes: Processes,
) -> Iterator[Event]:
    folder, plan = config.run_dir, config.plan
    built: dict[str, Any] = {}
    over = _finished_folds(folder)
    members: list[Checkpoint] = []
    learned: list[Case] | None = None
    facts: list[CaseFacts] | None = None
    for k in range(folds):
        changes: dict[str, Any] = {"fold": (k, folds), "run_dir": folder / f"{FOLD}{k + 1}"}
        if plan is not None:
            changes |= {"plan": plan, **built, **dict.fromkeys(PLANNED)}
        wanted = config.model_copy(update=changes)
        kept = _kept(wanted)
        is_over = k + 1 in over and (wanted.run_dir / BEST).is_file()
        before = load_checkpoint(wanted.run_dir / BEST) if kept is None and is_over else kept
        if before is not None:
            if learned is None:
                began = as_it_began(config, before)
                learned = yield from learnable(cases, began.split, began.together, in_folds=True)
            _require_same_fold(wanted, before, learned, class_names)
        processes.fabric.barrier()  # none writes before all have looked
        if is_over:
            assert learned is not None
            if facts is None:
                facts = yield from read_cases(learned, steering)
            if len(facts) < len(learned):  # stopped
                return
            yield from _changes(wanted.run_dir, k + 1, facts)
            yield Notice(f"Fold {k + 1} of {folds} is already trained.")
        else:
            yield Notice(f"Fold {k + 1} of {folds}{'' if kept is None else ' resumes'}.")
            result = yield from _train(wanted, cases, class_names, kept, steering)
            if result is None:  # stopped; what there is was kept
                return
            processes.fabric.barrier()  # none reads before the first one has written
        members.append(load_checkpoint(wanted.run_dir / BEST))
        plan = plan or members[0].plan
        built = {"widths": members[0].spec.widths, "entry": members[0].spec.entry}
        if processes.is_first and not is_over:
            _write_summary(folder / SUMMARY, members)
    if processes.is_first:
        save_checkpoint(folder / ENSEMBLE, ensemble_of(members, config.model_dump(mode="json")))
    processes.fabric.barrier()
    scores = tuple(member.metrics["dice"] for member in members)
    yield Finished(CrossValidation(folder, folder / ENSEMBLE, scores, _mean_and_spread(members)))


def _forget(folder: Path) -> None:
    """Remove what an earlier cross-validation left, and nothing else."""
    runs = [inside for inside in folder.glob(f"{FOLD}*") if is_run(inside)]
    for path in (folder / SUMMARY, folder / ENSEMBLE, *(run / name for run in runs for name in (BEST, LAST))):
        path.unlink(missing_ok=True)


def _require_possible(config: TrainConfig, cases: Sequence[Case], folds: int) -> None:
    if folds < 2 or config.fold is not None:
        raise ConfigError(
            f"a cross-validation trains each of at least 2 folds, found {folds} folds and the fold "
            f"{config.fold}; leave out the fold, and choose how many there are"
        )
    kept = without_test_cases(cases, config.split)
    kept = with_patients_of_names(kept) if config.together == "names" else kept
    split_cases(kept, config.validation_fraction, config.seed, (0, folds))
    alone = [name for name in (BEST, LAST) if (config.run_dir / name).exists()]
    if alone:
        raise ConfigError(
            f"'{config.run_dir}' is the folder of a single run ({', '.join(alone)}); choose another "
            f"one for the cross-validation"
        )


def _kept(wanted: TrainConfig) -> Checkpoint | None:
    """Where an earlier call left the fold, None if it has not begun; refuses a fold of another kind."""
    if not (wanted.run_dir / LAST).is_file():
        return None
    kept = load_checkpoint(wanted.run_dir / LAST)
    free = set(FREE)
    if wanted.start_from is not None:  # what was not asked for is that of the model to start from
        free |= set(ARCHITECTURE) - wanted.model_fields_set
    then, now = (
        config.model_dump(mode="json", exclude=free) for config in (TrainConfig.of(**kept.config), wanted)
    )
    differ = [f"{name} {then[name]}, now {now[name]}" for name in now if then[name] != now[name]]
    if differ:
        raise ConfigError(
            f"'{wanted.run_dir}' was trained with other settings ({'; '.join(differ)}); resume with those, "
            f"choose another folder, or overwrite it"
        )
    return kept


def _require_same_fold(
    wanted: TrainConfig, before: Checkpoint, cases: Sequence[Case], class_names: Sequence[str]
) -> None:
    """Refuse a fold of other cases, or that held out others than it would now: no case may be left out."""
    different = data_difference(before, cases, class_names)
    if not different:
        _, held_out = split_cases(cases, wanted.validation_fraction, wanted.seed, wanted.fold)
        then, now = {*before.split["validation"]}, {cases[n].name for n in held_out}
        if then != now:
            moved = sorted(then ^ now)
            different = (
                f"{len(moved)} case(s) are in another fold now because their order or patients changed: "
                f"{first_of(moved)}"
            )
    if different:
        raise DataError(
            f"'{wanted.run_dir}' was trained on other data ({different}) and is no fold of these; restore "
            f"the data, choose another folder, or overwrite the cross-validation"
        )


def _changes(folder: Path, number: int, facts: Sequence[CaseFacts]) -> Iterator[Event]:
    """What changed in the data of a fold that is over, which is not trained again."""
    try:
        changed = changed_data(read_run(folder), facts)
    except CheckpointError as error:
        yield Notice(f"Whether images or labels changed since fold {number} was trained is unknown: {error}")
        return
    for what in changed:
        yield Notice(
            f"{as_sentence(what)} changed since fold {number} was trained; its figures are of those "
            f"before. Overwrite the cross-validation to train all folds on the new ones"
        )


def _train(
    wanted: TrainConfig,
    cases: Sequence[Case],
    class_names: Sequence[str],
    checkpoint: Checkpoint | None,
    steering: Steering,
) -> Generator[Event, None, RunResult | None]:
    """One fold; what was changed while it went on stays changed."""
    if checkpoint is not None:
        changed = {
            name: checkpoint.config[name]
            for name in STEERED
            if checkpoint.config[name] != getattr(wanted, name)
        }
        wanted = wanted.model_copy(update=changed)
        if changed:
            said = ", ".join(f"{name} {value}" for name, value in changed.items())
            yield Notice(f"It keeps settings that were changed during the run: {said}.")
    return (yield from train_on(wanted, cases, class_names, checkpoint, steering))


def train_on(
    config: TrainConfig,
    cases: Sequence[Case],
    class_names: Sequence[str],
    checkpoint: Checkpoint | None,
    steering: Steering | None,
    split: Mapping[str, Sequence[str]] | None = None,
) -> Generator[Event, None, RunResult | None]:
    """A run among others, from its ``checkpoint`` or with a ``split``; None where it was stopped."""
    with closing(train(config, cases, class_names, checkpoint, steering, split=split)) as run:  # type: ignore[type-var]
        return (yield from result_of(run))


# ---- figures over the folds -----------------------------------------------------------------------------


def _mean_and_spread(members: Sequence[Checkpoint]) -> dict[str, tuple[float, float]]:
    """Over the folds whose validation cases hold what is measured."""
    found = {}
    for name in _names(members):
        values = [m.metrics[name] for m in members if not math.isnan(m.metrics.get(name, math.nan))]
        found[name] = mean(values) if values else math.nan, stdev(values) if len(values) > 1 else 0.0
    return found


def _names(members: Sequence[Checkpoint]) -> list[str]:
    """Of all figures, in order."""
    return list(dict.fromkeys(name for member in members for name in member.metrics))


def _write_summary(path: Path, members: Sequence[Checkpoint]) -> None:
    """A line per fold that is over, then the mean and the spread over them."""
    names, both = _names(members), _mean_and_spread(members)
    rows: list[dict[str, Any]] = [
        {"fold": k, "epoch": member.epoch, **member.metrics} for k, member in enumerate(members, start=1)
    ]
    rows += [
        {"fold": said, **{name: both[name][n] for name in names}} for n, said in enumerate(("mean", "spread"))
    ]
    write_rows(path, rows, ["fold", "epoch", *names])


def _finished_folds(folder: Path) -> set[int]:
    """Numbers, from 1, of the folds that are in the summary."""
    if not (folder / SUMMARY).is_file():
        return set()
    found = (row["fold"] for row in read_rows(folder / SUMMARY, ["fold"]))
    return {int(number) for number in found if number.isdecimal()}
