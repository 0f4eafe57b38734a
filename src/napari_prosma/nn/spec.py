"""``ModelSpec``: what to build, as plain values that go into a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from napari_prosma.nn.gates import GATES, GateOptions

WIDTHS: dict[str, tuple[int, ...]] = {
    "quick": (8, 16, 32, 64, 128),
    "tiny": (16, 32, 64, 128, 256),
    "base": (32, 64, 128, 256, 512),
    "large": (64, 128, 256, 512, 1024),
}
"""Width presets; ``large`` is the paper's scale in 2D."""
NORMS = ("batch", "instance")


@dataclass(frozen=True)
class ModelSpec:
    """Architecture of one network.

    Attributes
    ----------
    dims : 2 or 3
    in_channels, out_channels : int
        One output channel means one foreground class by a sigmoid, more mean a softmax with background first.
    widths : tuple of int
        Channels per level, finest first, at least three.
    gate : str
        A key of ``GATES``.
    gate_options : GateOptions
    gated_levels : tuple of int
        Encoder levels whose skips are gated (1 = finest); empty means all.
    norm : "batch" or "instance"
        Of the backbone. Gates have their own (``GateOptions``).
    """

    dims: int
    in_channels: int
    out_channels: int
    widths: tuple[int, ...] = WIDTHS["tiny"]
    gate: str = "prosma"
    gate_options: GateOptions = field(default_factory=GateOptions)
    gated_levels: tuple[int, ...] = ()
    norm: str = "batch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(int(w) for w in self.widths))
        levels = tuple(int(s) for s in self.gated_levels) or tuple(range(1, len(self.widths)))
        object.__setattr__(self, "gated_levels", levels)
        if self.dims not in (2, 3):
            raise ValueError(f"dims must be 2 or 3, found {self.dims}")
        if self.in_channels < 1 or self.out_channels < 1:
            raise ValueError(
                f"channels must be positive, found {self.in_channels} in, {self.out_channels} out"
            )
        if len(self.widths) < 3 or min(self.widths) < 1:
            raise ValueError(f"widths must be at least three positive integers, found {self.widths}")
        if self.gate not in GATES:
            raise ValueError(f"unknown gate {self.gate!r}; choose one of {', '.join(GATES)}")
        if self.norm not in NORMS:
            raise ValueError(f"unknown norm {self.norm!r}; choose one of {', '.join(NORMS)}")
        if not set(levels) <= set(range(1, len(self.widths))):
            raise ValueError(f"gated levels {levels} must lie within 1 and {len(self.widths) - 1}")
