"""DiM: divergences, the step that looks uphill, the teacher, and a run with images that nobody labelled."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.events import EpochEnd, Event, Finished, Notice
from napari_prosma.model.augment import recipe_of
from napari_prosma.model.checkpoint import LAST, load_checkpoint, split_prefix
from napari_prosma.nn.build import build_model
from napari_prosma.nn.network_kinds import NETWORKS
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.batches import Batches, PreparedCases, UnlabelledBatches
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.losses import dice_cross_entropy
from napari_prosma.training.objective import Context, Objective, make_objective
from napari_prosma.training.objectives.dim import DimOptions
from napari_prosma.training.objectives.dim.learning import GENERATORS, f_divergence, uphill
from napari_prosma.training.processes import Processes
from napari_prosma.training.run import train
from napari_prosma.training.steering import Steering

WIDTHS = (4, 6, 8)
FIGURES = {
    *("divergence", "divergence share", "sharpness", "consistency", "teacher share", "teacher sure"),
}
PLAIN_TEACHER = DimOptions(rho=0, beta=0, ramp=2)


# ---- divergences ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kl", 0.510826),
        ("rkl", 0.368064),
        ("js", 0.101749),
        ("chi2", 1.777778),
        ("tv", 0.4),
        ("hellinger2", 0.211146),
    ],
)
def test_divergences_have_their_known_values(name: str, value: float) -> None:
    p, q = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.9, 0.1], dtype=torch.float64)
    assert float(f_divergence(p, q, name)) == pytest.approx(value, abs=1e-6)


def probabilities(size: int = 6) -> st.SearchStrategy[Tensor]:
    logits = arrays(np.float64, size, elements=st.floats(-6, 6))
    return logits.map(lambda values: torch.from_numpy(values).softmax(dim=0))


@given(probabilities(), probabilities())
def test_divergences_obey_their_laws(p: Tensor, q: Tensor) -> None:
    d = {name: float(f_divergence(p, q, name)) for name in GENERATORS}
    close = 1e-9
    assert min(d.values()) >= -close
    assert d["js"] <= math.log(2) + close
    assert d["js"] == pytest.approx(float(f_divergence(q, p, "js")), abs=close)
    assert d["rkl"] == pytest.approx(float(f_divergence(q, p, "kl")), abs=close)
    assert d["tv"] <= 1 + close
    assert d["tv"] <= math.sqrt(max(0, d["kl"]) / 2) + close  # Pinsker
    assert d["kl"] <= math.log1p(d["chi2"]) + close
    assert d["hellinger2"] <= 2 * d["tv"] + close
    for name in GENERATORS:
        merged = f_divergence(p.reshape(3, 2).sum(1), q.reshape(3, 2).sum(1), name)
        assert float(merged) <= d[name] + close, "merging bins must not tell them apart better"


@given(arrays(np.float64, 5, elements=st.floats(-6, 6)), st.sampled_from(sorted(GENERATORS)))
def test_equal_distributions_are_not_apart_and_pull_nowhere(logits: np.ndarray, name: str) -> None:
    h = torch.from_numpy(logits).requires_grad_()
    apart = f_divergence(h.softmax(dim=0), h.detach().softmax(dim=0), name)
    apart.backward()
    assert float(apart.detach()) == pytest.approx(0, abs=1e-12)
    assert h.grad is not None
    assert float(h.grad.abs().max()) < 1e-12


# ---- looking uphill -------------------------------------------------------------------------------------


def quadratic() -> tuple[nn.Parameter, nn.Parameter, Tensor, Callable[[], Tensor]]:
    """``L = w'Aw / 2`` of a weight in two parts, (2,) and (1,)."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    matrix = root @ root.T
    start = torch.randn(3, dtype=torch.float64, generator=generator)
    one, other = nn.Parameter(start[:2].clone()), nn.Parameter(start[2:].clone())

    def loss() -> Tensor:
        w = torch.cat([one, other])
        return 0.5 * w @ matrix @ w

    return one, other, matrix, loss


def gradient_uphill(rho: float, eta: float | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the quadratic: w, the way uphill, the gradient there, and A."""
    one, other, matrix, loss = quadratic()
    before = torch.cat([one, other]).detach().clone()
    loss().backward()
    with uphill([one, other], rho, eta):
        way = torch.cat([one, other]).detach() - before
        one.grad = other.grad = None
        loss().backward()
    assert torch.equal(torch.cat([one, other]), before)
    assert one.grad is not None
    assert other.grad is not None
    return before, way, torch.cat([one.grad, other.grad]), matrix


def test_the_gradient_uphill_of_a_quadratic_is_the_one_computed_by_hand() -> None:
    w, way, found, a = gradient_uphill(0.3, None)
    assert float(way.norm()) == pytest.approx(0.3, abs=1e-6)
    torch.testing.assert_close(found, a @ (w + 0.3 * a @ w / (a @ w).norm()), rtol=1e-6, atol=1e-6)


def test_the_adaptive_way_uphill_is_as_long_relative_to_the_weights() -> None:
    w, way, _, a = gradient_uphill(0.3, 0.01)
    size = w.abs() + 0.01
    assert float((way / size).norm()) == pytest.approx(0.3, abs=1e-6)
    by_hand = 0.3 * size**2 * (a @ w) / (size * (a @ w)).norm()
    torch.testing.assert_close(way, by_hand, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_leads_nowhere(wrong: float) -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, wrong])
    with uphill([weight], 0.1):
        assert torch.equal(weight, torch.ones(2))


def test_weights_are_back_after_an_error_uphill() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    with pytest.raises(MemoryError), uphill([weight], 0.1):
        raise MemoryError
    assert torch.equal(weight, torch.ones(2))


# ---- features -------------------------------------------------------------------------------------------

KINDS = [(name, dims) for name, architecture in NETWORKS.items() for dims in architecture.dims]


@pytest.mark.parametrize(("name", "dims"), KINDS)
def test_the_deepest_features_of_every_network_are_its_widest_on_the_coarsest_grid(
    name: str, dims: int
) -> None:
    widths = (4, 4, 6, 8, 10) if name in ("unext", "ukan", "ukan2", "rolling-unet") else (4, 6, 8)
    network = build_model(ModelSpec(dims, 1, 1, widths, network=name)).train()
    kept: list[Tensor] = []
    block = network.deepest_block()
    block.register_forward_hook(lambda block, given, found: kept.append(found))
    network(torch.randn(2, 1, *(network.divisor,) * dims))
    (features,) = kept
    assert features.shape == (2, widths[-1], *(1,) * dims)
    features.mean().backward()
    assert any(weight.grad is not None for weight in block.parameters())


# ---- one step -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Processes:
    return Processes(TrainConfig.of(run_dir="r", device="cpu"))


class Steps:
    """A network, an objective, and the batches of both kinds; every ``step`` as a run makes it."""

    def __init__(
        self,
        processes: Processes,
        objective: str = "dim",
        options: DimOptions | None = None,
        dims: int = 2,
        classes: int = 2,
        bare: int = 3,
        gate: str = "prosma",
    ) -> None:
        names = ("background", "one", "two")[:classes]
        self.plan = Plan(dims=dims, channels=1, class_names=names, patch=(16,) * dims, batch=3)
        rng = np.random.default_rng(0)
        shape = (20,) * dims
        cases = []
        for n in range(4):
            label = np.zeros(shape, np.uint8)
            for k in range(1, classes):
                label[3 * k : 3 * k + 6, 4:12] = k
            cases.append(Case.from_arrays(str(n), label[None] + rng.normal(0, 0.3, (1, *shape)), label))
        prepared = PreparedCases(cases, self.plan)
        config = TrainConfig.of(
            run_dir="r",
            objective=objective,
            objective_options=options if objective == "dim" else None,
            device="cpu",
            seed=4,
        )
        recipe = recipe_of("other", self.plan)
        unlabelled = None
        if bare:
            others = [Case.from_arrays(f"bare {n}", rng.normal(0, 2, (1, *shape))) for n in range(bare)]
            unlabelled = UnlabelledBatches(PreparedCases(others, self.plan), self.plan, 4, recipe)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = build_model(ModelSpec(dims, 1, self.plan.out_channels, WIDTHS, gate))
        self.batches = Batches(prepared, range(4), self.plan, 4, None)
        self.unlabelled = unlabelled
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1)
        self.objective: Any = make_objective(objective)
        self.objective.prepare(
            Context(
                self.network,
                self.plan,
                config,
                processes,
                prepared,
                (0, 1, 2, 3),
                5,
                unlabelled=unlabelled,
            )
        )
        self.count = 0

    def step(self) -> float:
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective.step(
            self.network, self.batches.draw(self.count), lambda value: value.backward()
        )
        self.optimizer.step()
        self.objective.stepped()
        self.count += 1
        return loss

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "bare"), [(DimOptions(rho=0, beta=0, mu_max=0), 3), (DimOptions(rho=0), 0)]
)
def test_without_its_parts_a_step_is_the_supervised_one_bit_for_bit(
    processes: Processes, options: DimOptions, bare: int
) -> None:
    ours, plain = Steps(processes, options=options, bare=bare), Steps(processes, "supervised", bare=0)
    for _ in range(3):
        assert ours.step() == plain.step()
    assert same(ours.state(), plain.state())


@pytest.mark.parametrize(("dims", "classes"), [(2, 2), (3, 3)])
def test_without_sharpness_and_divergence_it_is_the_plain_mean_teacher_bit_for_bit(
    processes: Processes, dims: int, classes: int
) -> None:
    ours = Steps(processes, options=PLAIN_TEACHER, dims=dims, classes=classes)
    hand = Steps(processes, "supervised", dims=dims, classes=classes, bare=0)
    student, optimizer, unlabelled = hand.network, hand.optimizer, ours.unlabelled
    assert unlabelled is not None
    teacher = copy.deepcopy(student).eval()
    loss_of = dice_cross_entropy(ours.plan.out_channels)
    for t in range(4):
        ours.step()
        batch = hand.batches.draw(t)
        views = unlabelled.beside(batch)
        with torch.no_grad():
            logits = teacher(views.weak)
            both = torch.cat([torch.zeros_like(logits), logits], dim=1) if classes == 2 else logits
            sure, labels = both.softmax(dim=1).max(dim=1, keepdim=True)
            labels[sure < 0.95] = IGNORE
        student.train()
        optimizer.zero_grad()
        logits = student(torch.cat([batch.images, views.strong]))
        mu = math.exp(-5 * (1 - t / 10) ** 2)  # two epochs of five steps
        loss = loss_of(logits[:3], batch.labels) + mu * loss_of(logits[3:], labels)
        loss.backward()
        optimizer.step()
        decay = min(1 - 1 / (t + 1), 0.99)
        with torch.no_grad():
            for theirs, own in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True):
                if own.is_floating_point():
                    theirs.lerp_(own, 1 - decay)
                else:
                    theirs.copy_(own)
    assert same(ours.state(), hand.state())
    assert same(split_prefix(ours.objective.state_dict(), "teacher"), dict(teacher.state_dict()))


def test_a_whole_step_goes_uphill_by_the_task_and_down_with_the_divergence(processes: Processes) -> None:
    options = DimOptions(rho=0.2, beta=0.7, mu_max=0, perturb_gates=True)
    ours, hand = Steps(processes, options=options), Steps(processes, "supervised", bare=0)
    batch, unlabelled, network = ours.batches.draw(0), ours.unlabelled, hand.network
    assert unlabelled is not None
    seen: list[Tensor] = []
    network.deepest_block().register_forward_hook(lambda block, given, found: seen.append(found))
    images = torch.cat([batch.images, unlabelled.beside(batch).strong])
    loss_of = dice_cross_entropy(1)

    def task() -> Tensor:
        return loss_of(network.train()(images)[:3], batch.labels)

    weights = [*network.parameters()]
    gradient = torch.autograd.grad(task(), weights)
    length = torch.cat([g.flatten() for g in gradient]).norm()
    with torch.no_grad():
        for weight, g in zip(weights, gradient, strict=True):
            weight += 0.2 * g / length
    total = task()
    shares = seen[-1].mean((2, 3)).softmax(dim=1)
    total = total + 0.7 * f_divergence(shares[:3].mean(0), shares[3:].mean(0), "js")
    expected = torch.autograd.grad(total, weights)
    ours.network.train()
    ours.objective.step(ours.network, batch, lambda value: value.backward())
    for weight, wanted in zip(ours.network.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, wanted, rtol=1e-4, atol=1e-6)


def test_a_step_adds_to_the_gradients_that_are_there_and_leaves_the_weights(processes: Processes) -> None:
    steps = Steps(processes)
    network, batch = steps.network.train(), steps.batches.draw(0)
    before, weights = steps.state(), [*network.parameters()]
    steps.objective.step(network, batch, lambda value: value.backward())
    once = [weight.grad.clone() for weight in weights if weight.grad is not None]
    assert all(torch.equal(weight, before[name]) for name, weight in network.named_parameters())
    steps.objective.step(network, batch, lambda value: value.backward())
    for weight, first in zip(weights, once, strict=True):
        torch.testing.assert_close(weight.grad, 2 * first, rtol=1e-4, atol=1e-6)


def test_running_statistics_change_once_in_a_step(processes: Processes) -> None:
    steps = Steps(processes)
    assert steps.unlabelled is not None
    batch, alone = steps.batches.draw(0), copy.deepcopy(steps.network).train()
    alone(torch.cat([batch.images, steps.unlabelled.beside(batch).strong]))
    steps.step()
    for (name, found), expected in zip(steps.network.named_buffers(), alone.buffers(), strict=True):
        assert torch.equal(found, expected), name


@pytest.mark.parametrize("perturbed", [False, True])
def test_thresholds_stay_on_the_way_uphill_unless_told_otherwise(
    processes: Processes, perturbed: bool
) -> None:
    steps = Steps(processes, options=DimOptions(rho=0.5, perturb_gates=perturbed))
    seen: dict[str, list[Tensor]] = {}

    def look(network: nn.Module, given: Any) -> None:
        for name, weight in network.named_parameters():
            seen.setdefault(name, []).append(weight.detach().clone())

    steps.network.register_forward_pre_hook(look)
    steps.step()
    moved = {name for name, (here, above) in seen.items() if not torch.equal(here, above)}
    thetas = {name for name in seen if name.endswith("theta")}
    assert thetas
    assert bool(thetas & moved) == perturbed
    assert "head.weight" in moved


def test_the_teacher_teaches_only_where_it_is_sure(processes: Processes) -> None:
    found = []
    for tau in (0.5, 0.6, 1.0):
        steps = Steps(processes, classes=3, options=DimOptions(tau=tau))
        assert steps.unlabelled is not None
        with torch.no_grad():
            steps.network.get_parameter("head.weight").mul_(200)
        weak = steps.unlabelled.beside(steps.batches.draw(0)).weak
        labels = steps.objective._taught(weak)
        assert labels.shape == (3, 1, 16, 16)
        assert set(labels.unique().tolist()) <= {0, 1, 2, IGNORE}
        steps.objective.stepped()
        found.append(steps.objective.figures()["teacher sure"])
        assert found[-1] == pytest.approx(float((labels != IGNORE).float().mean()))
    assert 0 == found[2] < found[1] < found[0]


def test_the_teacher_has_no_gradient_and_comes_nearer_to_a_student_that_stands_still(
    processes: Processes,
) -> None:
    steps = Steps(processes)
    steps.step()
    steps.step()
    teacher = steps.objective._teacher
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())
    assert not teacher.training
    with torch.no_grad():
        for weight in steps.network.parameters():
            weight += 1

    def distance() -> float:
        student = dict(steps.network.named_parameters())
        return sum(float((weight - student[n]).detach().norm()) for n, weight in teacher.named_parameters())

    far = distance()
    for _ in range(5):
        steps.objective.stepped()
        nearer = distance()
        assert 0 < nearer < far
        far = nearer


def test_what_is_learned_from_the_teacher_rises_over_the_ramp(processes: Processes) -> None:
    steps = Steps(processes, options=DimOptions(ramp=2, mu_max=3))
    rising = []
    for _ in range(13):
        rising.append(steps.objective._mu)
        steps.objective.stepped()
    assert rising[0] == pytest.approx(3 * math.exp(-5))
    assert rising[5] == pytest.approx(3 * math.exp(-1.25))
    assert rising == sorted(rising)
    assert rising[10:] == [3, 3, 3]


@pytest.mark.parametrize("gate", ["none", "attention", "prosma-exact"])
def test_every_part_has_its_figure_whatever_the_gate(processes: Processes, gate: str) -> None:
    steps = Steps(processes, gate=gate, options=DimOptions(adaptive=True, rho=0.5))
    assert math.isfinite(steps.step())
    figures = steps.objective.figures()
    assert set(figures) == FIGURES
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["divergence"] > 0
    assert steps.objective.figures() == {}


@pytest.mark.parametrize("beta", [1e-6, 1e3])
def test_a_divergence_that_is_too_small_to_act_is_told(processes: Processes, beta: float) -> None:
    steps = Steps(processes, options=DimOptions(beta=beta))
    loss = steps.step()
    figures = steps.objective.figures()
    weighted = beta * figures["divergence"]
    assert figures["divergence share"] == pytest.approx(weighted / (loss + weighted))
    told = [event.message for event in steps.objective.ends() if isinstance(event, Notice)]
    assert told == (
        []
        if beta > 1
        else [
            "The divergence was less than 0.1 % of the loss in the last epoch: it did not act. Raise its "
            "weight (beta, now 1e-06), or read this run as one without it"
        ]
    )


# ---- a run ----------------------------------------------------------------------------------------------


def bare(count: int = 3) -> list[Case]:
    """Phantoms of another scanner: darker, with less contrast."""
    made = [ultrasound_case(50 + n, (40, 40)) for n in range(count)]
    return [Case.from_arrays(f"bare {n}", 0.5 * case.read_image().array) for n, case in enumerate(made)]


def test_a_run_that_was_left_at_an_odd_step_goes_on_bit_for_bit(
    settings: Callable[..., TrainConfig], ultrasound: list[Case], tmp_path: Path
) -> None:
    def configured(name: str) -> TrainConfig:
        return settings(
            tmp_path / name, objective="dim", steps_per_epoch=3, objective_options=DimOptions(ramp=1)
        )

    whole = list(train(configured("whole"), ultrasound, unlabelled=bare()))
    assert isinstance(whole[-1], Finished)
    left, steering, count = configured("left"), Steering(), 0
    for event in train(left, ultrasound, unlabelled=bare(), steering=steering):
        count += getattr(event, "message", "").startswith("epoch 2, loss")
        if count == 2:
            steering.stop()
    kept = load_checkpoint(left.run_dir / LAST)
    assert kept.place["step"] == 5
    rest = list(train(left, ultrasound, resumed=kept, unlabelled=bare()))
    assert isinstance(rest[-1], Finished)
    one, other = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "left"))
    assert same(one.weights, other.weights)
    assert same(one.state, other.state)
    assert any(name.startswith("objective.teacher.") for name in one.state)
    ends = [event for event in whole if isinstance(event, EpochEnd)]
    assert set(ends[0].objective) == FIGURES
    assert ends[-1].objective == next(e for e in rest if isinstance(e, EpochEnd)).objective
    assert not any("changed since" in e.message for e in rest if isinstance(e, Notice))


def test_volumes_of_several_classes_that_are_labelled_in_part_are_learned(
    settings: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    cases = []
    for n in range(3):
        label = np.full((16, 20, 20), IGNORE, np.uint8)
        label[::4] = 0
        label[4, 4:9, 4:9], label[8, 10:15, 4:9] = 1, 2
        cases.append(Case.from_arrays(str(n), rng.normal(size=(1, 16, 20, 20)), label))
    others = [Case.from_arrays(f"bare {n}", rng.normal(size=(1, 16, 20, 20))) for n in range(2)]
    config = settings(
        tmp_path / "run",
        objective="dim",
        dims=3,
        patch=(16, 16, 16),
        batch=2,
        epochs=1,
        objective_options=DimOptions(tau=0.5, ramp=0),
    )
    events = list(train(config, cases, unlabelled=others))
    (end,) = [event for event in events if isinstance(event, EpochEnd)]
    assert math.isfinite(end.loss)
    assert set(end.objective) == FIGURES
    assert all(math.isfinite(value) for value in end.objective.values())


def test_without_unlabelled_images_it_says_that_it_is_sharpness_aware_alone(
    settings: Callable[..., TrainConfig], ultrasound: list[Case], tmp_path: Path
) -> None:
    events = list(train(settings(tmp_path / "run", objective="dim", epochs=1), ultrasound))
    assert any("labels alone, by sharpness-aware" in e.message for e in events if isinstance(e, Notice))
    (end,) = [event for event in events if isinstance(event, EpochEnd)]
    assert set(end.objective) == {"sharpness"}
    assert not any("teacher" in name for name in load_checkpoint(tmp_path / "run" / LAST).state)


def run_of_one_epoch(run_dir: Path, batch: int) -> Iterator[Event]:
    """No norm looks across the batch; a second step would follow other pixels by rounding."""
    cases = [ultrasound_case(n, (40, 40)) for n in range(5)]
    config = TrainConfig.of(
        run_dir=run_dir,
        objective="dim",
        objective_options=DimOptions(ramp=0, tau=0.5, rho=0.5),
        widths=WIDTHS,
        norm="instance",
        gate="none",
        patch=(32, 32),
        batch=batch,
        epochs=1,
        steps_per_epoch=1,
        device="cpu",
        threads=1,
    )
    return train(config, cases, unlabelled=bare(4))


class _Kept:
    """The objective of the next run, from which its weights are taken at the end."""

    def __init__(self) -> None:
        self.objective: Any = make_objective("dim")

    def __call__(self, name: str) -> Objective:
        return self.objective

    def weights(self) -> dict[str, Tensor]:
        return self.objective.context.network.state_dict()


def test_two_processes_end_with_the_weights_of_one_with_twice_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *(__file__, str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert same(first, second)
    kept = _Kept()
    monkeypatch.setattr("napari_prosma.training.learner.make_objective", kept)
    begun = list(run_of_one_epoch(tmp_path / "one", 4))
    assert isinstance(begun[-1], Finished)
    step = load_checkpoint(tmp_path / "one" / LAST).place["rate"]
    apart = [(first[name] - expected).abs() > step / 500 for name, expected in kept.weights().items()]
    # Rounding differs between processors: where a gradient is next to 0, it decides its sign.
    assert torch.cat([each.flatten() for each in apart]).float().mean() < 0.01


def _one_of_two(folder: Path) -> None:
    from napari_prosma.training import learner

    torch.set_num_threads(1)
    kept = _Kept()
    learner.make_objective = kept
    list(run_of_one_epoch(folder / "two", 2))
    torch.save(kept.weights(), folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    _one_of_two(Path(sys.argv[1]))


@pytest.mark.parametrize("objective", ["supervised", "dim", "dale"])
def test_no_more_patches_pass_the_network_at_once_than_the_objective_says(
    processes: Processes, objective: str
) -> None:
    steps = Steps(processes, objective, bare=3 if objective == "dim" else 0)
    passed: list[int] = []
    steps.network.register_forward_pre_hook(lambda module, given: passed.append(len(given[0])))
    steps.step()
    assert max(passed) == steps.objective.patches * steps.plan.batch


def test_a_try_that_failed_is_held_nowhere_and_counts_nowhere(processes: Processes) -> None:
    steps, twin = Steps(processes), Steps(processes)
    before = steps.state()

    def refuse(value: Tensor) -> None:
        raise torch.OutOfMemoryError("out of memory")

    def refuse_divergence(*given: object) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    batch = steps.batches.draw(0)
    with pytest.raises(torch.OutOfMemoryError):
        steps.objective.step(steps.network, batch, refuse)
    steps.objective.abandoned()
    steps.network.load_state_dict(before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.objective, "loss", refuse_divergence)
        with pytest.raises(torch.OutOfMemoryError):
            steps.objective.step(steps.network, batch, lambda value: value.backward())
    assert steps.objective._features is not None
    steps.objective.abandoned()
    assert steps.objective._features is None
    steps.network.load_state_dict(before)
    assert steps.step() == twin.step()
    assert same(steps.objective.state_dict(), twin.objective.state_dict())
    assert steps.objective.figures() == twin.objective.figures()


def test_features_are_kept_in_steps_alone(processes: Processes) -> None:
    steps = Steps(processes)
    steps.step()
    steps.network(torch.zeros(2, 1, 16, 16))
    assert steps.objective._features is None
