"""What every gate did at one position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from napari_prosma.data.case import Image
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.readout import readout
from napari_prosma.inspection.record import GateRecord
from napari_prosma.inspection.trace import inspect_gates
from napari_prosma.model.checkpoint import Checkpoint

Make = Callable[..., Checkpoint]
LastOf = Callable[..., GateRecord]


@pytest.fixture
def record(make_checkpoint: Make, noise: Callable, last_of: LastOf) -> GateRecord:
    image = Image(noise(1, 31, 30), Geometry((0.5, 0.25), (10.0, 20.0), "mm"))
    return last_of(inspect_gates(make_checkpoint(), image))


@pytest.mark.parametrize(
    ("position", "fine", "coarse"),
    [
        ((0, 0), (0, 0), (0, 0)),
        ((5, 8), (5, 8), (2, 4)),
        ((6.4, 7.6), (6, 8), (3, 4)),
        ((30.4, 29.4), (30, 29), (15, 14)),
    ],
)
def test_a_position_is_read_where_the_maps_show_it(
    position: tuple[float, float], fine: tuple[int, int], coarse: tuple[int, int], record: GateRecord
) -> None:
    first, second = readout(record, position)
    assert (first.level, second.level) == (1, 2)
    assert (first.index, second.index) == (fine, coarse)
    for found in (first, second):
        skip = record.skips[found.level]
        assert skip.zero_fraction is not None
        assert skip.psi is not None
        assert found.support == pytest.approx(1 - skip.zero_fraction[found.index])
        assert found.psi == skip.psi[found.index]
        assert found.energy_kept == skip.energy_kept[found.index]
        assert found.floor == skip.floor


def test_channels_let_through_are_the_largest_and_those_stopped_the_nearest_to_passing(
    record: GateRecord,
) -> None:
    (found, _) = readout(record, (12, 17), top=100)
    skip = record.skips[1]
    assert skip.z is not None
    assert skip.u is not None
    assert skip.threshold is not None
    z = skip.z[:, 12, 17]
    assert [v.u for v in found.through] == [skip.u[v.channel, 12, 17] for v in found.through]
    assert {v.channel for v in found.through} == set(np.flatnonzero(z))
    assert {v.channel for v in found.stopped} == set(np.flatnonzero(z == 0))
    assert found.through
    assert found.stopped
    sizes = [abs(v.z) for v in found.through]
    assert sizes == sorted(sizes, reverse=True)
    near = [abs(v.u) / v.threshold for v in found.stopped]
    assert near == sorted(near, reverse=True)
    assert max(near) <= 1 + 1e-6
    for v in found.through:
        assert v.z == pytest.approx(np.sign(v.u) * (abs(v.u) - skip.threshold[v.channel]), abs=1e-5)
    assert len(readout(record, (12, 17), top=2)[0].through) == 2


def test_beside_the_image_there_is_nothing_to_read(record: GateRecord) -> None:
    for position in ((-0.6, 3), (31, 3), (3, 29.6), (-5, -5)):
        assert readout(record, position) == []
    with pytest.raises(ValueError, match="2 axes"):
        readout(record, (1, 2, 3))


@pytest.mark.parametrize("gate", ["none", "attention", "channel", "dense"])
def test_what_a_gate_does_not_have_is_not_read(
    gate: str, make_checkpoint: Make, noise: Callable, last_of: LastOf
) -> None:
    image = Image(noise(1, 32, 32), Geometry.pixels(2))
    first, _ = readout(last_of(inspect_gates(make_checkpoint(gate), image)), (4, 4))
    assert first.through == first.stopped == ()
    assert (first.psi is None) == (gate in ("none", "channel"))
    assert 0 <= first.energy_kept <= 1 + 1e-6


def test_energy_inside_and_outside_are_shares_of_their_own_sums(
    make_checkpoint: Make, noise: Callable, last_of: LastOf
) -> None:
    from napari_prosma.inspection.what_if import WhatIf

    label = np.zeros((32, 32), np.uint8)
    label[4:20, 10:24] = 1
    tried = WhatIf(make_checkpoint(), Image(noise(1, 32, 32), Geometry.pixels(2)), label=label)
    skip = tried.apply({}).record.skips[2]
    maps = [tried.skip_channel(2, k) for k in range(16)]
    kept, whole = (sum(np.square(getattr(m, name)) for m in maps) for name in ("after", "before"))
    inside = label.reshape(16, 2, 16, 2).mean(axis=(1, 3)) >= 0.5
    within, beyond = kept[inside].sum() / whole[inside].sum(), kept[~inside].sum() / whole[~inside].sum()
    assert skip.measures["retained_energy_inside"] == pytest.approx(within, rel=1e-5)
    assert skip.measures["retained_energy_outside"] == pytest.approx(beyond, rel=1e-5)
    assert skip.measures["retained_energy_ratio"] == pytest.approx(within / beyond, rel=1e-5)
