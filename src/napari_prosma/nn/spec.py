"""``ModelSpec``: what to build, as plain values that go into a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from napari_prosma.nn.gate_kinds import GATES, GateOptions
from napari_prosma.nn.network_kinds import NETWORKS, OURS, WIDTHS

NORMS = ("batch", "instance")
ENTRIES = (1, 2)


OURS_GATE = "prosma"
PUBLISHED = "published"
"""Name for the widths of ``NETWORKS``, where presets are named."""
AUTO = "auto"
"""Name for widths and an entry that follow from the time that there is."""


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
    network : str
        A key of ``NETWORKS``. Those of other papers have the gate and norm that they were published with:
        ``gate`` says which, and ``gated_levels`` is empty where there is none.
    entry : 1 or 2
        Stride of a convolution before level 1. 1: there is none, as in the paper. 2: ours, for short runs, as
        in MONAI's UNet: all levels lie on half of the image's grid, and the head is a transposed convolution.
    """

    dims: int
    in_channels: int
    out_channels: int
    widths: tuple[int, ...] = WIDTHS["tiny"]
    gate: str = OURS_GATE
    gate_options: GateOptions = field(default_factory=GateOptions)
    gated_levels: tuple[int, ...] = ()
    norm: str = "batch"
    network: str = OURS
    entry: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(int(w) for w in self.widths))
        if self.network not in NETWORKS:
            raise ValueError(f"unknown network {self.network!r}; choose one of {', '.join(NETWORKS)}")
        if self.network != OURS:
            self._take_published_gate()
        levels = tuple(int(s) for s in self.gated_levels)
        if not levels and (self.network == OURS or GATES[self.gate].parts):
            levels = tuple(range(1, len(self.widths)))
        object.__setattr__(self, "gated_levels", levels)
        if self.dims not in (2, 3):
            raise ValueError(f"dims must be 2 or 3, found {self.dims}")
        if self.dims not in NETWORKS[self.network].dims:
            others = ", ".join(name for name, known in NETWORKS.items() if self.dims in known.dims)
            raise ValueError(
                f"network {self.network!r} is 2D; work slice by slice (dims 2), or choose one of {others}"
            )
        if self.in_channels < 1 or self.out_channels < 1:
            raise ValueError(
                f"channels must be positive, found {self.in_channels} in, {self.out_channels} out"
            )
        if len(self.widths) < 3 or min(self.widths) < 1:
            raise ValueError(f"widths must be at least three positive integers, found {self.widths}")
        if self.entry not in ENTRIES:
            raise ValueError(f"entry must be 1 or 2, found {self.entry}")
        if self.gate not in GATES:
            raise ValueError(f"unknown gate {self.gate!r}; choose one of {', '.join(GATES)}")
        if self.norm not in NORMS:
            raise ValueError(f"unknown norm {self.norm!r}; choose one of {', '.join(NORMS)}")
        if not set(levels) <= set(range(1, len(self.widths))):
            raise ValueError(f"gated levels {levels} must lie within 1 and {len(self.widths) - 1}")

    @property
    def divisor(self) -> int:
        """Images are padded to multiples of it along every axis."""
        return self.entry * NETWORKS[self.network].divisor(len(self.widths))

    def factor(self, level: int) -> int:
        """How many times coarser than the image's the grid of an encoder level is (1 = finest)."""
        return self.entry * 2 ** (level - 1)

    def _take_published_gate(self) -> None:
        """Refuse what only our network can be told, and say in ``gate`` what this one has."""
        published = NETWORKS[self.network].gate
        has_gates = GATES[published].parts > 0
        every_level = tuple(range(1, len(self.widths))) if has_gates else ()
        refused = [
            name
            for name, allowed in (
                ("gate", (OURS_GATE, published)),
                ("gate_options", (GateOptions(),)),
                ("gated_levels", ((), every_level)),
                ("norm", (NORMS[0],)),
                ("entry", (1,)),
            )
            if getattr(self, name) not in allowed
        ]
        if refused:
            has = f"has the gate {published!r} on every skip" if has_gates else "has no gates"
            raise ValueError(
                f"network {self.network!r} {has} and the norms of its paper; leave out {', '.join(refused)}, "
                f"or choose {OURS}"
            )
        object.__setattr__(self, "gate", published)
