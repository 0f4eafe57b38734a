"""What a training step may minimise: each is a file or folder of this package that registers itself.

Nothing here imports torch, so that a form, a shell's help or a configuration can ask what there is; ``make``
of an objective does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from napari_prosma.errors import ConfigError
from napari_prosma.settings import Choice, register_all

if TYPE_CHECKING:
    from napari_prosma.training.objective import Objective

    MakeObjective = Callable[[], Objective]


class ObjectiveOptions(BaseModel):
    """What an objective leaves to choose: a field with a ``Setting`` for each; this one nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


@dataclass(frozen=True)
class ObjectiveKind:
    """What an objective is, told once: nobody compares its name."""

    make: MakeObjective  # gives the ``Objective``
    choice: Choice  # as what the labels are like, and what learning does about it
    options: type[ObjectiveOptions] = ObjectiveOptions
    takes_unlabelled: bool = False  # it learns from further images without labels
    doubts_labels: bool = False  # it leaves a list of suspicious labels
    # What it does depends on the number of the epoch, so their length is not changed on the way.
    counts_epochs: bool = False


OBJECTIVES: dict[str, ObjectiveKind] = {}
"""Every objective by its name."""


def objective(name: str, words: str, meaning: str, **more: Any) -> Callable[[MakeObjective], MakeObjective]:
    """Register the function below as the objective ``name``; the rest as in :class:`ObjectiveKind`."""

    def register(make: MakeObjective) -> MakeObjective:
        OBJECTIVES[name] = ObjectiveKind(make, Choice(words, meaning), **more)
        return make

    return register


def require_use_of_unlabelled(name: str, given: str) -> None:
    """Refuse unlabelled images, which ``given`` speaks of, where the objective ``name`` has no use for them.

    Raises ``ConfigError``.
    """
    if not OBJECTIVES[name].takes_unlabelled:
        others = " or ".join(other for other, kind in OBJECTIVES.items() if kind.takes_unlabelled)
        raise ConfigError(
            f"the objective {name} learns from labels alone, but unlabelled images {given}; choose the "
            f"objective {others}, or leave them out"
        )


register_all(__name__, __path__, "supervised", "dim")
