"""``train_elsewhere``: ``train`` on a worker of a Dask scheduler, and its run folder here."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from napari_prosma.app.elsewhere.following import Following, WorkerLost
from napari_prosma.app.elsewhere.jobs import Ended, Saved, TrainJob, as_here, without_paths
from napari_prosma.app.elsewhere.note import Note, forget_note, note_of, write_note
from napari_prosma.app.elsewhere.scheduler import TRANSFER, Line, Unreachable, found_again, opened_line
from napari_prosma.app.elsewhere.store import (
    Parcel,
    Sent,
    SentCase,
    SentImage,
    array_sent,
    model_sent,
)
from napari_prosma.app.runs import left_run
from napari_prosma.data.atomic import require_writable, written_whole
from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import hash_of_file
from napari_prosma.data.labels import BINARY
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.texts import parse_json
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.events import CheckpointSaved, Event, Finished, Notice, Progress, Resumed, Started
from napari_prosma.model.checkpoint import BEST, LAST, Checkpoint, load_checkpoint, save_checkpoint
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.doubt import LABEL_CONFIDENCE
from napari_prosma.training.keeper import RunResult
from napari_prosma.training.run_claim import RUN, claimed
from napari_prosma.training.run_folder import RunFolder
from napari_prosma.training.steering import Steering

NEW_WORKER = 60.0
"""Seconds in which another worker has to be there, where one was lost."""


def train_elsewhere(
    scheduler: str,
    config: TrainConfig,
    cases: Sequence[Case],
    class_names: Sequence[str] = (),
    resumed: Checkpoint | None = None,
    steering: Steering | None = None,
    unlabelled: Sequence[Case] = (),
) -> Iterator[Event]:
    """As :func:`~napari_prosma.training.run.train`, on a worker of the scheduler at an address.

    Files that the worker sees under the same names, with the same content, are read there; other cases are
    sent, each once. The files of the run folder come back whenever one is written. The run goes on where the
    connection is lost, or this program is killed: called again with ``resumed`` it comes back to it. Where
    the worker is lost the run resumes on another one from its last checkpoint.

    Raises
    ------
    ConfigError
        No scheduler, no worker, or none that is free, has the wanted device and the same version.
    DataError, CheckpointError, ProsmaError
        As ``train``; also where the disk there is full.
    """
    steering = steering or Steering()
    require_writable(config.run_dir)
    with claimed(config.run_dir, steering, config.data, resumed is not None):
        yield from _Run(scheduler, config, cases, class_names, steering, unlabelled).events(resumed)


class _Run:
    """A training there as it is seen from here."""

    def __init__(
        self,
        scheduler: str,
        config: TrainConfig,
        cases: Sequence[Case],
        class_names: Sequence[str],
        steering: Steering,
        unlabelled: Sequence[Case],
    ) -> None:
        self.scheduler, self.config, self.cases = scheduler, config, cases
        self.class_names, self.steering, self.unlabelled = tuple(class_names), steering, unlabelled
        self.folder = config.run_dir
        self._is_there = False
        self._finished: Ended | None = None
        self._last = Progress(0, 1)

    def events(self, resumed: Checkpoint | None) -> Iterator[Event]:
        """All of them, on however many workers."""
        line = self._left_line(resumed is not None)
        if line is not None:
            yield Notice(f"The run continues on '{line.host}'; its messages since then follow")
        is_again, place = False, ""
        while True:
            is_new = line is None
            if line is None:
                line = yield from self._started(resumed, NEW_WORKER if is_again else 0)
            if line is None:  # stopped meanwhile
                return
            lost: WorkerLost | None = None
            following = Following(
                line,
                self.steering,
                {case.name: case for case in self.cases},
                self._keep,
                f"reconnect with prosma train --resume {self.folder}",
            )
            try:
                with closing(self._translated(following.events(), line)) as happening:
                    for event in happening:
                        if not (is_again and isinstance(event, Resumed)):  # its epochs were told before
                            yield event
            except WorkerLost as error:
                lost = error
            finally:
                if following.is_over:
                    line.end()
                    forget_note(self.folder)
                else:
                    line.close()
            if lost is None:
                if self._finished is not None:
                    yield Finished(self._result(self._finished))
                return
            if is_new and not following.has_heard:
                raise _lost_early(line, lost) from lost
            before, place = place, self._place()
            if is_again and place == before:
                raise ProsmaError(
                    f"two workers of '{self.scheduler}' were lost at the same place of the run ({lost}), "
                    f"perhaps for lack of memory; give them more (--memory-limit), or choose a smaller "
                    f"patch, batch or network, then resume the run"
                ) from lost
            is_again = True
            yield Notice(
                f"The worker on '{line.host}' was lost; the run resumes on another one, from its "
                f"{'last checkpoint' if place else 'start'}"
            )
            resumed, line = self._from_here(resumed), None

    def _started(self, resumed: Checkpoint | None, patience: float) -> Generator[Event, None, Line | None]:
        """The run on a worker, which may take ``patience`` seconds to be there; None where it was stopped."""
        end = time.monotonic() + patience
        what = f"the run '{self.folder.name}'"
        while True:
            try:
                line = opened_line(self.scheduler, self.config.device, what, is_exclusive=True)
                break
            except ConfigError:
                if time.monotonic() > end:
                    raise
            yield self._last
            time.sleep(1)
        try:
            yield Notice(f"The run is on '{line.host}'")
            is_sent = yield from self._begin(line, resumed)
        except Unreachable as error:
            line.close()
            raise _lost_early(line, error) from error
        except BaseException:
            line.end()
            raise
        if not is_sent:
            line.end()
            return None
        write_note(self.folder, Note(self.scheduler, line.name))
        return line

    # ---- before the first step ----------------------------------------------------------------------------

    def _left_line(self, resumes: bool) -> Line | None:
        """The way to the run in this folder, where it still goes on elsewhere."""
        note = note_of(self.folder)
        if note is None:
            return None
        line = found_again(note.scheduler, note.name)
        if line is None:
            forget_note(self.folder)
            return None
        if not resumes and (self.folder / RUN).exists():
            line.close()
            raise ConfigError(
                f"the run in '{self.folder}' continues at '{note.scheduler}'; reconnect to it with "
                f"prosma train --resume {self.folder}, or choose another folder"
            )
        self.scheduler = note.scheduler
        return line

    def _begin(self, line: Line, resumed: Checkpoint | None) -> Generator[Event, None, bool]:
        """Send what the worker lacks and start; False where the user stopped it meanwhile."""
        sees = yield from self._is_seen(line)
        if self.steering.was_stopped:
            return False
        unlabelled = tuple(self._unlabelled())
        sent: list[SentCase] = []
        gone = there = 0
        number = len(self.cases) + len(unlabelled)
        if not sees or unlabelled:
            yield Started(number, "Sending cases")
        for n, case in enumerate((*self.cases, *unlabelled), start=1):
            parcels: list[Parcel] = []
            is_labelled = n <= len(self.cases)
            sent.append(_case_sent(case, parcels, sees and is_labelled, is_labelled))
            went = line.send(parcels) if parcels else 0
            gone, there = gone + went, there + (bool(parcels) and not went)
            yield Progress(n, number, case.name)
            if self.steering.was_stopped:
                return False
        if sees:
            yield Notice(f"'{line.host}' reads the files in '{self.config.data}' itself")
        if not sees or unlabelled:
            yield Notice(f"Sent {gone / 1e6:.1f} MB; {there} of {number} cases were there already")
        models = self._models(resumed)
        line.send(list(models.values()))
        kept: dict[str, Sent | bytes] = {}
        if resumed is not None:
            kept = {name: models[name].sent for name in (LAST, BEST) if name in models}
            for name in (RUN, LABEL_CONFIDENCE):
                if (self.folder / name).is_file():
                    kept[name] = (self.folder / name).read_bytes()
        start = models.get("start")
        line.begin(
            TrainJob(
                without_paths(self.config, sees),
                tuple(sent[: len(self.cases)]),
                self.class_names,
                tuple(sent[len(self.cases) :]),
                None if start is None else start.sent,
                models[LAST].sent if LAST in models else None,
                kept,
                self.steering.wants_previews,
            )
        )
        return True

    def _models(self, resumed: Checkpoint | None) -> dict[str, Parcel]:
        """Checkpoints that the run needs there."""
        models = {}
        if resumed is not None:
            models[LAST] = model_sent(resumed)
            if (self.folder / BEST).is_file():
                models[BEST] = model_sent(self.folder / BEST)
        elif self.config.start_from is not None:
            models["start"] = model_sent(self.config.start_from)
        return models

    def _is_seen(self, line: Line) -> Generator[Event, None, bool]:
        """Whether the worker has the very files of all cases, under the same names; read whole on both."""
        files = [file for case in self.cases for file in case.files]
        if self.config.data is None or not files or not all(case.files for case in self.cases):
            return False
        if any(case.series is not None for case in self.cases) or not all(file.is_file() for file in files):
            return False
        names = [str(file.absolute()) for file in files]
        if not line.call("sees", [(n, f.stat().st_size) for n, f in zip(names, files, strict=True)]):
            return False
        yield Started(len(files), f"Comparing files with those on '{line.host}'")
        for n, (name, file) in enumerate(zip(names, files, strict=True), start=1):
            if line.call("hashes", [name], seconds=TRANSFER) != [hash_of_file(file)]:
                return False
            yield Progress(n, len(files), file.name)
            if self.steering.was_stopped:
                return False
        return True

    def _unlabelled(self) -> Sequence[Case]:
        if self.unlabelled or self.config.unlabelled is None:
            return self.unlabelled
        return find_cases(self.config.unlabelled, require_labels=False, labels=BINARY).cases

    # ---- while it goes on ---------------------------------------------------------------------------------

    def _translated(self, events: Iterator[Event], line: Line) -> Generator[Event, None, None]:
        """Events with the paths of this machine."""
        try:
            for event in events:
                match event:
                    case Saved():
                        name = BEST if event.kind == "best" else LAST
                        yield CheckpointSaved(self.folder / name, event.kind, event.epoch)
                    case Ended():
                        self._finished = event
                    case Notice():
                        yield replace(event, message=event.message.replace(line.folder, str(self.folder)))
                    case _:
                        if isinstance(event, Progress):
                            self._last = event
                        yield event
        except ProsmaError as error:
            # What is wrong with a file there, such as a full disk, is not to be looked for here.
            where = f"on '{line.host}': " if line.folder in str(error) else ""
            raise type(error)(f"{where}{error}") from error
        finally:
            events.close()  # type: ignore[attr-defined]

    def _keep(self, name: str, content: bytes) -> None:
        """Keep a file of the run folder there, with the paths of this machine in it."""
        if self._is_there:
            RunFolder(self.folder).require_there()
        path = self.folder / name
        if name.endswith(".safetensors"):
            with tempfile.TemporaryDirectory() as scratch:
                came = Path(scratch) / name
                came.write_bytes(content)
                checkpoint = load_checkpoint(came)
            save_checkpoint(path, replace(checkpoint, config=as_here(checkpoint.config, self.config)))
            return
        if name == RUN:
            run = parse_json(content, f"'{path}'")
            run["config"] = as_here(run["config"], self.config)
            content = (json.dumps(run, indent=2, ensure_ascii=False) + "\n").encode()
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
        self._is_there |= name == RUN

    def _from_here(self, resumed: Checkpoint | None) -> Checkpoint | None:
        """Where the run is resumed: its last checkpoint here, with what was changed while it went on."""
        if not (self.folder / LAST).is_file():
            return resumed
        left = left_run(self.folder)
        self.config = left.config
        return left.checkpoint

    def _place(self) -> str:
        """How far the checkpoints here are; empty where there is none."""
        last = self.folder / LAST
        return str(load_checkpoint(last).place["step"]) if last.is_file() else ""

    def _result(self, ended: Ended) -> RunResult:
        return RunResult(self.folder, self.folder / BEST, self.folder / LAST, ended.score, ended.epochs)


def _lost_early(line: Line, error: Exception) -> ProsmaError:
    return ProsmaError(
        f"'{line.host}' was lost before the run began ({error}), perhaps for lack of memory; give it more "
        f"(--memory-limit), then start the run again: what was sent is kept there"
    )


def _case_sent(case: Case, parcels: list[Parcel], sees: bool, is_labelled: bool) -> SentCase:
    """A case as it is sent, and what of it has to be sent first; nothing where the worker sees it."""
    image: SentImage | None = None
    label: Sent | None = None
    if not sees:
        read = case.read_image()
        parcels.append(array_sent(read.array))
        image = SentImage(parcels[-1].sent, read.geometry, read.notices)
        if is_labelled and case.read_label is not None:
            parcels.append(array_sent(case.read_label()))
            label = parcels[-1].sent
    return SentCase(case.name, image, label, case.group, case.split, case.patient)
