"""Learning from the labels alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_prosma.training.objectives import objective

if TYPE_CHECKING:
    from napari_prosma.training.objective import Objective


@objective("supervised", "Complete and reliable", "The network learns from the labels alone")
def make() -> Objective:
    """Dice plus cross-entropy."""
    from napari_prosma.training.objectives.supervised.learning import Supervised

    return Supervised()
