"""The Train panel: a folder, or layers of the viewer, becomes a trained network while the user watches."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import napari
from napari.layers import Labels as LabelsLayer
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QLabel, QPushButton, QWidget

from napari_prosma.app.elsewhere.note import note_of
from napari_prosma.app.models import runs_folder
from napari_prosma.app.remembered import RUNS, remember_path
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.metrics import dice_in_words
from napari_prosma.data.names import file_stem
from napari_prosma.errors import ConfigError, DataMovedError, ProsmaError
from napari_prosma.events import (
    Baseline,
    EpochEnd,
    Event,
    Finished,
    LivePreview,
    Notice,
    Preview,
    Resumed,
    Started,
    Verdict,
)
from napari_prosma.plugin.shared.asking import choose_run
from napari_prosma.plugin.shared.choosers import PathField
from napari_prosma.plugin.shared.fields import in_a_row
from napari_prosma.plugin.shared.job import Ending
from napari_prosma.plugin.shared.keys import tip
from napari_prosma.plugin.shared.live import LiveCase, LiveSteering
from napari_prosma.plugin.shared.loading import TRAINING
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.panel import Panel, epochs_in_words, open_panel
from napari_prosma.plugin.shared.run_folders import open_run_unasked, open_runs_unasked
from napari_prosma.plugin.shared.run_on import RunOn
from napari_prosma.plugin.shared.starting import new_run_folder
from napari_prosma.plugin.shared.under_way import under_way_of
from napari_prosma.plugin.train.data import Data, LayerData
from napari_prosma.plugin.train.examples import Examples
from napari_prosma.plugin.train.first_preview import FirstPreview
from napari_prosma.plugin.train.leaving import Leaving
from napari_prosma.plugin.train.live_preview import LiveLoop
from napari_prosma.plugin.train.outcome import Outcome
from napari_prosma.plugin.train.preview import PreviewLayers
from napari_prosma.plugin.train.repeat import Repeat
from napari_prosma.plugin.train.run_controls import PlannedRun, RunControls, WaitingRuns
from napari_prosma.plugin.train.running import Configured, resuming, training
from napari_prosma.plugin.train.settings import Settings
from napari_prosma.plugin.train.source import Source
from napari_prosma.plugin.train.supervision import Supervision
from napari_prosma.plugin.train.suspicious import SuspiciousLabels
from napari_prosma.training.run_claim import RUN, is_run, require_own_folder
from napari_prosma.training.steering import Steering

_RUN_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}(-[0-9a-f]+)?$")
"""What ``new_run_folder`` ends a name with; a name that came of an earlier run does not get it twice."""
START, NEXT = "Start training", "Train next"


class TrainPanel(Panel):
    """Train a segmentation network on a folder, or on an image layer and the labels drawn on it."""

    needs = TRAINING
    page = "Train"

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer, START, pausable=True)
        self._run: PlannedRun | None = None
        self._after_stop: Callable[[], None] | None = None
        self._moved_run = Path()
        self._steering = Steering()
        self._suggested: Path | None = None
        self._last_dir = Path()
        self._scrolled = -1
        self._layers_of: dict[Path, LiveCase] = {}
        self.previews = PreviewLayers(napari_viewer, self.job)
        self.live = LiveLoop(napari_viewer, self)
        self.leaving = Leaving(self)
        self.unsaved.kept_by(self._is_kept_by_a_run)

        self.source = Source(napari_viewer)
        self.supervision = Supervision(napari_viewer)
        self.settings = Settings()
        self.run_on = RunOn("train")
        self.repeat = Repeat(self.repeated_data, self.run_on)
        self.examples: Examples | None = None
        self.source.changed.connect(self._suggest_run)
        self.source.changed.connect(self._source_changed)
        self.source.from_layers.toggled.connect(self.settings.suggest)
        self.settings.suggest(self.source.from_layers.isChecked())
        for changed in (self.source.changed, self.supervision.changed, self.settings.changed):
            changed.connect(self.repeat.form_changed)
        self.run_on.field.currentTextChanged.connect(self.repeat.form_changed)
        self.outcome = Outcome(napari_viewer)
        self.outcome.next_panel.connect(self._open_next)
        self.outcome.look_first.connect(self._look_first_again)
        self.suspicious = SuspiciousLabels(napari_viewer, self.outcome.look_button, self)
        self.suspicious.corrected.connect(self._label_corrected)
        self.supervision.look_first.connect(self._look_first_of_a_run)
        for part in (
            *(self.source, self.supervision, self.settings),
            *(self.run_on, self.repeat, self.outcome),
        ):
            self.form.addWidget(part)
        self.settings.examples_button.clicked.connect(self._show_examples)
        self.form.addStretch(1)

        self.controls = RunControls()
        self.controls.changed.connect(self._change)
        self.trouble = Message()
        self.waiting = WaitingRuns()
        self.moved = PathField("Choose the folder where the data of this run are now", "its data now")
        self.moved.line.setToolTip("The folder where the data of this run are now")
        self.moved.chosen.connect(self._resume_moved)  # a function would keep the panel alive
        self.moved_row = QWidget()
        in_a_row(QLabel("Its data are in"), self.moved, owner=self.moved_row, wide=self.moved)
        self.moved_row.hide()
        self.under_way = under_way_of(napari_viewer)
        self.waiting.changed.connect(self._tell_waiting)
        for widget in (self.trouble, self.moved_row, self.controls, self.waiting, self.outcome.next_buttons):
            self.below.addWidget(widget)
        self.finish_button = QPushButton("Finish early")
        self.finish_button.setToolTip("End early: validate, and keep the best model")
        self.finish_button.clicked.connect(self._finish)
        self.resume_button = QPushButton("Resume…")
        self.resume_button.setToolTip("Choose a stopped or failed run in the list to continue it")
        self.resume_button.clicked.connect(self._resume)
        self.lay_out(
            (self.start_button, self.resume_button, self.pause_button, self.finish_button, self.stop_button)
        )
        self.first_preview = FirstPreview(self)
        self.first_preview.timeout.connect(self._count_down)
        self._suggest_run()
        self._source_changed()
        self.recall()

    def remembered_forms(self) -> Mapping[str, QWidget]:
        return {"training": self.settings}

    def planned_data(self) -> tuple[dict[str, Any], Data]:
        """What the form says: settings of ``TrainConfig``, and the data.

        Raises ``ProsmaError``: something has to be chosen first, or is not understood.
        """
        run_dir = self.settings.run_field.path
        if run_dir is None:
            raise ConfigError("choose a folder for the run")
        data = self.source.data(run_dir)
        if isinstance(data, LayerData):
            data = replace(data, unlabelled=self.supervision.ticked())
        self.settings.require_fit(self.source.axes)
        return self.settings.values() | self.supervision.values(), data

    def repeated_data(self) -> tuple[dict[str, Any], Data]:
        """The same for a line that a shell can run as it stands: the data are files, the folder is a new one.

        Raises ``ProsmaError``: as ``planned_data``, no run began on the layers, or the folder holds something
        else.
        """
        settings, data = self.planned_data()
        if isinstance(data, LayerData):
            shown = data.live
            began = [
                live
                for live in self._layers_of.values()
                if (live.image, live.labels, live.labelled) == (shown.image, shown.labels, shown.labelled)
            ]
            data = replace(data, live=began[-1] if began else shown).kept()
        run_dir = settings["run_dir"]
        if is_run(run_dir) or run_dir in self._run_folders():
            settings["run_dir"] = self._new_folder()
        else:
            self._require_free(run_dir, settings.get("data"))
        return settings, data

    def planned(self) -> PlannedRun:
        """The run that the form describes.

        Raises ``ProsmaError``: as ``planned_data``, or the folder is that of another run.
        """
        field = self.settings.run_field
        if self._run is not None and field.path == self._run.run_dir == self._suggested:
            self._suggested = self._new_folder()  # the field named the folder of the run that goes on
            field.show_path(self._suggested)
        settings, data = self.planned_data()
        run_dir = settings["run_dir"]
        self._require_free(run_dir, settings.get("data"))
        length = (
            f"{settings['minutes']:g} minutes" if settings["minutes"] else epochs_in_words(settings["epochs"])
        )
        scheduler = self.run_on.used()
        size = self.settings.fields["widths"].native.currentText().split(":")[0]
        return PlannedRun(
            f"{self.source.name}, {size}, {length}",
            run_dir,
            partial(training, settings, data, scheduler),
            data.live if isinstance(data, LayerData) else None,
            scheduler,
        )

    def resume(self, folder: Path, data: Path | None = None) -> None:
        """Go on with the run in a folder, now or after those that wait; with its layers if they are open.

        ``data`` is where its data are now, if they were moved.
        """
        self.moved_row.hide()
        if folder in self._run_folders():
            self.status.tell_error(f"'{folder}' is the folder of a run that is in progress or waiting")
            return
        live = self._open_layers_of(folder)
        note = note_of(folder)
        scheduler = self.run_on.used() if note is None else note.scheduler
        self._submit(
            PlannedRun(
                f"{folder.name}, resumed",
                folder,
                partial(resuming, folder, live, data, scheduler),
                live,
                scheduler,
            )
        )

    def fine_tune(self, model: Path | None, folder: Path, labels: LabelRule | None, dims: int | None) -> None:
        """Fill the form, to go on from a model with the cases in a folder, whose labels mean this."""
        self.source.take_folder(folder, labels)
        self.settings.go_on_from(model, dims)

    def look_first(self, run_dir: Path) -> None:
        """The labels that a run doubts most, in a dock below the image."""
        self.suspicious.show(run_dir, self._open_layers_of(run_dir))

    def what_leaving_means(self) -> str:
        """For the question before the panel or napari is closed."""
        assert self._run is not None
        waiting = len(self.waiting.runs)
        forgotten = f" Waiting runs ({waiting}) are dropped." if waiting else ""
        if not (self._run.run_dir / RUN).is_file():
            return f"The run has not started to learn yet: if you stop it, no model is kept.{forgotten}"
        if self._run.scheduler is not None:
            forgotten += (
                f" If you leave it, it continues at {self._run.scheduler}, and Resume… reconnects to it."
            )
        return (
            f"If you stop it, the model so far is kept in {self._run.run_dir}, and Resume… continues it "
            f"later.{forgotten}"
        )

    @property
    def can_leave(self) -> bool:
        """Whether the run goes on elsewhere when it is left."""
        return (
            self._run is not None and self._run.scheduler is not None and (self._run.run_dir / RUN).is_file()
        )

    def leave(self) -> None:
        """Let the run go on elsewhere when it ends here."""
        self._steering.leave()

    def stop_then(self, then: Callable[[], None]) -> None:
        """End the run after the step it is in, say so meanwhile, and call ``then`` once its place is kept."""
        self.waiting.clear()
        self._after_stop = then
        self._stop()
        self.status.tell("Stopping after this step and saving the model; then this closes")

    def happened(self, event: Event) -> None:
        match event:
            case Notice():
                self.outcome.say(event.message)
                self._show_trouble()
            case Configured():
                open_runs_unasked()
                open_run_unasked(event.config.run_dir)
                self.controls.show_config(event.config)
                self.repeat.form_changed()  # layers are files now
                self._tell_waiting()
            case Started() if event.total:
                self.outcome.run_on(event.device)
            case Resumed():
                self.outcome.add(*event.history)
            case Baseline():
                self.outcome.compare_with(event)
            case Verdict():
                self.outcome.judge(event)
            case EpochEnd():
                self.outcome.add(event)
                self._look_at_outcome()
                self._follow_suspicious()
            case LivePreview():
                self.live.show(event)
                if said := self.first_preview.came():
                    self.outcome.say(said)
                self._show_trouble()
            case Preview() if self._run is not None and self._run.live is None:
                self.previews.show(event)
            case Finished():
                best = f"best Dice {dice_in_words(event.result.score)}, " if event.result.epochs else ""
                self.status.tell(
                    f"Finished after {epochs_in_words(event.result.epochs)}, {best}kept in "
                    f"{event.result.run_dir}"
                )
                self._follow_suspicious()  # the run has looked once more, at its end

    def ended(self, ending: Ending) -> None:
        assert self._run is not None
        run, self._run = self._run, None
        self.leaving.stop()
        self.live.stop()
        self.first_preview.stop()
        self.controls.hide()
        self.trouble.tell("")
        if ending.stopped:
            kept = any(run.run_dir.glob("*.safetensors"))
            after = f" after {epochs_in_words(self.outcome.epochs)}" if self.outcome.epochs else ""
            what = f"; the model is kept in {run.run_dir}" if kept else "; no model has been saved yet"
            self.status.tell(f"Stopped{after}{what}" + ("; Resume… continues it" if kept else ""))
        self._suggest_run()
        self._tell_waiting()
        if self._after_stop is not None and ending.error is None:
            QTimer.singleShot(0, self._close_after_stop)
            return
        self._stay()  # what could not be kept is not left without a word
        if isinstance(ending.error, DataMovedError):
            self._moved_run = run.run_dir
            self.moved_row.show()
        following = self.waiting.take_first()
        if following is not None:
            said = f"{run.name}: {self.status.plain_text()}"
            self._start(following)
            self.outcome.say(said)

    def remark(self) -> str:
        return self.first_preview.in_words()

    def close_down(self) -> None:
        self.waiting.clear()
        self.live.stop()
        self.leaving.stop()
        super().close_down()

    def _begin(self) -> None:
        try:
            run = self.planned()
        except ProsmaError as error:
            self.status.tell_error(str(error))
            return
        self._submit(run)

    def _submit(self, run: PlannedRun) -> None:
        self._stay()
        if self.job.is_running:
            self.waiting.add(run)
        else:
            self._start(run)
        self._suggest_run()

    def _close_after_stop(self) -> None:
        then, self._after_stop = self._after_stop, None
        if then is not None:
            then()

    def _stay(self) -> None:
        """Not close after the run that ends, where that was wanted."""
        self._after_stop = None
        self.leaving.stay()

    def _start(self, run: PlannedRun) -> None:
        self._run = run
        if run.run_dir.absolute().parent != runs_folder():
            remember_path(RUNS, run.run_dir)
        self._steering = Steering() if run.live is None else LiveSteering(run.live)
        self._last_dir = run.run_dir
        self.outcome.start()
        self._scrolled = -1
        self.previews.start()
        self.trouble.tell("")
        if run.live is not None:
            self._layers_of[run.run_dir] = run.live
            self.live.start(run.live, self._steering)
            self.first_preview.wait()
        self.leaving.start()
        self.run("ProSMA: training", partial(run.make_events, self._steering))

    def _finish(self) -> None:
        self._steering.finish()
        self.finish_button.setEnabled(False)
        if self.is_held:
            self.job.resume()
        self.status.tell("Finishing: validating, then saving the best model")

    def _resume(self) -> None:
        open_panel(self.viewer, "Runs")

    def _change(self, name: str, value: float) -> None:
        self._steering.change(**{name: value})
        words = {"learning_rate": "learning rate", "epochs": "epochs", "minutes": "minutes"}[name]
        told = f"{value:g}" if value else "by the steps"
        self.outcome.say(f"Changed while running: {words} {told}")

    def _look_at_outcome(self) -> None:
        """Bring the figures of a first epoch into view, once; then the user scrolls."""
        if self._scrolled < 0:
            self._scrolled = self.outcome.y()
            bar = self.scroll_area.verticalScrollBar()
            assert bar is not None
            QTimer.singleShot(0, partial(bar.setValue, self._scrolled))  # once the layout has made room

    def _source_changed(self) -> None:
        source = self.source
        self.supervision.learn_from(source.from_layers.isChecked(), source.image_layer.layer, source.data_set)

    def _follow_suspicious(self) -> None:
        self.suspicious.follow(self._last_dir, self._open_layers_of(self._last_dir))

    def _look_first_again(self) -> None:
        self.look_first(self._last_dir)

    def _look_first_of_a_run(self) -> None:
        folder = choose_run(self)
        if folder is not None:
            self.look_first(folder)

    def _label_corrected(self, run_dir: Path, case: str) -> None:
        if self._run is not None and self._run.run_dir == run_dir:
            self._steering.relabel(case)

    def _open_layers_of(self, run_dir: Path) -> LiveCase | None:
        """What a run learns or learned from, if both layers are still open."""
        live = self._layers_of.get(run_dir)
        return live if live is not None and {live.image, live.labels} <= set(self.viewer.layers) else None

    def _resume_moved(self, data: Path) -> None:
        self.resume(self._moved_run, data)

    def _is_kept_by_a_run(self, layer: LabelsLayer) -> bool:
        """Whether a run on this layer has kept on disk what it shows now."""
        return any(live.labels is layer and live.keeps(layer.data) for live in self._layers_of.values())

    def _show_examples(self) -> None:
        if self.examples is None:
            self.examples = Examples(self.planned_data, self)
        self.examples.draw()

    def _show_trouble(self) -> None:
        live = self._run.live if self._run is not None else None
        if live is not None and live.trouble:
            self.trouble.tell_error(live.trouble)
        else:
            self.trouble.tell("")

    def _count_down(self) -> None:
        if not self.is_held:
            self.tell_progress()

    def _require_free(self, run_dir: Path, data: Path | None) -> None:
        """Refuse the folder of another run, of the data, or of a model (raises ``ConfigError``)."""
        if any(run_dir.glob("*.safetensors")):
            raise ConfigError(f"'{run_dir}' already holds a trained model; choose another folder")
        require_own_folder(run_dir, data)
        if run_dir in self._run_folders():
            raise ConfigError(
                f"'{run_dir}' is the folder of a run that is in progress or waiting; choose another one"
            )

    def _run_folders(self) -> set[Path]:
        runs = [*self.waiting.runs, *([self._run] if self._run is not None else [])]
        return {run.run_dir for run in runs}

    def _suggest_run(self) -> None:
        field = self.settings.run_field
        if field.path not in (None, self._suggested):
            return
        self._suggested = self._run.run_dir if self._run is not None else self._new_folder()
        field.show_path(self._suggested)

    def _new_folder(self) -> Path:
        name = _RUN_DATE.sub("", self.source.name)
        return new_run_folder(file_stem(name or "run"), self._run_folders())

    def _tell_waiting(self) -> None:
        self.under_way.set_waiting([run.run_dir for run in self.waiting.runs])

    def _open_next(self, panel: str) -> None:
        widget: Any = open_panel(self.viewer, panel)
        widget.model.set_path(self._last_dir)

    def _show_running(self, running: bool) -> None:
        super()._show_running(running)
        self.start_button.setEnabled(True)
        self.start_button.setText(NEXT if running else START)
        self.start_button.setToolTip(
            tip(
                "Train on the data above when the current run has ended"
                if running
                else "Train on the data above; the best model is saved in the run folder",
                "start",
            )
        )
        self.resume_button.setVisible(not running)
        self.finish_button.setEnabled(running)
        for button in (self.pause_button, self.finish_button, self.stop_button):
            button.setVisible(running)
