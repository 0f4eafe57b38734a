"""Gate ablation: a run again, its configuration, data, split and seed the same, with other gates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import read_facts
from napari_prosma.data.metrics import dice_in_words
from napari_prosma.errors import CheckpointError, ConfigError, DataError, first_of
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.model.checkpoint import ENSEMBLE, LAST, Checkpoint, load_checkpoint
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.spec import AUTO
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.folds import FREE, PLANNED, train_on
from napari_prosma.training.lines import quoted
from napari_prosma.training.processes import Processes
from napari_prosma.training.reading import data_difference
from napari_prosma.training.run import RunResult
from napari_prosma.training.run_folder import RUN, read_run
from napari_prosma.training.split import as_it_began, learnable
from napari_prosma.training.steering import Steering

ABLATION_GATES = tuple(name for name, kind in GATES.items() if kind.in_ablation)
FOLDER, OLD_FOLDER = "ablation", "twins"
"""Folder of the other runs within the run's, unless told otherwise, now and in older versions."""
_NEAR = 0.8  # of its minutes: a run ends before them where its last validation was quicker than thought


@dataclass(frozen=True)
class Original:
    """The run that is to be compared with others."""

    folder: Path
    config: TrainConfig
    last: Checkpoint  # where it ended

    def config_with_gate(self, gate: str, run_dir: Path) -> TrainConfig:
        """The run's configuration with another gate.

        The plan is the run's own. Time that was limited in minutes becomes as many steps as the run had: a
        quicker gate would get more of them, and the difference would not be the gate's.
        """
        changes: dict[str, object] = {"gate": gate, "run_dir": run_dir, "plan": self.last.plan}
        changes |= dict.fromkeys(PLANNED)
        changes["steps_per_epoch"] = self.last.place.get("steps") or self.last.steps // self.last.epoch
        if self.config.minutes is not None:
            per_epoch = max(1, round(self._learned / self.last.epoch))  # not all have as many
            changes |= {"minutes": None, "epochs": self.last.epoch, "steps_per_epoch": per_epoch}
            if self.config.widths == AUTO:
                changes |= {"widths": self.last.spec.widths, "entry": self.last.spec.entry}
            if self.config.learning_rate is None:
                changes["learning_rate"] = self.last.place.get("rate")
        return TrainConfig.of(**{**dict(self.config), **changes})

    @property
    def _learned(self) -> int:
        """Steps that the optimizer made; an epoch that the time ended counts whole in ``place``."""
        counts = [int(t) for name, t in self.last.state.items() if name.endswith(".step")]
        return max(counts, default=self.last.steps)


@dataclass(frozen=True)
class Ablation:
    """A run and those with other gates; ``scores``: best validation Dice by gate, the run's first."""

    original: Path  # folder of the run
    data: Path
    folders: dict[str, Path]  # run folders of the others, by gate
    scores: dict[str, float]

    def in_words(self) -> str:
        """One line: the best Dice of each on the same validation cases."""
        figures = ", ".join(f"{gate} {dice_in_words(score)}" for gate, score in self.scores.items())
        return f"best validation Dice: {figures}"

    def inspect_line(self) -> str:
        """The line of a shell that shows them side by side on the cases that all of them held out."""
        words = ["prosma", "inspect", str(self.original), str(self.data), "--held-out"]
        for gate, folder in self.folders.items():
            words += ["--compare", f"{gate}={folder}"]
        return quoted([*words, "--out", str(self.original / "gates")])


def read_original(run: Path) -> Original:
    """A finished run, from its folder or a checkpoint in it.

    Raises ``CheckpointError``, ``ConfigError``: it is missing or not finished, is an ensemble or a network of
    another paper, learned from no folder, or began with another model.
    """
    folder = run.parent if run.is_file() else run
    if (folder / ENSEMBLE).is_file():
        load_checkpoint(folder).require_one_network("the original of a gate ablation")
    if not (folder / LAST).is_file():
        raise CheckpointError(f"'{folder}' holds no {LAST}; give the folder of a run that is finished")
    last = load_checkpoint(folder / LAST)
    last.require_our_gates()
    if (folder / RUN).is_file():
        config = read_run(folder).config
    else:
        config = TrainConfig.of(**{**last.config, "run_dir": folder})
    if config.data is None:
        raise ConfigError(
            f"the run '{folder}' learned from open layers, not from a folder, so its data cannot be read "
            f"again; save the images and labels into a folder and train on that"
        )
    if config.start_from is not None:
        raise ConfigError(
            f"the run '{folder}' started from the model '{config.start_from}', whose gates are trained, but "
            f"other gates would start untrained; give a run that was trained from scratch"
        )
    if not _is_over(config, last):
        raise ConfigError(
            f"the run '{folder}' has finished {last.epoch} of {config.epochs} epochs; complete it first "
            f"with: {quoted(['prosma', 'train', '--resume', str(folder)])}"
        )
    return Original(folder, as_it_began(config, last), last)


def train_ablation(
    original: Original,
    cases: Sequence[Case],
    class_names: Sequence[str] = (),
    gates: Sequence[str] = ABLATION_GATES,
    folder: Path | None = None,
    steering: Steering | None = None,
) -> Iterator[Event]:
    """Train a run per gate, one after the other; the last event is ``Finished`` with :class:`Ablation`.

    Stopped and called again it goes on where it was; runs that are over are not trained again.

    Parameters
    ----------
    cases : those of the run, every one with a label
    class_names : background first
    gates : keys of ``GATES``
        The run's own is left out.
    folder : Path, optional
        For a run folder per gate; by default ``ablation`` in the run's.
    steering : Steering, optional
        Of the run in work.

    Raises
    ------
    ConfigError
        A gate is unknown, none is left, or a folder holds another run.
    DataError
        The cases, images or labels are no longer those of the run.
    CheckpointError, ProsmaError
        As :func:`~napari_prosma.training.run.train`.
    """
    own = original.config.gate
    unknown = [gate for gate in gates if gate not in GATES]
    if unknown:
        raise ConfigError(f"unknown gate {', '.join(map(repr, unknown))}; choose of {', '.join(GATES)}")
    wanted = [gate for gate in dict.fromkeys(gates) if gate != own]
    if not wanted:
        raise ConfigError(
            f"the run '{original.folder}' has the gate {own!r} itself; choose others of {', '.join(GATES)}"
        )
    data = original.config.data
    assert data is not None
    inside = folder or _default_folder(original.folder)
    folders = {gate: inside / gate for gate in wanted}
    configs = {gate: original.config_with_gate(gate, folders[gate]) for gate in wanted}
    kept = {gate: _kept(configs[gate], original) for gate in wanted}
    config = original.config
    cases = yield from learnable(cases, config.split, config.together, config.fold is not None)
    _require_same_cases(original, cases, class_names)
    yield from _same_content(original, cases)
    if original.config.minutes is not None:
        steps = configs[wanted[0]].steps_per_epoch
        yield Notice(
            f"The run was limited to {original.config.minutes:g} minutes; the others train as many steps as "
            f"it had: {original.last.epoch} epochs of {steps}."
        )
    scores = {own: RunResult.of(original.folder, original.last).score}
    # Held open over all runs, as over the folds of a cross-validation.
    with Processes(configs[wanted[0]]) as processes:
        for number, gate in enumerate(wanted, start=1):
            which = f"Gate ablation {number} of {len(wanted)} ({gate})"
            last, config = kept[gate], configs[gate]
            if last is not None and _is_over(config, last):
                yield Notice(f"{which} is already trained.")
                scores[gate] = RunResult.of(config.run_dir, last).score
                continue
            yield Notice(f"{which}{'' if last is None else ' resumes'}.")
            result = yield from train_on(config, cases, class_names, last, steering, original.last.split)
            if result is None:  # stopped; what there is was kept
                return
            processes.fabric.barrier()
            scores[gate] = result.score
    yield Finished(Ablation(original.folder, data, folders, scores))


def _default_folder(run: Path) -> Path:
    """Where runs with other gates go; an ablation that an older version began goes on where it lies."""
    new, old = run / FOLDER, run / OLD_FOLDER
    return old if old.is_dir() and not new.is_dir() else new


def _is_over(config: TrainConfig, last: Checkpoint) -> bool:
    """Whether a run ended by itself: all epochs, its time, or its patience are over."""
    place = last.place
    if last.epoch >= config.epochs:
        return True
    if config.minutes is not None and last.epoch:
        minutes = place.get("minutes") or config.minutes
        return not place["losses"] and place["seconds"] >= _NEAR * 60 * minutes
    waited = last.epoch - place.get("best_epoch", last.epoch)
    return config.patience is not None and waited >= config.patience


def _kept(wanted: TrainConfig, original: Original) -> Checkpoint | None:
    """Where an earlier call left a run, None if it has not begun; refuses what is no such run."""
    folder = wanted.run_dir
    if not (folder / LAST).is_file():
        return None
    last = load_checkpoint(folder / LAST)
    free = FREE - {"plan", "epochs", "minutes", "learning_rate"}
    then, now = (c.model_dump(mode="json", exclude=free) for c in (TrainConfig.of(**last.config), wanted))
    differ = [name for name in now if then[name] != now[name]]
    differ += ["split"] * (last.split != original.last.split)
    if differ:
        raise ConfigError(
            f"'{folder}' holds a run that is no ablation of '{original.folder}' (different: "
            f"{', '.join(differ)}); choose another --out, or delete that folder"
        )
    return last


def _require_same_cases(original: Original, cases: Sequence[Case], class_names: Sequence[str]) -> None:
    different = data_difference(original.last, cases, class_names)
    if different:
        raise DataError(
            f"the data in '{original.config.data}' are not those of the run '{original.folder}' "
            f"({different}); restore the data, or train the run again"
        )


def _same_content(original: Original, cases: Sequence[Case]) -> Iterator[Event]:
    """Refuse images and labels that changed since the run; what its folder does not tell is noticed."""
    if not (original.folder / RUN).is_file():
        yield Notice(f"The run has no {RUN}, so whether its images and labels changed since is not known.")
        return
    then = {case.name: (case.image_hash, case.label_hash) for case in read_run(original.folder).cases}
    changed: list[str] = []
    yield Started(len(cases), "Comparing the data with the run's")
    for number, fact in enumerate(read_facts(cases), start=1):
        if then.get(fact.name) != (fact.image_hash, fact.label_hash):
            changed.append(fact.name)
        yield Progress(number, len(cases), fact.name)
    if changed:
        raise DataError(
            f"the images or labels of {len(changed)} cases ({first_of(changed)}) changed "
            f"since the run '{original.folder}'; restore them, or train the run again"
        )
