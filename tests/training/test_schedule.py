"""The optimizer and its state in a checkpoint, the learning rate, and a clock that can be changed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_prosma.errors import CheckpointError
from napari_prosma.nn.build import build_model, lay_out
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.schedule import (
    Clock,
    Costs,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    schedule,
    set_relative_rates,
    usual_rate,
    usual_taken_rate,
)


@pytest.fixture
def network() -> ProSMAUNet:
    return lay_out(build_model(ModelSpec(2, 1, 1, (2, 4, 8))), 2, "channels-last")


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(run_dir=tmp_path, taken_rate=0.25, threshold_rate=3.0)


def rates(network: ProSMAUNet, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Relative rate of every parameter that learns, by its name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(p)]: group["relative_rate"] for group in optimizer.param_groups for p in group["params"]}


def step(network: ProSMAUNet, optimizer: torch.optim.Optimizer, number: int) -> None:
    """With gradients that do not lie in memory as the weights do."""
    image = torch.linspace(-1, 1, 2 * 16 * 16).mul(number).sin().view(2, 1, 16, 16)
    optimizer.zero_grad()
    network(image).square().mean().backward()
    for parameter in network.parameters():
        parameter.grad = None if parameter.grad is None else parameter.grad.contiguous()
    optimizer.step()


def laid_out_anew(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As a file gives them back."""
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


# ---- the optimizer --------------------------------------------------------------------------------------


def test_on_a_processor_a_step_in_one_kernel_is_that_of_adamw(
    network: ProSMAUNet, config: TrainConfig
) -> None:
    fused, plain = make_optimizer(network, config), make_optimizer(network, config, device="cuda")
    assert fused.defaults["fused"]
    assert not plain.defaults["fused"], "gradients of float16 are clipped before the step"
    begin = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    learned = []
    for optimizer in (fused, plain):
        network.load_state_dict(begin)
        for number in range(1, 4):
            step(network, optimizer, number)
            restore_optimizer(optimizer, laid_out_anew(optimizer_tensors(optimizer)))
        learned.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    for name, tensor in learned[0].items():
        torch.testing.assert_close(tensor, learned[1][name], rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.equal(learned[0]["head.weight"], begin["head.weight"])


def test_what_was_taken_over_learns_slowly_and_thresholds_at_their_own_rate_too(
    network: ProSMAUNet, config: TrainConfig
) -> None:
    taken = {"encoder.0.body.0.weight", "encoder.0.body.1.bias", "gates.0.spatial.theta"}
    found = rates(network, make_optimizer(network, config, taken))
    assert found.keys() == {name for name, _ in network.named_parameters()}
    for name, rate in found.items():
        expected = (0.25 if name in taken else 1.0) * (3.0 if name.endswith("theta") else 1.0)
        assert rate == expected, name


def test_frozen_parameters_are_not_stepped(network: ProSMAUNet, config: TrainConfig) -> None:
    network.encoder.requires_grad_(False)
    found = rates(network, make_optimizer(network, config))
    assert not any(name.startswith("encoder.") for name in found)
    assert any(name.startswith("decoder.") for name in found)


def test_a_run_without_taken_parameters_has_the_groups_that_runs_always_had(
    network: ProSMAUNet, config: TrainConfig
) -> None:
    names = list(rates(network, make_optimizer(network, config)))
    thresholds = [name for name in names if name.endswith("theta")]
    many = [name for name, p in network.named_parameters() if p.ndim > 1]
    assert names[: len(many)] == many
    assert names[-len(thresholds) :] == thresholds


@pytest.mark.parametrize("taken", [(), ("head.bias", "gates.1.spatial.theta", "up.0.body.0.weight")])
def test_a_restored_optimizer_steps_as_the_one_that_went_on(
    taken: tuple[str, ...], network: ProSMAUNet, config: TrainConfig
) -> None:
    network.encoder.requires_grad_(False)
    first = make_optimizer(network, config, taken)
    step(network, first, 1)
    kept, weights = optimizer_tensors(first), {k: t.clone() for k, t in network.state_dict().items()}
    kept = {name: tensor.clone() for name, tensor in kept.items()}
    step(network, first, 2)
    went_on = {k: t.clone() for k, t in network.state_dict().items()}
    network.load_state_dict(weights)
    second = make_optimizer(network, config, taken)
    restore_optimizer(second, kept)
    step(network, second, 2)
    assert all(torch.equal(went_on[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        {"0.exp_avg": None},
        {"0.exp_avg": torch.zeros(3)},
        {"0.step": torch.zeros(2)},
        {"0.step": None},
        {"999.exp_avg": torch.zeros(3)},
        {"one.exp_avg": torch.zeros(3)},
        {"0.momentum": torch.zeros(3)},
    ],
)
def test_a_state_of_other_parameters_is_refused_by_name(
    changes: dict, network: ProSMAUNet, config: TrainConfig
) -> None:
    optimizer = make_optimizer(network, config)
    step(network, optimizer, 1)
    state = {**optimizer_tensors(optimizer), **changes}
    with pytest.raises(CheckpointError, match="does not fit its network"):
        restore_optimizer(optimizer, {name: t for name, t in state.items() if t is not None})


# ---- the learning rate ----------------------------------------------------------------------------------


@pytest.mark.parametrize("warm_up", [0.0, 0.03, 0.5])
def test_learning_rate_rises_over_its_warm_up_then_falls_to_a_hundredth(warm_up: float) -> None:
    rates = [schedule(f, warm_up) for f in np.linspace(0, 1, 101)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(1)
    assert peak == round(100 * warm_up)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert min(rates) > 0
    assert rates[-1] == pytest.approx(0.01)


# ---- the clock ------------------------------------------------------------------------------------------


def test_a_run_made_longer_is_less_far_and_one_made_shorter_is_over() -> None:
    clock = Clock(100, None)
    assert (clock.total, clock.fraction(50), clock.done(50)) == (100, 0.5, 50)
    clock.steps = 200
    assert (clock.total, clock.fraction(50), clock.done(50)) == (200, 0.25, 50)
    clock.steps = 40
    assert (clock.total, clock.fraction(50), clock.done(50)) == (40, 1.0, 40)


def test_a_clock_counts_seconds_as_soon_as_minutes_are_set_and_steps_when_they_are_lifted() -> None:
    clock = Clock(1000, None)
    clock.count_on_from(60)
    clock.minutes = 4
    assert clock.total == 240
    assert clock.fraction(0) == pytest.approx(0.25, abs=0.01)
    clock.minutes = 2
    assert clock.fraction(0) == pytest.approx(0.5, abs=0.01)
    assert not clock.is_over()
    clock.minutes = 0.5
    assert clock.is_over()
    clock.minutes = None
    assert (clock.total, clock.fraction(500), clock.is_over()) == (1000, 0.5, False)


def test_the_time_left_for_a_last_validation_is_never_more_than_half_of_a_shortened_run() -> None:
    clock = Clock(1000, 10)
    clock.count_on_from(60)
    clock.reserved = 120
    assert clock.fraction(0) == pytest.approx(60 / 480, abs=0.01)
    clock.minutes = 3
    assert clock.fraction(0) == pytest.approx(60 / 90, abs=0.01)


def test_the_schedule_begins_with_the_first_step_and_the_time_with_the_run() -> None:
    clock = Clock(1000, 10, time.monotonic() - 120)
    assert clock.elapsed() == pytest.approx(120, abs=1)
    clock.learning_began = clock.elapsed()
    assert clock.fraction(0) == pytest.approx(0, abs=0.01)
    assert clock.left() == pytest.approx(480, abs=1)
    clock.count_on_from(240)
    assert clock.fraction(0) == pytest.approx(0.5, abs=0.01)


def test_what_the_computer_slept_is_left_out() -> None:
    clock = Clock(1000, 10, time.monotonic() - 3600)
    assert clock.is_over()
    clock.leave_out(3570)
    assert clock.elapsed() == pytest.approx(30, abs=1)


def test_a_step_that_gets_dearer_makes_a_window_dearer() -> None:
    costs = Costs(window=2.0)
    assert (costs.step, costs.of_windows(10)) == (0, 0)
    costs.stepped(1.0)
    assert costs.of_windows(10) == 20
    costs.validated(windows=10, seconds=5.0)
    costs.added(2.0)
    assert (costs.of_windows(10), costs.extra) == (5, 2)
    for _ in range(9):
        costs.stepped(10.0)
    assert (costs.of_windows(10), costs.extra) == (50, 20)
    costs.stepped(4.0)
    assert (costs.step, costs.least_step) == (10, 4)


def test_rates_fall_with_the_steps_between_two_ends() -> None:
    rates = [usual_rate(steps) for steps in (0, 100, 600, 2400, 10_000, 10**6)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[2], rates[3], rates[-1]) == (8e-3, 8e-3, 4e-3, 1e-3)
    taken = [usual_taken_rate(steps) for steps in (0, 600, 2400, 10**6)]
    assert taken == [0.3, 0.3, 0.15, 0.1]


def test_a_rate_that_follows_the_steps_can_be_set_again(network: ProSMAUNet, tmp_path: Path) -> None:
    config = TrainConfig(run_dir=tmp_path)
    optimizer = make_optimizer(network, config, {"head.bias"}, steps=100)
    assert rates(network, optimizer)["head.bias"] == 0.3
    set_relative_rates(optimizer, config, 10**6)
    found = rates(network, optimizer)
    assert (found["head.bias"], found["head.weight"]) == (0.1, 1.0)
