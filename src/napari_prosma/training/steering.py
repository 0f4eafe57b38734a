"""``Steering``: what a user changes in a run while it goes on, handed from one thread to another."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class View:
    """The plane of a case that the user looks at: an index per axis, None along the two that are shown."""

    case: str
    at: tuple[int | None, ...]


@dataclass(frozen=True)
class Changes:
    """What was asked for since the run looked last; None and empty mean no change.

    Attributes
    ----------
    settings : dict
        New values of ``learning_rate`` and ``epochs`` or ``minutes`` of the ``TrainConfig``.
    relabelled : names of cases
        Their labels have changed and are to be read again.
    finish : bool
        Validate now, keep the best, and end as if the last epoch were over.
    stop : bool
        End after the step under way and keep the place, as closing the run does.
    """

    settings: dict[str, float | int | None] = field(default_factory=dict)
    relabelled: frozenset[str] = frozenset()
    finish: bool = False
    stop: bool = False


class Steering:
    """Given to ``train``, which reads it between two steps; every method may be called from any thread.

    Parameters
    ----------
    wants_previews : bool
        Whether somebody looks at them; they take a part of the time.
    """

    def __init__(self, wants_previews: bool = True) -> None:
        self.wants_previews = wants_previews
        self._lock = threading.Lock()
        self._changes = Changes()
        self._view: View | None = None
        self.is_left = False

    def change(self, **settings: float | int) -> None:
        """Train on with other values of ``learning_rate`` (0: by the steps), ``epochs`` or ``minutes``."""
        unknown = settings.keys() - {"learning_rate", "epochs", "minutes"}
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))} cannot change during a run")
        with self._lock:
            told = {
                name: None if name == "learning_rate" and not value else value
                for name, value in settings.items()
            }
            self._changes = replace(self._changes, settings={**self._changes.settings, **told})

    def relabel(self, case: str) -> None:
        """The label of ``case`` has changed: learn from what its ``read_label`` gives now."""
        with self._lock:
            self._changes = replace(self._changes, relabelled=self._changes.relabelled | {case})

    def look_at(self, view: View | None) -> None:
        """Preview this plane from now on, soon for the first time; None = a case of the run's own choice."""
        with self._lock:
            self._view = view

    def finish(self) -> None:
        """End soon as if the last epoch were over: validated, the best model kept."""
        with self._lock:
            self._changes = replace(self._changes, finish=True)

    def stop(self) -> None:
        """End after the step under way and keep the place; for those who cannot close the run."""
        with self._lock:
            self._changes = replace(self._changes, stop=True)

    def leave(self) -> None:
        """A run on another machine goes on when it is closed here; one in this process ends all the same."""
        self.is_left = True

    @property
    def was_stopped(self) -> bool:
        """Whether :meth:`stop` was called and not yet taken; for long work between two looks."""
        with self._lock:
            return self._changes.stop

    def take(self) -> Changes:
        """The changes since the last call; for the run."""
        with self._lock:
            changes, self._changes = self._changes, Changes()
            return changes

    @property
    def view(self) -> View | None:
        """What to preview; for the run."""
        with self._lock:
            return self._view
