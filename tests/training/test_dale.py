"""DALE: which labels are doubted, how little they then count, and the list that a run leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import rankdata

from napari_prosma.app.doubts import compare_with_label
from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import case_facts, make_plan
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.errors import CheckpointError
from napari_prosma.events import EpochEnd, Event, Finished, Notice, Progress
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import load_checkpoint, split_prefix
from napari_prosma.nn.build import build_model
from napari_prosma.nn.network_kinds import NETWORKS
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.batches import Batch, Batches, PreparedCases
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.doubt import (
    LABEL_CONFIDENCE,
    DoubtedLabel,
    disagreement,
    doubt,
    look_first,
    write_label_confidence,
)
from napari_prosma.training.losses import dice_cross_entropy, in_this_process
from napari_prosma.training.objective import Context
from napari_prosma.training.objectives.dale.learning import (
    DALE,
    _LastMap,
    boundary_band,
    confidence,
    excess,
    partition,
    pixel_losses,
    sample_losses,
    weighted_loss,
)
from napari_prosma.training.processes import Processes
from napari_prosma.training.run import train
from napari_prosma.training.steering import Steering

EXCESS = st.floats(0, 30)
WEIGHT = st.floats(1e-6, 1)
GAMMA = st.floats(0.1, 10)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn_labels(classes: int, *shape: int) -> torch.Tensor:
    labels = torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(1))
    labels[..., :2] = IGNORE
    return labels


# ---- confidence -----------------------------------------------------------------------------------------


def objective_of(weight: torch.Tensor, high: torch.Tensor, gamma: float) -> torch.Tensor:
    """What section 4.2 minimises over the weights: ``w e + gamma (w ln w - w)``."""
    return weight * high + gamma * (weight * weight.log() - weight)


@limits(deadline=None, max_examples=50)
@given(EXCESS, GAMMA)
def test_the_confidence_is_where_the_objective_is_level(high: float, gamma: float) -> None:
    weight = float(confidence(torch.tensor(high, dtype=torch.float64), gamma, floor=0))
    if weight > 1e-100:
        assert high + gamma * np.log(weight) == pytest.approx(0, abs=1e-9)


@limits(deadline=None, max_examples=50)
@given(st.lists(st.tuples(EXCESS, WEIGHT), min_size=1, max_size=8), GAMMA)
def test_choosing_the_confidences_never_raises_the_joint_objective(
    cases: list[tuple[float, float]], gamma: float
) -> None:
    high, before = (torch.tensor(values, dtype=torch.float64) for values in zip(*cases, strict=True))
    chosen = confidence(high, gamma, floor=0).clamp(min=1e-300)
    assert (objective_of(chosen, high, gamma) <= objective_of(before, high, gamma) + 1e-9).all()


def test_the_confidence_falls_as_the_loss_rises_and_is_whole_below_the_mean() -> None:
    losses = torch.linspace(0, 5, 50, dtype=torch.float64)
    weights = confidence(excess(losses, torch.tensor(1.0), torch.tensor(0.5)), 2.0, 0.05)
    assert (weights.diff() <= 0).all()
    assert (weights[losses <= 1] == 1).all()
    assert weights[-1] == 0.05
    assert float(weights[10]) == pytest.approx(np.exp(-(float(losses[10]) - 1) / 0.5 / 2), rel=1e-4)


# ---- partition ------------------------------------------------------------------------------------------


def test_a_label_that_stands_out_is_fuzzy_by_what_exceeds_the_threshold() -> None:
    errors = torch.tensor([0.1] * 9 + [0.6])
    parted = partition(errors, errors, 0.5)
    assert parted.fuzzy.tolist() == [False] * 9 + [True]
    assert float(parted.fuzziness[-1]) == pytest.approx(2 * (3 - 0.5))  # one of ten: three deviations off
    assert not parted.all_doubted


def test_errors_that_hardly_differ_or_do_not_reach_the_threshold_make_nothing_fuzzy() -> None:
    same, different = torch.full((30,), 0.3), torch.rand(30, generator=torch.Generator().manual_seed(0))
    assert not partition(same, same, 0.5).fuzzy.any()
    assert not partition(different, different, 1e9).fuzzy.any()
    assert not partition(same + 0.5, different * 0.1 + 0.9, 1e9).all_doubted


@limits(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40), st.integers(0, 99))
def test_the_partition_keeps_half_and_does_not_depend_on_the_order(
    errors: list[tuple[float, float]], seed: int
) -> None:
    absolute, ratio = (torch.tensor(values, dtype=torch.float64) for values in zip(*errors, strict=True))
    parted, again = partition(absolute, ratio, 0.5), partition(absolute, ratio, 0.5)
    assert torch.equal(parted.fuzzy, again.fuzzy)
    assert 2 * int(parted.fuzzy.sum()) <= len(errors)
    order = torch.randperm(len(errors), generator=torch.Generator().manual_seed(seed))
    turned = partition(absolute[order], ratio[order], 0.5)
    torch.testing.assert_close(turned.fuzziness, parted.fuzziness[order])


def test_where_the_model_agrees_with_no_label_the_least_doubted_half_is_clear() -> None:
    ratio = torch.linspace(0.6, 1, 9)
    parted = partition(ratio, ratio, 0.5)
    assert parted.all_doubted
    assert parted.fuzzy.tolist() == [False] * 5 + [True] * 4


# ---- losses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spatial", [(9, 8), (4, 5, 6)])
@pytest.mark.parametrize("are_weighted", [False, True])
def test_with_all_weights_one_the_loss_is_the_supervised_one(
    channels: int, spatial: tuple[int, ...], are_weighted: bool
) -> None:
    labels = drawn_labels(max(2, channels), 3, 1, *spatial)
    of_classes = torch.tensor([0.5, 1.5, 1.0][: max(2, channels)]) if are_weighted else None
    results = []
    for loss in (
        dice_cross_entropy(channels, of_classes),
        lambda logits, labels: weighted_loss(
            logits, labels, torch.ones(labels.shape), of_classes, in_this_process
        ),
    ):
        logits = normal(3, channels, *spatial).requires_grad_()
        value = loss(logits, labels)
        value.backward()
        results.append((value.detach(), logits.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gradient_of_a_sample_is_proportional_to_its_weight(channels: int) -> None:
    one, labels = normal(1, channels, 6, 6), drawn_labels(max(2, channels), 1, 1, 6, 6)
    logits = one.repeat(2, 1, 1, 1).requires_grad_()
    weights = torch.tensor([1.0, 0.25]).view(2, 1, 1, 1).expand(2, 1, 6, 6)
    weighted_loss(logits, labels.repeat(2, 1, 1, 1), weights, None, in_this_process).backward()
    assert logits.grad is not None
    torch.testing.assert_close(0.25 * logits.grad[0], logits.grad[1])
    assert logits.grad.abs().max() > 1e-3


def test_an_element_of_no_weight_is_as_if_nobody_had_labelled_it() -> None:
    logits, labels = normal(2, 3, 6, 6), drawn_labels(3, 2, 1, 6, 6)
    weights = torch.ones(2, 1, 6, 6)
    weights[:, :, 4:] = 0
    hidden = labels.clone()
    hidden[:, :, 4:] = IGNORE
    expected = dice_cross_entropy(3)(logits, hidden)
    torch.testing.assert_close(weighted_loss(logits, labels, weights, None, in_this_process), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_loss_of_a_sample_alone_is_the_supervised_one_of_it_alone(channels: int) -> None:
    logits, labels = normal(3, channels, 8, 8), drawn_labels(max(2, channels), 3, 1, 8, 8)
    alone = [dice_cross_entropy(channels)(logits[[n]], labels[[n]]) for n in range(3)]
    torch.testing.assert_close(sample_losses(logits, labels), torch.stack(alone))


def test_background_seen_as_such_costs_little_and_a_missing_label_much() -> None:
    labels = torch.zeros(2, 1, 16, 16, dtype=torch.long)
    logits = torch.full((2, 1, 16, 16), -4.0)
    logits[1, :, 4:9, 4:9] = 4.0
    seen, missed = sample_losses(logits, labels).tolist()
    assert seen < 0.02
    assert missed > 1


def test_the_band_lies_around_boundaries_and_not_around_what_is_unlabelled() -> None:
    labels = torch.zeros(1, 1, 12, 12, dtype=torch.long)
    labels[..., 6:] = 1
    labels[..., :2] = IGNORE
    columns = boundary_band(labels, 2)[0, 0].any(dim=0)
    assert columns.nonzero()[:, 0].tolist() == [4, 5, 6, 7]
    assert boundary_band(labels[..., None].expand(-1, -1, -1, -1, 3), 2).sum() == 4 * 12 * 3
    labels[..., 5] = IGNORE
    assert boundary_band(labels, 2)[0, 0].any(dim=0).nonzero()[:, 0].tolist() == [4, 6]
    assert not boundary_band(labels[..., :5], 2).any()


def test_nothing_is_lost_on_what_nobody_labelled() -> None:
    labels = drawn_labels(2, 1, 1, 6, 6)
    assert (pixel_losses(normal(1, 1, 6, 6), labels)[labels == IGNORE] == 0).all()


# ---- figures of a label ---------------------------------------------------------------------------------


def test_the_doubt_of_one_class_is_the_distance_of_probability_and_label() -> None:
    foreground = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    label = np.array([[0, 1, 0, 1]] * 3)
    found = doubt(np.stack([1 - foreground, foreground]), label)
    np.testing.assert_allclose(found, abs(foreground - label), atol=1e-6)
    label[1] = IGNORE
    assert (doubt(np.stack([1 - foreground, foreground]), label)[1] == 0).all()


def test_figures_of_a_label_are_those_of_the_method() -> None:
    foreground = np.zeros((4, 4, 4), np.float32)
    foreground[1, :2], foreground[2, :3] = 0.9, 0.8
    label = np.zeros((4, 4, 4), np.uint8)
    label[1, :3] = 1
    found = disagreement(np.stack([1 - foreground, foreground]), label)
    expected = 8 * 0.1 + 4 * 1.0 + 12 * 0.8
    assert found.absolute_error == pytest.approx(expected / 64)
    assert found.error_ratio == pytest.approx((4 + 12) / (12 + 12))
    assert found.slice == 2
    turned = disagreement(np.stack([1 - foreground, foreground]).transpose(0, 3, 2, 1), label.T, across=2)
    assert turned.slice == 2
    empty = np.zeros((4, 4), np.uint8)
    assert disagreement(np.stack([empty + 1.0, empty + 0.0]), empty).error_ratio == 0


def test_the_worst_class_is_the_one_whose_label_is_missed_most() -> None:
    label = np.zeros((6, 6), np.uint8)
    label[:2], label[4:] = 1, 2
    answer = np.zeros((3, 6, 6), np.float32)
    answer[0], answer[1, :2], answer[2, 5:] = 0.1, 0.9, 0.9
    answer[0, 2:5] = 0.9
    assert disagreement(answer, label).worst_class == 2
    label[4:] = IGNORE
    assert disagreement(answer, label).error_ratio == 0
    label[:2] = 2
    assert disagreement(answer, label).error_ratio == 1


def row(case: str, confidence: float, fuzziness: float = 0.0, ratio: float = 0.0) -> DoubtedLabel:
    return DoubtedLabel(case, fuzziness, 0.1, ratio, confidence, "lesion, left", 3)


def test_the_list_comes_back_with_the_most_doubtful_first(tmp_path: Path) -> None:
    rows = [row("a", 1.0), row("b", 1.0, ratio=0.5), row("c", 0.3), row("d", 0.3, 2.0), row("e, f", 0.05)]
    path = write_label_confidence(tmp_path, rows)
    assert path == tmp_path / LABEL_CONFIDENCE
    assert [each.case for each in look_first(tmp_path)] == ["e, f", "d", "c", "b", "a"]
    assert set(look_first(tmp_path)) == set(rows)


def test_a_missing_or_damaged_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no label_confidence"):
        look_first(tmp_path)
    (tmp_path / LABEL_CONFIDENCE).write_text("case,confidence\na,high\n")
    with pytest.raises(CheckpointError, match="damaged"):
        look_first(tmp_path)


# ---- runs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantoms() -> list[Case]:
    """26 small phantoms."""
    return [ultrasound_case(seed, (32, 32)) for seed in range(26)]


@pytest.fixture
def dale(settings: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """``dale(run_dir, options, ...)``: one epoch of warm-up, then phases of one epoch."""

    def make(run_dir: Path, options: dict[str, object] | None = None, **changes: object) -> TrainConfig:
        chosen = {"warm_up_epochs": 1, "every": 1} | (options or {})
        base = {"widths": (4, 6, 8), "patch": (32, 32), "batch": 4, "steps_per_epoch": 3, "epochs": 4}
        objective = {"objective": "dale", "objective_options": chosen} if "objective" not in changes else {}
        return settings(run_dir, **{**base, **objective, **changes})

    return make


Dale = Callable[..., TrainConfig]


def equal(one: Path, other: Path, parts: tuple[str, ...] = ("weights", "state")) -> bool:
    first, second = load_checkpoint(one / "last.safetensors"), load_checkpoint(other / "last.safetensors")
    return all(
        getattr(first, part).keys() == getattr(second, part).keys()
        and all(
            torch.equal(t.nan_to_num(-1), getattr(second, part)[name].nan_to_num(-1))
            for name, t in getattr(first, part).items()
        )
        for part in parts
    )


def notices(events: list[Event]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Notice))


def test_with_nothing_fuzzy_it_is_plain_training_bit_for_bit(
    dale: Dale, phantoms: list[Case], tmp_path: Path
) -> None:
    list(train(dale(tmp_path / "dale", {"k": 1e9, "beta": 0}), phantoms))
    list(train(dale(tmp_path / "plain", objective="supervised"), phantoms))
    list(train(dale(tmp_path / "aligning", {"k": 1e9}), phantoms))
    list(train(dale(tmp_path / "doubting"), phantoms))
    assert equal(tmp_path / "dale", tmp_path / "plain", ("weights",))
    assert equal(tmp_path / "aligning", tmp_path / "plain", ("weights",))
    assert not equal(tmp_path / "doubting", tmp_path / "plain", ("weights",))


@pytest.mark.parametrize(
    "options",
    [{}, {"align": "adversarial", "scales": (1, 2)}, {"align": "mmd", "beta": 1}, {"pixel": True, "k": 0}],
    ids=["w2", "adversarial", "mmd", "pixel"],
)
def test_a_run_stopped_within_an_epoch_goes_on_bit_for_bit(
    options: dict[str, object], dale: Dale, phantoms: list[Case], tmp_path: Path
) -> None:
    whole, parts = (dale(tmp_path / name, options) for name in ("whole", "parts"))
    list(train(whole, phantoms))
    steering, steps = Steering(), 0
    for event in train(parts, phantoms, steering=steering):
        steps += isinstance(event, Progress) and "loss" in event.message
        if steps == 8:  # of 12: in phase B
            steering.stop()
    kept = load_checkpoint(parts.run_dir / "last.safetensors")
    assert kept.place["step"] == 8
    assert isinstance(list(train(parts, phantoms, resumed=kept))[-1], Finished)
    assert equal(whole.run_dir, parts.run_dir)
    assert look_first(whole.run_dir) == look_first(parts.run_dir)


def test_a_run_stopped_while_it_looks_at_labels_looks_again(
    dale: Dale, phantoms: list[Case], tmp_path: Path
) -> None:
    whole, parts = (dale(tmp_path / name) for name in ("whole", "parts"))
    list(train(whole, phantoms))
    steering, looks = Steering(), 0
    for event in train(parts, phantoms, steering=steering):
        looks += isinstance(event, Progress) and "looking at" in event.message
        if looks == 30:  # at the second time
            steering.stop()
    kept = load_checkpoint(parts.run_dir / "last.safetensors")
    assert kept.place["step"] == 6
    list(train(parts, phantoms, resumed=kept))
    assert equal(whole.run_dir, parts.run_dir)


class Watched(DALE):
    """Remembers in which epoch which cases were drawn."""

    drawn: dict[int, set[int]]

    def step(self, model: torch.nn.Module, batch: Batch, backward: Callable[[torch.Tensor], object]) -> float:
        self.drawn.setdefault(int(self._held["epoch"]), set()).update(batch.cases)
        return super().step(model, batch, backward)


def test_phase_a_draws_from_the_clear_cases_and_phase_b_from_all(
    dale: Dale, phantoms: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[set[int], set[int]]] = []
    plain = DALE.cases

    def cases(self: DALE, epoch: int) -> object:
        among = plain(self, epoch)
        if epoch == 1 and not kept:
            fuzzy = self._held["fuzzy"]
            expected = {index for n, index in enumerate(self.context.training) if not fuzzy[n]}
            kept.append((set(among or ()), expected))
        return among

    Watched.drawn = {}
    monkeypatch.setattr(Watched, "cases", cases)
    monkeypatch.setattr("napari_prosma.training.objectives.dale.learning.DALE", Watched)
    config = dale(tmp_path / "run", steps_per_epoch=8, epochs=3)
    list(train(config, phantoms))
    clear, expected = kept[0]
    assert 10 <= len(clear) < 20
    assert clear == expected
    assert Watched.drawn[1] == clear
    assert Watched.drawn[0] == Watched.drawn[2] > clear


def test_labels_are_judged_by_statistics_of_the_weights_not_by_averages_that_lag(
    dale: Dale, phantoms: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, dict[str, torch.Tensor]]] = []

    def note(when: str, objective: DALE) -> None:
        buffers = objective.context.network.named_buffers()
        seen.append((when, {name: t.clone() for name, t in buffers if "running" in name}))

    class Listening(DALE):
        def _compared(self, *given: object) -> object:
            note("judged", self)
            return super()._compared(*given)  # type: ignore[arg-type]

        def step(self, *given: object) -> float:
            note("step", self)
            return super().step(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("napari_prosma.training.objectives.dale.learning.DALE", Listening)
    list(train(dale(tmp_path / "run", epochs=2), phantoms))
    first = [when for when, _ in seen].index("judged")
    judged = seen[first][1]
    averages = next(buffers for when, buffers in seen[first:] if when == "step")
    assert judged
    assert not any(torch.equal(t, averages[name]) for name, t in judged.items())


def corrupted(case: Case, kind: str) -> Case:
    assert case.read_label is not None
    label, image = case.read_label(), case.read_image()
    if kind == "dilated":
        label = ndimage.binary_dilation(label, iterations=4).astype(np.uint8)
    elif kind == "shifted":
        label = np.roll(label, (8, 8), (0, 1))
    else:
        label = np.zeros_like(label)
    return Case.from_arrays(case.name, image.array, label, image.geometry)


def area_under_curve(is_wrong: np.ndarray, scores: list[float]) -> float:
    ranks, count = rankdata(scores), is_wrong.sum()
    return (ranks[is_wrong].sum() - count * (count + 1) / 2) / (count * (~is_wrong).sum())


def test_the_confidence_falls_on_corrupted_labels(dale: Dale, tmp_path: Path) -> None:
    cases = [ultrasound_case(seed, (48, 48)) for seed in range(100, 130)]
    kinds = {1: "dilated", 6: "empty", 11: "shifted", 16: "dilated", 21: "empty", 26: "shifted"}
    cases = [corrupted(case, kinds[n]) if n in kinds else case for n, case in enumerate(cases)]
    wrong = {cases[n].name for n in kinds}
    config = dale(
        tmp_path / "run",
        {"warm_up_epochs": 5, "every": 3},
        widths=(8, 16, 32),
        patch=(48, 48),
        batch=8,
        epochs=14,
        steps_per_epoch=8,
        learning_rate=3e-3,
    )
    events = list(train(config, cases))
    rows = look_first(config.run_dir)
    is_wrong = np.array([each.case in wrong for each in rows])
    assert area_under_curve(is_wrong, [1 - each.confidence for each in rows]) >= 0.75
    assert area_under_curve(is_wrong, [-place for place in range(len(rows))]) >= 0.9
    confidences = np.array([each.confidence for each in rows])
    assert confidences[is_wrong].mean() < confidences[~is_wrong].mean() - 0.3
    confident = [e.objective["confidence"] for e in events if isinstance(e, EpochEnd)]
    assert set(confident[:5]) == {1.0}
    assert max(confident[5:]) < 1
    apart = [e.objective["alignment"] for e in events if isinstance(e, EpochEnd)]
    assert [value > 0 for value in apart] == [False] * 8 + [True] * 3 + [False] * 3


def test_a_handful_of_cases_is_told_and_doubted_pixel_by_pixel(
    dale: Dale, ultrasound: list[Case], tmp_path: Path
) -> None:
    config = dale(tmp_path / "dale", warm_up=0)
    assert "4 training cases are too few" in notices(list(train(config, ultrasound)))
    list(train(dale(tmp_path / "plain", objective="supervised", warm_up=0), ultrasound))
    assert not equal(config.run_dir, tmp_path / "plain", ("weights",))
    assert [each.confidence for each in look_first(config.run_dir)] == [1.0] * 4


def test_a_run_shorter_than_the_warm_up_doubts_labels_all_the_same_and_says_so(
    dale: Dale, phantoms: list[Case], tmp_path: Path
) -> None:
    config = dale(tmp_path / "run", {"warm_up_epochs": 10}, steps_per_epoch=1, epochs=3)
    assert "from epoch 2 on" in notices(list(train(config, phantoms)))
    assert len(look_first(config.run_dir)) == 20


def test_a_run_that_ends_within_the_warm_up_says_that_it_weighed_no_label(
    dale: Dale, phantoms: list[Case], tmp_path: Path
) -> None:
    told = []
    for last in (1, 3):
        config = dale(tmp_path / str(last), {"warm_up_epochs": 2}, steps_per_epoch=1)
        steering, events = Steering(), []
        for event in train(config, phantoms, steering=steering):
            events.append(event)
            if isinstance(event, EpochEnd) and event.epoch == last:
                steering.finish()
        told.append("ended within the warm-up of 2 epochs" in notices(events))
        assert len(look_first(config.run_dir)) == 20
    assert told == [True, False]


def test_labels_that_no_model_agrees_with_are_told_once(
    dale: Dale, phantoms: list[Case], tmp_path: Path
) -> None:
    config = dale(tmp_path / "run", steps_per_epoch=1, epochs=4, learning_rate=1e-9)
    said = notices(list(train(config, phantoms)))
    assert said.count("disagrees with too many labels") == 1
    fuzzy = split_prefix(load_checkpoint(config.run_dir / "last.safetensors").state, "objective")["fuzzy"]
    assert int(fuzzy.sum()) == 10  # of 20


def test_volumes_of_several_classes_labelled_in_part_are_doubted_in_the_slice_to_look_at(
    dale: Dale, tmp_path: Path
) -> None:
    def volume(n: int) -> Case:
        label = np.zeros((16, 16, 8), np.uint8)
        label[2:8, 3:9], label[9:14, 8:14] = 1, 2
        image = label + np.random.default_rng(n).normal(size=label.shape) / 10
        label[..., 0] = IGNORE
        if n == 0:
            label[2:8, 3:9, 5] = 0
        geometry = Geometry((1.0, 1.0, 2.0), (0.0,) * 3, "mm")  # sagittal slices
        return Case.from_arrays(f"v{n}", image[None].astype(np.float32), label, geometry)

    config = dale(
        tmp_path / "run",
        {"warm_up_epochs": 6, "every": 1, "least_cases": 5},
        patch=(16, 16, 8),
        spacing=(1.0, 1.0, 1.0),
        epochs=8,
        steps_per_epoch=8,
        learning_rate=1e-2,
        validation_fraction=0,
        augment=False,
    )
    list(train(config, [volume(n) for n in range(6)]))
    first, *_ = look_first(config.run_dir)
    assert (first.case, first.worst_class, first.slice) == ("v0", "class 1", 5)


@pytest.mark.parametrize(
    ("network", "dims"), [(name, dims) for name, known in NETWORKS.items() for dims in known.dims]
)
def test_the_last_map_of_every_network_lies_over_its_labels(network: str, dims: int) -> None:
    spec = ModelSpec(dims, 1, 3, (6, 8, 10), network=network)
    model = build_model(spec).train()
    last = _LastMap(model)
    last.wanted = True
    logits = model(normal(2, 1, *(32,) * dims))
    features = last.take()
    assert features.requires_grad
    assert features.shape[0] == 2
    assert {n // m for n, m in zip(logits.shape[2:], features.shape[2:], strict=True)} <= {1, 2}
    model(normal(2, 1, *(32,) * dims))
    with pytest.raises(AssertionError):
        last.take()


# ---- labels that are corrected, tries that fail, averages that are kept ------------------------------------


@pytest.fixture
def in_phase_b(dale: Dale, phantoms: list[Case], tmp_path: Path) -> Iterator[Callable[[], DALE]]:
    """Makes an objective in phase B that doubts the first three of its cases."""
    config = dale(tmp_path / "run", {"least_pixels": 2})
    facts = [case_facts(case, case.read_image(), case.read_label()) for case in phantoms if case.read_label]
    plan = make_plan(facts, ("background", "lesion"), patch=(32, 32), batch=4)

    with Processes(config) as processes:

        def make() -> DALE:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = build_model(config.model_spec(plan))
            objective, learned = DALE(), tuple(range(4, 26))
            cases = PreparedCases(phantoms, plan)
            objective.prepare(Context(network, plan, config, processes, cases, learned, 3))
            held = objective._held
            held["epoch"] = torch.tensor(2)
            held["loss"] = torch.linspace(1.0, 0.1, 22, dtype=torch.float64)
            held["fuzzy"][:3], held["fuzziness"][:3] = True, 2.0
            objective._weigh()
            return objective

        yield make


def test_a_corrected_label_is_clear_from_the_next_step_on(in_phase_b: Callable[[], DALE]) -> None:
    objective = in_phase_b()
    held = objective._held
    assert (held["confidence"][:3] < 1).all()
    assert 4 not in (objective.cases(1) or ())
    before = held["loss"][3:].mean(), held["confidence"][1:].clone()
    objective.relabelled(4)
    assert 4 in (objective.cases(1) or ())
    row = objective.doubted_labels()[0]
    assert (row.confidence, row.fuzziness) == (1.0, 0.0)
    objective._weigh()
    assert held["confidence"][0] == 1
    assert held["loss"][0] == pytest.approx(float(before[0])), "what it cost with the old label is forgotten"
    torch.testing.assert_close(held["confidence"][1:], before[1], atol=0.05, rtol=0)
    kept = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    objective.relabelled(0)  # held out
    again = in_phase_b()
    again.load_state_dict(kept)
    assert all(torch.equal(again._held[name], held[name]) for name in held)


def test_a_correction_before_any_loss_is_known_changes_nothing(in_phase_b: Callable[[], DALE]) -> None:
    objective = in_phase_b()
    objective._held["loss"][:] = torch.nan
    objective._held["fuzzy"][:] = False
    objective.relabelled(4)
    objective._weigh()
    assert (objective._held["confidence"] == 1).all()


def test_a_try_that_failed_is_held_nowhere_and_counts_nowhere(in_phase_b: Callable[[], DALE]) -> None:
    failed, good = in_phase_b(), in_phase_b()
    batches = Batches(good.context.cases, good.context.training, good.context.plan, 0, None)
    first, second = batches.draw(0), batches.draw(1)

    def refuse(*given: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    def one_step(objective: DALE) -> float:
        network = objective.context.network.train()
        if objective is failed:
            kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            objective.step(network, second, lambda value: value.backward())
            with pytest.raises(torch.OutOfMemoryError):
                objective.step(network, second, refuse)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(objective, "_weights", refuse)
                with pytest.raises(torch.OutOfMemoryError):
                    objective.step(network, second, lambda value: value.backward())
            assert objective._last_map._features is not None
            objective.abandoned()
            network.load_state_dict(kept)
            assert objective._last_map._features is None
        loss = objective.step(network, first, lambda value: value.backward())
        objective.stepped()
        return loss

    assert one_step(failed) == one_step(good)
    expected, found = good.state_dict(), failed.state_dict()
    assert float(expected["aligned"][0]) == 1
    assert all(torch.equal(expected[name].nan_to_num(-1), found[name].nan_to_num(-1)) for name in expected)


def test_the_list_at_the_end_is_that_of_the_average_where_it_is_kept(
    dale: Dale, phantoms: list[Case], tmp_path: Path
) -> None:
    config = dale(tmp_path / "run", average=0.99, learning_rate=1e-2)
    list(train(config, phantoms))
    kept = load_checkpoint(config.run_dir / "last.safetensors")
    by_name = {case.name: case for case in phantoms}
    for each in look_first(config.run_dir)[:3]:
        *_, ended = compare_with_label(kept, by_name[each.case], "cpu")
        assert isinstance(ended, Finished)
        assert ended.result.doubt.figures.absolute_error == pytest.approx(each.absolute_error, abs=1e-4)
