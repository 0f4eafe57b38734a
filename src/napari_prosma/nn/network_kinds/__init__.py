"""What networks there are: each function in a file of this package that registers itself.

Nothing here imports torch but ``make`` of a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_prosma.settings import register_all

if TYPE_CHECKING:
    from napari_prosma.nn.build import Network
    from napari_prosma.nn.spec import ModelSpec

    MakeNetwork = Callable[[ModelSpec], Network]

WIDTHS: dict[str, tuple[int, ...]] = {
    "quick": (8, 16, 32, 64, 128),
    "tiny": (16, 32, 64, 128, 256),
    "base": (32, 64, 128, 256, 512),
    "large": (64, 128, 256, 512, 1024),
}
"""Width presets; ``large`` is the paper's scale in 2D."""
OURS = "prosma-unet"


@dataclass(frozen=True)
class Architecture:
    """What a name in ``NETWORKS`` stands for."""

    make: MakeNetwork  # gives the network of a ``ModelSpec``
    widths: tuple[int, ...]  # channels per level with which it was published
    dims: tuple[int, ...] = (2,)  # 2, 3 or both
    gate: str = "none"  # on its skips, if it was published with one kind: ``none`` or ``attention``
    # Its two deepest levels are tokens, and even its finest skip lies on half of the image's grid.
    tokens: bool = False

    def divisor(self, levels: int) -> int:
        """Multiple to which images are padded, with so many ``widths``."""
        return 2 ** (levels if self.tokens else levels - 1)


NETWORKS: dict[str, Architecture] = {}
"""Every system of the paper's Tables 1 and 2; all but ours have no settings but their widths."""


def network(name: str, widths: tuple[int, ...], **more: Any) -> Callable[[MakeNetwork], MakeNetwork]:
    """Register the function below as the network ``name``; the rest as in :class:`Architecture`."""

    def register(make: MakeNetwork) -> MakeNetwork:
        NETWORKS[name] = Architecture(make, widths, **more)
        return make

    return register


register_all(__name__, __path__, "published")
