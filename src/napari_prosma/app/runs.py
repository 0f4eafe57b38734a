"""Runs, as panel and shell go on with them: which cases they learn from, and where they were left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from napari_prosma.data.class_names import places_by_name, taken_for
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.layouts import DataSet, find_cases, requirement
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.model.checkpoint import LAST, Checkpoint, load_checkpoint
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.keeper import RunResult
from napari_prosma.training.run_folder import RUN, read_run


@dataclass(frozen=True, eq=False)
class LeftRun:
    """A run as it was left."""

    config: TrainConfig
    checkpoint: Checkpoint | None  # the last one; None where it was left before the first

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to learn."""
        return self.checkpoint is not None and self.checkpoint.epoch >= self.config.epochs

    def in_words(self) -> str:
        """Of one that is finished."""
        assert self.checkpoint is not None
        return (
            f"This run is already finished ({self.checkpoint.epoch} of {self.config.epochs} epochs); its "
            f"model is in '{self.config.run_dir}'"
        )

    def result(self) -> RunResult:
        """Of one that is finished."""
        assert self.checkpoint is not None
        return RunResult.of(self.config.run_dir, self.checkpoint)


def left_run(folder: Path) -> LeftRun:
    """The run in a folder; its last checkpoint knows its configuration, too, where ``run.json`` is missing.

    Raises ``CheckpointError``: the folder is none of a run, or damaged.
    """
    kept = load_checkpoint(folder / LAST) if (folder / LAST).exists() else None
    if kept is None or (folder / RUN).exists():
        return LeftRun(read_run(folder).config, kept)
    return LeftRun(TrainConfig.of(**{**kept.config, "run_dir": folder}), kept)


def cases_of(config: TrainConfig) -> DataSet:
    """The cases of ``config.data``, with labels that mean what the configuration says.

    Raises ``ConfigError``: the run did not learn from a folder, or 2D images are to be labelled by slices.
    ``DataError``: as ``find_cases``.
    """
    if config.data is None:
        raise ConfigError(
            f"the run '{config.run_dir}' was started from Python, so it is not known where its cases are; "
            f"resume it there, or start a new run with its model"
        )
    required = requirement(config.labelled_only)
    data_set = find_cases(config.data, required, config.labels, config.images, config.masks)
    if config.labelled == "slices" and data_set.dims == 2:
        raise ConfigError("2D images have no slices; choose --labelled all or scribbles")
    if config.labelled != "all" and (config.labels is None or not config.labels.is_sparse):
        rule = data_set.labels.sparse(config.labelled)
        data_set = find_cases(config.data, required, rule, config.images, config.masks)
    return data_set


def labelled_as(checkpoint: Checkpoint, data: Path) -> tuple[DataSet, tuple[str, ...]]:
    """The data set with the classes of the model, and notices; without labels where they are others."""
    names = checkpoint.plan.class_names
    as_found = data_set = find_cases(data, require_labels=False)
    places = places_by_name(as_found.class_names, names)
    if places is not None and len(places) == len(names) and places != tuple(range(len(names))):
        data_set = find_cases(data, require_labels=False, labels=as_found.labels.reordered(names, places))
    elif rule := checkpoint.label_rule:
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
    unused = f"the labels ({', '.join(data_set.class_names)}) are not those of the model ({', '.join(names)})"
    if data_set.num_classes == len(names):
        try:
            said = _taken_for(as_found.labels, data_set.labels, names)
        except DataError as error:
            unused = str(error)
        else:
            return data_set, (*data_set.notices, said) if said else data_set.notices
    bare = tuple(replace(case, read_label=None) for case in data_set.cases)
    return replace(data_set, cases=bare), (*data_set.notices, f"the labels are not used: {unused}")


def _taken_for(found: LabelRule, used: LabelRule, names: Sequence[str]) -> str:
    """What classes of labels are taken for that go by other names in the model; as ``taken_for``."""
    theirs, ours = found.names, dict(zip(used.names, names, strict=False))
    if len(theirs) == len(ours) == 2:
        theirs, ours = dict(enumerate(theirs.values())), dict(enumerate(ours.values()))
    return taken_for(theirs, ours, "the model")
