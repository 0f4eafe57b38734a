"""The runs that are known, and how each stands; renamed and deleted. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from napari_prosma.app.models import measured_dice
from napari_prosma.data.limits import real
from napari_prosma.data.names import DEVICES, LONGEST_NAME
from napari_prosma.data.texts import read_json
from napari_prosma.errors import ConfigError, DataError, ProsmaError
from napari_prosma.events import UNLIMITED_EPOCHS
from napari_prosma.model.header import BEST, ENSEMBLE, FOLD, LAST, read_header
from napari_prosma.training.run_claim import FORMAT, HERE, RUN, is_run, who_trains

RUNNING, STOPPED, FINISHED, FAILED, DAMAGED = "running", "stopped", "finished", "failed", "damaged"
_NOT_IN_NAMES = '<>:"/\\|?*'


@dataclass(frozen=True)
class KnownRun:
    """A run as a list shows it."""

    folder: Path
    state: str
    data: str = ""  # name of what it learned from
    length: str = ""  # how far it came, of how much
    dice: float | None = None  # of its best model
    when: datetime | None = None  # it was written last
    why: str = ""  # of a run that failed or is damaged: what happened
    has_model: bool = False

    @property
    def can_resume(self) -> bool:
        """Whether there is something left to learn, and nobody is at it."""
        return self.state in (STOPPED, FAILED) and not (self.folder / f"{FOLD}1").is_dir()


def known_runs(runs: Path, elsewhere: Sequence[Path] = ()) -> Iterator[KnownRun]:
    """Every run in a folder, and those elsewhere that are still there, the newest first; each once."""
    folders: dict[Path, float] = {}
    for folder in (*(runs.iterdir() if runs.is_dir() else ()), *elsewhere):
        with suppress(OSError):  # somebody deletes it while we look
            if folder.is_dir() and is_run(folder):
                folders.setdefault(real(folder), _written(folder))
    for folder in sorted(folders, key=folders.__getitem__, reverse=True):
        yield known_run(folder)


def known_run(folder: Path) -> KnownRun:
    """How the run in a folder stands; what is wrong with it is told, not raised."""
    models = [folder / name for name in (ENSEMBLE, BEST, LAST) if (folder / name).is_file()]
    when = datetime.fromtimestamp(_written(folder))
    try:
        best = read_header(models[0]) if models else {}
        last = read_header(folder / LAST) if (folder / LAST).is_file() else best
        kept = read_json(folder / RUN) if (folder / RUN).is_file() else {}
        if kept.get("format", FORMAT) > FORMAT:
            raise ConfigError(f"'{folder / RUN}' was written by a newer version; update napari-prosma")
        config = kept.get("config") or last.get("config") or {}
        state, why = _state(folder, kept, last, config)
        return KnownRun(
            folder=folder,
            state=state,
            data=Path(config.get("data") or "").name or ("open layers" if config else ""),
            length=_length(folder, last, config),
            dice=measured_dice(best.get("metrics", {})),
            when=when,
            why=why,
            has_model=bool(models),
        )
    except (ProsmaError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        said = str(error) if isinstance(error, ProsmaError) else f"'{folder}' is damaged ({error})"
        return KnownRun(folder, DAMAGED, when=when, why=said, has_model=bool(models))


def rename_run(folder: Path, name: str) -> Path:
    """Give the folder of a run another name; where it is then.

    Raises ``ConfigError``: the name cannot be that of a folder or is taken, or the run goes on.
    ``DataError``: the system refuses.
    """
    _require_idle(folder)
    name = name.strip()
    bad = sorted({c for c in name if c in _NOT_IN_NAMES or not c.isprintable()})
    is_device = DEVICES.fullmatch(name) is not None
    if not name or bad or name.endswith(".") or is_device or len(name.encode()) > LONGEST_NAME:
        what = "is empty, too long, or ends in a dot"
        if bad or is_device:
            what = f"holds {' '.join(bad)}" if bad else "is a device on Windows"
        raise ConfigError(f"a run cannot be called '{name}', which {what}; choose another name")
    target = folder.with_name(name)
    if target.exists() and not (target.samefile(folder) and target.name != folder.name):
        raise ConfigError(f"'{target}' is there already; choose another name")
    try:
        return folder.rename(target)
    except OSError as error:
        raise DataError(f"'{folder}' cannot be renamed ({error.strerror}); close what uses it") from error


def require_deletable(folder: Path) -> None:
    """Refuse to delete what is no run of ours, or one that goes on (raises ``ConfigError``)."""
    _require_idle(folder)
    if not is_run(folder):
        raise ConfigError(f"'{folder}' is no longer the folder of a run; it is left as it is")


def _require_idle(folder: Path) -> None:
    if who_trains(folder):
        raise ConfigError(f"the run in '{folder}' is in progress; stop it first")


def _state(
    folder: Path, kept: dict[str, Any], last: dict[str, Any], config: dict[str, Any]
) -> tuple[str, str]:
    """How it stands, and why."""
    who = who_trains(folder)
    if who:
        return RUNNING, "" if who == HERE else f"in {who}"
    if (folder / f"{FOLD}1").is_dir():
        return (FINISHED if (folder / ENSEMBLE).is_file() else STOPPED), "cross-validation"
    ended = kept.get("ended") or {}
    if ended.get("how") == FAILED:
        return FAILED, str(ended.get("why", ""))
    over = last.get("epoch", 0) >= config.get("epochs", UNLIMITED_EPOCHS)
    return (FINISHED if ended.get("how") == FINISHED or over else STOPPED), ""


def _length(folder: Path, last: dict[str, Any], config: dict[str, Any]) -> str:
    folds = len(list(folder.glob(f"{FOLD}[0-9]*")))
    if folds:
        return f"{folds} folds"
    epoch, epochs, minutes = last.get("epoch", 0), config.get("epochs"), config.get("minutes")
    if epochs is not None and epochs < UNLIMITED_EPOCHS:
        return f"{epoch} of {epochs} epochs"
    return f"{epoch} epoch{'s' * (epoch != 1)}" + (f", {minutes:g} min" if minutes else "")


def _written(folder: Path) -> float:
    """When anything of the run was written last."""
    files = (folder / name for name in (RUN, LAST, BEST, ENSEMBLE))
    return max([path.stat().st_mtime for path in files if path.is_file()], default=folder.stat().st_mtime)
