"""A short run's model is the model that was learned: statistics that belong to its weights, in every file."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_prosma.data.case import Case
from napari_prosma.data.metrics import dice_and_iou
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.events import EpochEnd, Finished, Preview
from napari_prosma.model.checkpoint import BEST, LAST, Checkpoint, load_checkpoint
from napari_prosma.nn.build import build_model
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.network_kinds import NETWORKS, OURS
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.segmentation.segment import segment
from napari_prosma.training import keeper, statistics, tempo
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train
from napari_prosma.training.statistics import passes, same_statistics, settle

Settings = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def phantoms() -> list[Case]:
    return [ultrasound_case(seed, (64, 64)) for seed in range(10)]


def dice_of(checkpoint: Checkpoint, cases: list[Case]) -> float:
    """Mean Dice of the whole chain, as a user has it: read, segmented, on the image's own grid."""
    found = []
    for case in cases:
        *_, finished = segment(checkpoint, case.read_image(), device="cpu")
        assert isinstance(finished, Finished)
        assert case.read_label is not None
        found.append(dice_and_iou(finished.result.labels, case.read_label(), 1)[0])
    return float(np.mean(found))


def test_after_25_steps_the_saved_model_finds_what_the_preview_showed(
    settings: Settings, phantoms: list[Case], tmp_path: Path
) -> None:
    """25 steps on 10 phantoms: with running averages that lag, the saved model finds next to nothing."""
    config = settings(tmp_path / "run", epochs=1, steps_per_epoch=25, batch=4)
    events = list(train(config, phantoms))
    (preview,) = [event for event in events if isinstance(event, Preview)][-1:]
    shown = dice_and_iou(preview.labels, preview.truth, 1)[0]
    assert shown > 0.5
    for name in (BEST, LAST):
        kept = load_checkpoint(config.run_dir / name)
        held_out = [case for case in phantoms if case.name in kept.split["validation"]]
        (of_preview,) = [case for case in held_out if case.name == preview.case]
        assert dice_of(kept, [of_preview]) > shown - 0.1
        assert kept.metrics["dice"] == pytest.approx(dice_of(kept, held_out), abs=0.05)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_run_stopped_within_an_epoch_keeps_statistics_of_its_weights_and_goes_on_bit_for_bit(
    average: float, settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    whole = settings(tmp_path / "whole", steps_per_epoch=6, average=average)
    list(train(whole, ultrasound))
    config = settings(tmp_path / "run", steps_per_epoch=6, average=average)
    with closing(train(config, ultrasound)) as events:
        steps = 0
        for event in events:
            steps += "loss" in getattr(event, "message", "")
            if steps == 9:
                break
    kept = load_checkpoint(config.run_dir / LAST)
    assert kept.place["step"] == 9
    again = kept.build().train()
    settle(again, [torch.randn(2, 1, 48, 48)], nullcontext)
    assert any(not torch.equal(t, kept.weights[name]) for name, t in again.named_buffers())
    list(train(config, ultrasound, resumed=kept))
    for name in (BEST, LAST):
        one, other = (load_checkpoint(folder / name) for folder in (whole.run_dir, config.run_dir))
        assert one.metrics == other.metrics
        for part in ("weights", "state"):
            tensors, others = getattr(one, part), getattr(other, part)
            assert tensors.keys() == others.keys()
            assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items())


@pytest.mark.parametrize("gate", GATES)
def test_statistics_are_those_of_what_was_seen_with_every_gate(gate: str) -> None:
    _statistics_follow_the_weights(ModelSpec(2, 1, 1, (4, 6, 8), gate))


@pytest.mark.parametrize(
    ("network", "dims"),
    [(name, dims) for name, known in NETWORKS.items() if name != OURS for dims in known.dims],
)
def test_statistics_are_those_of_what_was_seen_with_every_network(network: str, dims: int) -> None:
    _statistics_follow_the_weights(ModelSpec(dims, 1, 1, (4, 6, 8), network=network))


def _statistics_follow_the_weights(spec: ModelSpec) -> None:
    """In evaluation, one batch seen is normalised as it was in training, but for n / (n - 1)."""
    torch.manual_seed(0)
    network = build_model(spec).train()
    batch = 3 + 2 * torch.randn(4, 1, *(32,) * spec.dims)
    counted = {name: t.clone() for name, t in network.named_buffers() if name.endswith("tracked")}
    state = torch.get_rng_state()
    settle(network, [batch], nullcontext)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, counted[name]) for name, t in network.named_buffers() if name in counted)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(norm.momentum == 0.1 for norm in norms)
    before = {name: t.clone() for name, t in network.named_buffers()}
    settle(network, [batch, batch], nullcontext)
    for name, t in network.named_buffers():
        torch.testing.assert_close(t, before[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "patches"), [(1024, 4), (512, 8), (320, 21), (64, 32)])
def test_statistics_are_of_as_many_patches_as_hold_enough(
    side: int, patches: int, make_checkpoint: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "PATCHES", (4, 32))
    plan = make_checkpoint(patch=(side, side)).plan.model_copy(update={"batch": 1})
    assert passes(plan) == pytest.approx(patches, abs=1)
    assert passes(plan.model_copy(update={"batch": 4})) == math.ceil(passes(plan) / 4)


def test_frozen_norms_keep_their_statistics_and_the_averages_come_back() -> None:
    network = build_model(ModelSpec(2, 1, 1, (4, 6, 8))).train()
    network.encoder.eval()
    before = {name: t.clone() for name, t in network.named_buffers()}
    with same_statistics(network):
        settle(network, [torch.randn(4, 1, 32, 32) * 5], nullcontext)
        changed = {n for n, t in network.named_buffers() if not torch.equal(t, before[n])}
        assert changed
        assert not any(name.startswith("encoder") for name in changed)
    assert all(torch.equal(t, before[n]) for n, t in network.named_buffers())


# ---- few validation cases, and a model to start from -----------------------------------------------------


def test_of_few_validation_cases_the_last_model_is_kept(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    config = settings(tmp_path / "run", epochs=4)
    events = list(train(config, ultrasound))  # validated on two
    assert load_checkpoint(config.run_dir / BEST).epoch == 4
    told = [event for event in events if isinstance(event, EpochEnd)]
    assert events[-1].result.score == told[-1].validation["dice"]


@pytest.fixture
def judged_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short epochs, each judged on one of several validation cases."""
    for part, name, value in (
        (tempo, "LEAST_JUDGED", 1),
        (tempo, "LEAST_STEPS", 2),
        (tempo, "VALIDATING", 0.01),
        (keeper, "FEW_VALIDATED", 1),
    ):
        monkeypatch.setattr(part, name, value)


@pytest.mark.usefixtures("judged_on_one")
def test_the_model_that_is_kept_is_judged_on_all_cases_and_knows_its_own_steps(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    """No epoch is better than the first."""
    list(train(settings(tmp_path, steps_per_epoch=None, learning_rate=1e-30), ultrasound))
    best, last = (load_checkpoint(tmp_path / name) for name in (BEST, LAST))
    assert len(last.place["judged"]) == 1 < len(best.split["validation"])
    assert {overlap.case for overlap in best.overlaps} == {*best.split["validation"]}
    assert (best.epoch, last.epoch) == (1, 2)
    assert 2 * best.steps == last.steps


@pytest.mark.usefixtures("judged_on_one")
def test_the_best_model_is_judged_without_its_file_which_only_the_first_process_writes(
    settings: Settings, ultrasound: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_there(path: Path) -> Checkpoint:
        raise AssertionError(f"{path} is read")

    monkeypatch.setattr(keeper, "load_checkpoint", not_there)
    list(train(settings(tmp_path, steps_per_epoch=None, learning_rate=1e-30), ultrasound))
    best = load_checkpoint(tmp_path / BEST)
    assert {overlap.case for overlap in best.overlaps} == {*best.split["validation"]}


def test_a_model_never_ends_below_the_one_that_it_began_with(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    source = settings(tmp_path / "source", epochs=6, steps_per_epoch=10)
    list(train(source, ultrasound))
    began = load_checkpoint(source.run_dir)
    config = settings(
        tmp_path / "run", start_from=source.run_dir, learning_rate=0.5, taken_rate=1.0, augment=False
    )
    events = list(train(config, ultrasound))
    kept = load_checkpoint(config.run_dir)
    assert kept.epoch == 0
    assert all(torch.equal(tensor, began.weights[name]) for name, tensor in kept.weights.items())
    assert any("No epoch was better" in getattr(event, "message", "") for event in events)
    assert events[-1].result.score == pytest.approx(began.metrics["dice"])
