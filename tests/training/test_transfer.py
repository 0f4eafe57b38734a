"""Fine-tuning: what comes over from another model, what it answers then, what learns, before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import CaseFacts, Plan, read_facts
from napari_prosma.data.metrics import overlaps_of
from napari_prosma.errors import CheckpointError, ConfigError, DataError
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import Checkpoint, ensemble_of
from napari_prosma.nn.build import build_model
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.training.batches import PreparedCases
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.figures import validation_figures
from napari_prosma.training.planning import plan_for
from napari_prosma.training.schedule import make_optimizer
from napari_prosma.training.transfer import (
    adapted_plan,
    architecture,
    baseline,
    set_training,
    take_over,
    trained_parts,
    translated,
)

Make = Callable[..., Checkpoint]
LIVER = ("background", "liver")
THREE = ("background", "liver", "spleen")


@pytest.fixture
def new_network() -> Callable[..., ProSMAUNet]:
    """A network with the architecture of a checkpoint, other channels and classes, and weights of its own."""

    def make(source: Checkpoint, channels: int = 1, classes: int = 1, **spec: object) -> ProSMAUNet:
        changed = replace(source.spec, in_channels=channels, out_channels=classes, **spec)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(99)
            return build_model(changed).eval()

    return make


def image(channels: int = 1, side: int = 16) -> Tensor:
    return torch.linspace(-4, 4, channels * side * side).sin().view(1, channels, side, side)


def facts(
    shape: tuple[int, ...] = (64, 64), unit: str = "pixel", classes: int = 2, lowest: int = 0
) -> list[CaseFacts]:
    """Of one case whose gray values begin at ``lowest``."""
    pixels = np.linspace(lowest, 90, np.prod(shape)).astype(np.int16).reshape(1, *shape)
    label = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8) % classes
    geometry = Geometry((1.0,) * len(shape), (0.0,) * len(shape), unit)
    return list(read_facts([Case.from_arrays("a", pixels, label, geometry)]))


# ---- the weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dims", "classes"), [(2, LIVER), (2, THREE), (3, LIVER)])
@torch.no_grad()
def test_a_network_of_the_same_task_takes_over_everything_and_answers_alike(
    dims: int, classes: tuple[str, ...], make_checkpoint: Make, new_network: Callable
) -> None:
    source = make_checkpoint(dims=dims, classes=classes)
    network = new_network(source, classes=source.spec.out_channels)
    found = take_over(network, source, classes)
    assert found.taken == source.weights.keys()
    assert found.adapted == found.new == ()
    x = torch.linspace(-4, 4, 12**dims).sin().view(1, 1, *(12,) * dims)
    assert torch.equal(network(x), source.build()(x))
    count = len(source.weights)
    assert found.in_words() == f"{count} of {count} tensors taken over; head: {', '.join(classes[1:])} kept"


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (3, 4), (4, 3), (5, 2)])
@torch.no_grad()
def test_a_network_of_other_channels_answers_to_equal_channels_as_before(
    before: int, after: int, make_checkpoint: Make, new_network: Callable
) -> None:
    source = make_checkpoint(channels=before, classes=LIVER)
    network = new_network(source, channels=after)
    found = take_over(network, source, LIVER)
    assert found.adapted == ("encoder.0.body.0.weight", "encoder.0.shortcut.0.weight")
    gray = image()
    old = source.build()(gray.expand(-1, before, -1, -1))
    assert torch.allclose(network(gray.expand(-1, after, -1, -1)), old, atol=1e-4)
    assert f"first convolution adapted from {before} to {after} channel(s)" in found.in_words()


def test_common_channels_keep_their_weights_up_to_scale(make_checkpoint: Make, new_network: Callable) -> None:
    source = make_checkpoint(channels=3, classes=LIVER)
    network = new_network(source, channels=4)
    take_over(network, source, LIVER)
    old, new = source.weights["encoder.0.body.0.weight"], network.state_dict()["encoder.0.body.0.weight"]
    assert torch.allclose(new[:, :3], old * 0.75)
    assert torch.allclose(new[:, 3], old.mean(dim=1) * 0.75)


@torch.no_grad()
def test_one_logit_becomes_a_softmax_with_the_same_odds(make_checkpoint: Make, new_network: Callable) -> None:
    source = make_checkpoint(classes=LIVER)
    network = new_network(source, classes=3)
    fresh = network.head.weight[1].clone()
    found = take_over(network, source, ("background", "spleen", "Liver "))
    old, new = source.build()(image()), network(image())
    assert torch.allclose(new[:, 2] - new[:, 0], old[:, 0], atol=1e-5)
    assert torch.equal(network.head.weight[1], fresh)
    assert (found.kept_classes, found.new_classes) == (("Liver ",), ("spleen",))
    assert found.adapted == ("head.weight", "head.bias")
    assert "head: Liver  kept, spleen new" in found.in_words()


@torch.no_grad()
def test_a_softmax_becomes_one_logit_with_the_same_odds(make_checkpoint: Make, new_network: Callable) -> None:
    source = make_checkpoint(classes=THREE)
    network = new_network(source)
    take_over(network, source, ("background", "spleen"))
    old = source.build()(image())
    assert torch.allclose(network(image())[:, 0], old[:, 2] - old[:, 0], atol=1e-5)


@torch.no_grad()
def test_classes_in_another_order_keep_their_logits(make_checkpoint: Make, new_network: Callable) -> None:
    source = make_checkpoint(classes=THREE)
    network = new_network(source, classes=3)
    found = take_over(network, source, ("background", "spleen", "liver"))
    assert torch.equal(network(image())[:, [0, 2, 1]], source.build()(image()))
    assert "head.weight" not in found.taken


def test_without_a_class_in_common_the_head_begins_anew(make_checkpoint: Make, new_network: Callable) -> None:
    source = make_checkpoint(classes=LIVER)
    network = new_network(source)
    fresh = network.head.weight.detach().clone()
    found = take_over(network, source, ("background", "spleen"))
    assert torch.equal(network.head.weight, fresh)
    assert found.new == ("head.weight", "head.bias")
    assert found.in_words().endswith("head: spleen new")


def test_another_gate_begins_anew_and_the_backbone_comes_over(
    make_checkpoint: Make, new_network: Callable
) -> None:
    source = make_checkpoint("attention", classes=LIVER)
    network = new_network(source, gate="prosma")
    found = take_over(network, source, LIVER)
    assert found.new
    assert all(name.startswith("gates.") for name in found.new)
    assert {"head.weight", "encoder.2.body.0.weight", "decoder.0.body.1.running_mean"} <= found.taken
    assert f"new: {len(found.new)} of the gates" in found.in_words()


def test_tensors_of_another_width_begin_anew(make_checkpoint: Make, new_network: Callable) -> None:
    source = make_checkpoint(classes=LIVER)
    network = new_network(source, widths=(8, 16, 24))
    found = take_over(network, source, LIVER)
    assert {"encoder.1.body.0.weight", "head.weight"} <= found.taken
    assert {"encoder.2.body.0.weight", "up.1.body.0.weight"} <= set(found.new)
    wider = take_over(new_network(source, widths=(6, 16, 32)), source, LIVER)
    assert {"head.weight", "encoder.0.body.0.weight"} <= set(wider.new)
    assert wider.kept_classes == ()


def test_every_tensor_is_taken_adapted_or_new(make_checkpoint: Make, new_network: Callable) -> None:
    source = make_checkpoint("attention", classes=LIVER)
    network = new_network(source, channels=3, classes=3, gate="prosma")
    found = take_over(network, source, THREE)
    parts = [*found.taken, *found.adapted, *found.new]
    assert sorted(parts) == sorted(network.state_dict())


def test_what_was_taken_over_is_apart_from_its_source(make_checkpoint: Make, new_network: Callable) -> None:
    source = make_checkpoint(classes=LIVER)
    kept = {name: tensor.clone() for name, tensor in source.weights.items()}
    network = new_network(source)
    take_over(network, source, LIVER)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    assert all(torch.equal(source.weights[name], tensor) for name, tensor in kept.items())


def test_an_ensemble_cannot_be_trained_further(make_checkpoint: Make, new_network: Callable) -> None:
    source = make_checkpoint()
    several = replace(ensemble_of([source, source], {}), path=Path("runs/all/ensemble.safetensors"))
    with pytest.raises(CheckpointError, match=r"is an ensemble of 2 .* such as 'runs.all.fold1'"):
        take_over(new_network(source), several, LIVER)
    with pytest.raises(CheckpointError, match="is an ensemble of 2"):
        adapted_plan(several, facts(unit="mm"), LIVER)


def test_the_architecture_of_a_model_is_that_of_a_run_that_takes_all_of_it_over(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    source = make_checkpoint("attention", classes=THREE)
    config = TrainConfig.of(run_dir=tmp_path, **architecture(source))
    assert config.model_spec(source.plan) == source.spec


# ---- the plan -------------------------------------------------------------------------------------------


@pytest.fixture
def ct_model(make_checkpoint: Make) -> Checkpoint:
    """A 3D model of CT in mm."""
    source = make_checkpoint(dims=3, classes=LIVER, spacing=(3.0, 0.8, 0.8), patch=(8, 32, 24))
    rule = {"intensity": "ct", "clip": (-120.0, 240.0), "mean": 50.0, "std": 40.0, "axes": 3}
    return replace(source, plan=source.plan.model_copy(update=rule))


def test_spacing_patch_and_intensity_are_the_models_and_channels_and_classes_are_new(
    ct_model: Checkpoint,
) -> None:
    found, notices = adapted_plan(ct_model, facts((40, 90, 90), "um", classes=3, lowest=-1000), THREE)
    old = ct_model.plan.model_dump(exclude={"class_names", "batch"})
    assert found.model_dump(exclude={"class_names", "batch"}) == old
    assert found.class_names == THREE
    assert notices == ()


def test_the_batch_follows_the_memory_and_what_is_given_is_taken(ct_model: Checkpoint) -> None:
    volumes = facts((40, 90, 90), "mm", lowest=-1000)
    voxels = 8 * 32 * 24
    assert adapted_plan(ct_model, volumes, LIVER, batch_elements=5 * voxels)[0].batch == 5
    given = {"spacing": (2.0, 1.0, 1.0), "patch": (4, 16, 16), "batch": 3, "intensity": "zscore"}
    found, _ = adapted_plan(ct_model, volumes, LIVER, **given)
    assert {name: getattr(found, name) for name in given} == given
    unchosen = dict.fromkeys(("spacing", "patch", "batch", "intensity", "dims"))
    assert adapted_plan(ct_model, volumes, LIVER, **unchosen) == adapted_plan(ct_model, volumes, LIVER)


def test_a_3d_model_is_refused_for_images_and_other_dims_are_too(ct_model: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="is 3D and the images are 2D"):
        adapted_plan(ct_model, facts(unit="mm"), LIVER)
    with pytest.raises(ConfigError, match="is 3D but 2D was chosen"):
        adapted_plan(ct_model, facts((40, 90, 90), "mm"), LIVER, dims=2)
    with pytest.raises(DataError, match="no labelled case"):
        adapted_plan(ct_model, [], LIVER)


def test_images_that_know_no_size_are_planned_anew_and_the_user_is_told(ct_model: Checkpoint) -> None:
    found, (units, intensity) = adapted_plan(ct_model, facts((48, 64, 64)), LIVER)
    assert (found.spacing, found.unit, found.patch) == (None, "pixel", (48, 64, 64))
    assert "had a size in mm and some of these have none: spacing and patch are planned again" in units
    assert found.intensity == "zscore"
    assert "trained on CT" in intensity


def test_images_with_a_size_are_planned_anew_for_a_model_in_pixels(make_checkpoint: Make) -> None:
    source = make_checkpoint(patch=(32, 16), spacing=(2.0, 2.0))
    source = replace(source, plan=source.plan.model_copy(update={"unit": "pixel"}))
    kept, none = adapted_plan(source, facts(), LIVER)
    assert (kept.spacing, kept.patch, none) == ((2.0, 2.0), (32, 16), ())
    found, (notice,) = adapted_plan(source, facts(unit="mm"), LIVER)
    assert (found.spacing, found.unit, found.patch) == ((1.0, 1.0), "mm", (64, 64))
    assert "had no physical size" in notice


def test_a_short_side_goes_on_whatever_the_images_know_of_their_size(make_checkpoint: Make) -> None:
    source = make_checkpoint(patch=(32, 16), spacing=(2.0, 2.0))
    source = replace(source, plan=source.plan.model_copy(update={"unit": "pixel", "side": 32}))
    for unit in ("pixel", "mm"):
        found, notices = adapted_plan(source, facts(unit=unit), LIVER)
        assert (found.side, found.unit, found.spacing, notices) == (32, "pixel", (2.0, 2.0), ())
    both = [*facts((512, 600)), *facts((512, 600), "mm")]
    assert adapted_plan(source, both, LIVER)[0].side == 32
    assert adapted_plan(source, both, LIVER, side=256)[0].side == 256
    assert adapted_plan(source, facts(unit="mm"), LIVER, spacing=(3.0, 3.0))[0].side is None


def test_a_plan_knows_the_largest_volumes_of_its_own_and_of_the_model_before(ct_model: Checkpoint) -> None:
    volumes = [*facts((40, 90, 100), "mm", lowest=-1000), *facts((50, 80, 90), "mm", lowest=-1000)]
    config = TrainConfig.of(run_dir=Path("run"), spacing=(2.0, 1.0, 1.0), dims=3)
    assert plan_for(config, volumes, LIVER)[0].largest == (25, 90, 100)
    source = replace(ct_model, plan=ct_model.plan.model_copy(update={"largest": (30, 30, 30)}))
    config = TrainConfig.of(run_dir=Path("run"), start_from=Path("model"))
    assert plan_for(config, volumes, LIVER, source)[0].largest == (30, 112, 125)
    other = config.model_copy(update={"spacing": (2.0, 1.0, 1.0)})
    assert plan_for(other, volumes, LIVER, source)[0].largest == (25, 90, 100)
    assert plan_for(TrainConfig.of(run_dir=Path("run")), facts((64, 64), "mm"), LIVER)[0].largest == ()


def test_a_2d_model_goes_on_with_volumes_slice_by_slice(make_checkpoint: Make) -> None:
    source = make_checkpoint(classes=LIVER, spacing=(0.5, 0.5))
    source = replace(source, plan=source.plan.model_copy(update={"axes": 2}))
    found, notices = adapted_plan(source, facts((40, 90, 90), "mm", lowest=-1000), LIVER)
    assert (found.dims, found.axes, found.spacing) == (2, 2, (0.5, 0.5))
    assert found.intensity == "zscore"  # though these are CT: its features are used to it
    assert notices == ()


def test_a_2d_model_of_volumes_goes_on_with_images(make_checkpoint: Make) -> None:
    source = make_checkpoint(classes=LIVER, spacing=(3.0, 0.8, 0.8))
    source = replace(source, plan=source.plan.model_copy(update={"axes": 3, "slice_axis": 2}))
    found, _ = adapted_plan(source, facts(unit="mm"), LIVER)
    assert (found.spacing, found.slice_axis) == ((3.0, 0.8, 0.8), 2)
    assert found.of_seen_axes(found.spacing) == (3.0, 0.8)


# ---- what learns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trains", "learning"),
    [
        ("all", {"encoder", "up", "gates", "decoder", "head"}),
        ("decoder", {"up", "gates", "decoder", "head"}),
        ("gates and head", {"gates", "head"}),
    ],
)
def test_only_what_is_chosen_changes_in_a_step(
    trains: str, learning: set[str], make_checkpoint: Make, tmp_path: Path
) -> None:
    network = make_checkpoint().build()
    assert isinstance(network, ProSMAUNet)
    trained_parts(network, trains)
    optimizer = make_optimizer(network, TrainConfig(run_dir=tmp_path))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    set_training(network, trains)
    network(torch.cat([image(side=32), 2 * image(side=32)])).square().mean().backward()
    optimizer.step()
    changed = {
        name.split(".")[0]
        for name, tensor in network.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == learning
    assert network.training


def test_nothing_random_is_frozen(make_checkpoint: Make, new_network: Callable) -> None:
    source = make_checkpoint(classes=LIVER)
    network = new_network(source, widths=(8, 16, 24))
    new = take_over(network, source, LIVER).new
    for trains, words in (("decoder", "the encoder"), ("gates and head", "the encoder and up")):
        with pytest.raises(ConfigError, match=f"only the {trains} would learn, but {words} of this network"):
            trained_parts(network, trains, new)
        assert all(parameter.requires_grad for parameter in network.parameters())
    assert trained_parts(network, "all", new) == ()


# ---- before and after -----------------------------------------------------------------------------------


def test_labels_are_translated_by_the_names_of_their_classes() -> None:
    labels = np.array([[0, 1], [2, 3]], np.uint8)
    old = ("background", "liver", "kidney", "Spleen")
    assert translated(labels, old, ("back", "spleen", "liver")).tolist() == [[0, 2], [0, 1]]
    assert translated(labels, old, ("background", "tumour")).tolist() == [[0, 0], [0, 0]]
    assert translated(labels, old, old).tolist() == labels.tolist()


@pytest.fixture
def prepared() -> Callable[..., tuple[PreparedCases, Plan]]:
    def make(channels: int, classes: tuple[str, ...]) -> tuple[PreparedCases, Plan]:
        cases = []
        for n in range(2):
            gray = np.random.default_rng(n).normal(size=(1, 32, 32)).cumsum(axis=-1).astype(np.float32)
            label = np.zeros((32, 32), np.uint8)
            label[10:20, 10:20], label[22:30, 5:15] = 1, len(classes) - 1
            cases.append(Case.from_arrays(f"case {n}", np.repeat(gray, channels, axis=0), label))
        plan = Plan(dims=2, channels=channels, class_names=classes, patch=(32, 32), batch=2)
        return PreparedCases(cases, plan), plan

    return make


def figures_of(source: Checkpoint, cases: PreparedCases, plan: Plan) -> tuple[list[str], dict[str, float]]:
    run, names = baseline(source, cases, [0, 1], plan, torch.device("cpu")), []
    while True:
        try:
            names.append(next(run))
        except StopIteration as over:
            return names, over.value[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_baseline_is_what_the_model_gives_on_the_new_cases(
    channels: int, make_checkpoint: Make, prepared: Callable
) -> None:
    source = make_checkpoint(classes=THREE)
    cases, plan = prepared(channels, ("background", "spleen", "liver"))
    names, found = figures_of(source, cases, plan)
    assert set(names) == {"case 0", "case 1"}
    expected = []
    for n in range(2):
        gray = torch.from_numpy(cases[n].image[:1])
        with torch.no_grad():
            labels = source.build()(gray[None])[0].argmax(dim=0).numpy()
        labels = translated(labels, THREE, plan.class_names)
        expected += overlaps_of(f"case {n}", labels, cases[n].label, plan.class_names)
    assert found == pytest.approx(validation_figures(expected), abs=0.02)


def test_only_classes_that_both_know_have_figures(make_checkpoint: Make, prepared: Callable) -> None:
    cases, plan = prepared(1, ("background", "liver", "tumour"))
    _, found = figures_of(make_checkpoint(classes=THREE), cases, plan)
    assert set(found) == {"dice/liver", "iou/liver"}
    assert figures_of(make_checkpoint(classes=("background", "kidney")), cases, plan) == ([], {})


def test_a_baseline_leaves_the_global_random_numbers_alone(make_checkpoint: Make, prepared: Callable) -> None:
    source, (cases, plan) = make_checkpoint(classes=LIVER), prepared(3, LIVER)
    state = torch.get_rng_state()
    assert figures_of(source, cases, plan)[1]
    assert torch.equal(torch.get_rng_state(), state)
