"""What gates there are: functions in the files of this package, which register and describe themselves.

Nothing here imports torch, so that a form, a shell's help or a measure can ask before a network is built;
``make`` of a gate does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_prosma.settings import Choice, register_all

if TYPE_CHECKING:
    from napari_prosma.nn.gates import Gate

    MakeGate = Callable[[int, int, int, "GateOptions"], Gate]
    """``(skip_channels, gating_channels, dims, options)`` gives the gate."""


@dataclass(frozen=True)
class GateOptions:
    """Every open choice of the gate, with our defaults; the paper tells but the purpose of the kernel."""

    dilations: tuple[int, ...] = (1, 2, 4)  # one depthwise 3 x 3 (x 3) convolution each
    # latent_ratio, latent_min: ``C_a = max(C_x // latent_ratio, latent_min)``.
    latent_ratio: int = 2
    latent_min: int = 8
    # squeeze_ratio, squeeze_min: hidden width of the channel part, ``max(C_g // squeeze_ratio,
    # squeeze_min)``.
    squeeze_ratio: int = 16
    squeeze_min: int = 4
    # "batch" or "none": batch normalisation after W_x, W_g and phi. In evaluation it folds into them, so the
    # network is the paper's; "none" is the literal printed form, which is nearly dead at its natural
    # initialisation.
    norm: str = "batch"
    # Lambda at the start. ln 2 is theta = 0, the only start neutral to weight decay.
    threshold: float = 0.6931471805599453

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", tuple(int(d) for d in self.dilations))
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations must be positive integers, found {self.dilations}")
        if self.norm not in ("batch", "none"):
            raise ValueError(f"norm must be 'batch' or 'none', found {self.norm!r}")
        if not self.threshold > 0:
            raise ValueError(f"threshold must be positive, found {self.threshold}")
        for name in ("latent_ratio", "latent_min", "squeeze_ratio", "squeeze_min"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")

    def latent(self, channels: int) -> int:
        """C_a of a skip with ``channels`` channels."""
        return max(channels // self.latent_ratio, self.latent_min)


@dataclass(frozen=True)
class GateKind:
    """What a gate is, told once: texts and measures ask this, never a name."""

    make: MakeGate  # ``(skip_channels, gating_channels, dims, options)`` gives the ``Gate``
    choice: Choice  # its words in a list
    parts: int = 2  # how many of psi and c it has
    thresholds: bool = False  # it learns lambda, so z has exact zeros
    exact_zeros: bool = False  # psi itself is exactly zero where z is empty
    in_ablation: bool = False  # the gate ablation trains it unless other gates are named

    @property
    def neutral_energy(self) -> float:
        """Energy kept where it selects nothing: every part stands at 1/2, and energy is its square."""
        return 0.25**self.parts


GATES: dict[str, GateKind] = {}
"""Every gate by its name."""


def gate(name: str, words: str, meaning: str, **more: Any) -> Callable[[MakeGate], MakeGate]:
    """Register the function below as the gate ``name``; the rest is what :class:`GateKind` holds."""

    def register(make: MakeGate) -> MakeGate:
        GATES[name] = GateKind(make, Choice(words, meaning), **more)
        return make

    return register


register_all(__name__, __path__, "paper")
