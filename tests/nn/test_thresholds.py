"""``start_thresholds``: the literal gate's start at the scale of its own field."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_prosma.nn.build import build_model
from napari_prosma.nn.gate_kinds import GATES, GateOptions
from napari_prosma.nn.gates import GateTrace
from napari_prosma.nn.network_kinds import WIDTHS
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.thresholds import start_thresholds
from napari_prosma.nn.unet import ProSMAUNet

SPARSE = ("prosma", "spatial", "prosma-exact")


def network(
    dims: int = 2, gate: str = "prosma", norm: str = "none", levels: tuple[int, ...] = ()
) -> tuple[ProSMAUNet, Tensor]:
    torch.manual_seed(0)
    widths = WIDTHS["quick"] if dims == 2 else (8, 16, 24)
    model = build_model(ModelSpec(dims, 1, 1, widths, gate, GateOptions(norm=norm), levels))
    return model, torch.rand(2, 1, *((64, 64) if dims == 2 else (16, 16, 16)))


def zero_fractions(model: ProSMAUNet, batch: Tensor) -> dict[int, Tensor]:
    """Fraction of exact zeros per channel, level by level, as training sees it."""
    trace = GateTrace()
    with torch.no_grad():
        model.train()(batch, trace)
    return {
        level: (seen.z == 0).double().mean(dim=[0, *range(2, seen.z.ndim)])
        for level, seen in trace.skips.items()
    }


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("gate", SPARSE)
def test_half_of_every_channel_of_every_gate_is_zero_afterwards(dims: int, gate: str) -> None:
    """At once at all levels, which is only so if the deepest gate was set first."""
    model, batch = network(dims, gate)
    before = zero_fractions(model, batch)
    levels = start_thresholds(model, batch)
    assert levels == ((4, 3, 2, 1) if dims == 2 else (2, 1))
    for level, fractions in zero_fractions(model, batch).items():
        assert before[level].mean() > 0.9
        # The median lies on one of the values, and a value or two may round over the threshold.
        values = batch[0, 0].numel() * len(batch) / 2 ** (dims * (level - 1))
        assert (fractions - 0.5).abs().max() <= 3 / values


def test_the_finer_gates_need_the_deepest_one_set_first() -> None:
    """What a gate lets through changes the field above it: trap "nested supports hold at fixed u only"."""
    model, batch = network()
    fields = []
    for theta in (1.0, -5.0):
        model.gate(4).spatial.theta.data.fill_(theta)
        trace = GateTrace()
        model(batch, trace)
        fields.append({level: seen.field for level, seen in trace.skips.items()})
    assert torch.equal(fields[0][4], fields[1][4])
    assert all(not torch.equal(fields[0][s], fields[1][s]) for s in (3, 2, 1))


@pytest.mark.parametrize("training", [False, True])
def test_nothing_but_theta_changes(training: bool) -> None:
    """Weights, running statistics, the mode and the absence of gradients stay as they were."""
    model, batch = network()
    model.train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    start_thresholds(model, batch)
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {f"gates.{s}.spatial.theta" for s in range(4)}
    assert model.training == training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("gate", list(GATES))
def test_gates_with_norms_keep_their_start(gate: str) -> None:
    model, batch = network(gate=gate, norm="batch")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert start_thresholds(model, batch) == ()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("gate", [name for name in GATES if name not in SPARSE])
def test_gates_without_thresholds_have_nothing_to_start(gate: str) -> None:
    model, batch = network(gate=gate)
    assert start_thresholds(model, batch) == ()


def test_only_gated_levels_are_set() -> None:
    model, batch = network(levels=(2, 4))
    assert start_thresholds(model, batch) == (4, 2)


def test_a_channel_without_a_field_gets_a_small_positive_threshold() -> None:
    """An all-zero channel has median 0, which softplus cannot reach: theta stays finite."""
    model, batch = network()
    for part in (model.gate(1).spatial.mix.weight, model.gate(1).spatial.mix.bias):
        part.data[0] = 0
    start_thresholds(model, batch)
    threshold = F.softplus(model.gate(1).spatial.theta)
    assert threshold.isfinite().all()
    assert 0 < threshold[0] < 1e-5 < threshold[1:].min()


def test_the_literal_gate_learns_only_after_its_start() -> None:
    """Printed as it is most channels have no gradient at the first step; with the start all have one."""

    def learning(model: ProSMAUNet, batch: Tensor) -> float:
        model.zero_grad()
        model.train()(batch).square().mean().backward()
        return torch.cat([model.gate(s).spatial.theta.grad != 0 for s in (1, 2, 3, 4)]).double().mean().item()

    model, batch = network()
    assert learning(model, batch) < 0.2
    start_thresholds(model, batch)
    assert learning(model, batch) == 1
