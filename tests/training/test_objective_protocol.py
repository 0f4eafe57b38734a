"""What a run tells its objective and takes from it; unlabelled images beside the labelled ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.errors import ConfigError
from napari_prosma.events import EpochEnd, Event, Finished, Notice, Progress
from napari_prosma.training.augment import RECIPES
from napari_prosma.training.batches import Batch, Batches, PreparedCases, UnlabelledBatches
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.objectives.supervised import Supervised
from napari_prosma.training.run import train
from napari_prosma.training.run_folder import read_metrics

Settings = Callable[..., TrainConfig]
PLAN = Plan(dims=2, channels=1, class_names=("background", "lesion"), patch=(16, 16), batch=4)


def numbered(count: int) -> PreparedCases:
    """Cases whose labels say which one they are of, by how many rows are foreground."""
    rng = np.random.default_rng(0)
    labels = [(np.arange(20) <= n)[:, None] * np.ones((1, 20), np.uint8) for n in range(count)]
    return PreparedCases(
        [Case.from_arrays(str(n), rng.normal(size=(1, 20, 20)), lb) for n, lb in enumerate(labels)], PLAN
    )


def bare(count: int) -> list[Case]:
    return [
        replace(ultrasound_case(100 + n, (40, 40)), name=f"bare {n}", read_label=None) for n in range(count)
    ]


def notices(events: list[Event]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Notice))


# ---- batches ------------------------------------------------------------------------------------------


def test_a_batch_tells_of_every_patch_which_case_and_where_it_is_from() -> None:
    cases = numbered(5)
    batch = Batches(cases, range(5), PLAN, 0, None).draw(3)
    assert batch.numbers == (12, 13, 14, 15)
    assert [cases[n].name for n in batch.cases] == list(batch.names)
    for image, label, n, corner in zip(batch.images, batch.labels, batch.cases, batch.corners, strict=True):
        window = tuple(slice(start, start + 16) for start in corner)
        assert np.array_equal(image[0], cases[n].image[0][window])
        assert np.array_equal(label[0], cases[n].label[window])


def test_an_epoch_among_some_cases_draws_each_of_them_once_before_any_comes_again() -> None:
    batches = Batches(numbered(9), range(9), PLAN, 0, None)
    chosen = [n for step in range(3) for n in batches.draw(step, (7, 1, 4)).cases]
    assert all(sorted(chosen[lap : lap + 3]) == [1, 4, 7] for lap in range(0, 12, 3))
    again = Batches(numbered(9), range(9), PLAN, 0, None)
    assert again.draw(2, [4, 7, 1]).cases == tuple(chosen[8:])  # of their order nothing depends


def test_parts_of_a_batch_know_where_they_are_from() -> None:
    whole = Batches(numbered(5), range(5), PLAN, 0, None).draw(1)
    parts = [part for part, _ in whole.in_parts(3)]
    assert [n for part in parts for n in part.cases] == list(whole.cases)
    assert [n for part in parts for n in part.numbers] == list(whole.numbers)
    assert [at for part in parts for at in part.corners] == list(whole.corners)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def beside(numbers: tuple[int, ...], recipe: str | None = "ultrasound") -> torch.Tensor:
    chosen = None if recipe is None else RECIPES[recipe]
    source = UnlabelledBatches(PreparedCases(bare(3), PLAN), PLAN, 5, chosen)
    empty = torch.empty(0)
    views = source.beside(Batch(empty, empty, ("",) * len(numbers), numbers=numbers))
    return torch.stack([views.weak, views.strong])


def test_unlabelled_patches_follow_from_the_number_of_the_labelled_one_alone() -> None:
    together = beside((8, 9, 10, 11))
    assert torch.equal(together[:, 1:3], beside((9, 10)))
    assert len({float(patch.sum()) for patch in together[0]}) == 4


def test_the_strong_view_lies_over_the_weak_one() -> None:
    weak, strong = beside(tuple(range(40)))
    assert not torch.equal(weak, strong)
    alike = [
        np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(weak[:, 0], strong[:, 0], strict=True)
    ]
    assert np.median(alike) > 0.9
    weak, strong = beside(tuple(range(8)), None)
    assert torch.equal(weak, strong)


def test_an_image_without_a_label_is_unlabelled_everywhere() -> None:
    case = PreparedCases(bare(1), PLAN)[0]
    assert case.label.shape == case.image.shape[1:]
    assert (case.label == IGNORE).all()


# ---- what a run tells its objective -------------------------------------------------------------------


class Recorder(Supervised):
    """Keeps what it is told; every other epoch draws from one case alone."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.drawn: list[tuple[int, ...]] = []
        self.count = 0

    def epoch_begins(self, epoch: int):
        self.told.append(f"epoch {epoch}")
        yield Progress(0, 1, "partition")

    def cases(self, epoch: int):
        return self.setting.training[:1] if epoch % 2 else None

    def step(self, model, batch, backward):
        self.drawn.append(batch.cases)
        self.told.append("step")
        return super().step(model, batch, backward)

    def stepped(self) -> None:
        self.told.append("stepped")
        self.count += 1

    def figures(self) -> dict[str, float]:
        return {"steps/so far": float(self.count)}

    def state_dict(self):
        return {"count": torch.tensor(self.count)}

    def load_state_dict(self, state) -> None:
        self.count = int(state["count"])


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """The objectives of the runs that begin from now on."""
    made: list[Recorder] = []

    def make(name: str) -> Recorder:
        made.append(Recorder())
        return made[-1]

    monkeypatch.setattr("napari_prosma.training.run.make_objective", make)
    return made


def test_an_objective_is_told_of_epochs_and_steps_and_chooses_their_cases(
    settings: Settings, ultrasound: list[Case], tmp_path: Path, recorders: list[Recorder]
) -> None:
    events = list(train(settings(tmp_path / "run"), ultrasound))
    assert isinstance(events[-1], Finished)
    epoch = ["step", "stepped", "step", "stepped"]
    assert recorders[0].told == ["epoch 0", *epoch, "epoch 1", *epoch]
    setting = recorders[0].setting
    assert {n for drawn in recorders[0].drawn[:2] for n in drawn} == set(setting.training)
    assert {n for drawn in recorders[0].drawn[2:] for n in drawn} == {setting.training[0]}
    assert any(isinstance(event, Progress) and event.message == "partition" for event in events)
    ends = [event for event in events if isinstance(event, EpochEnd)]
    assert [end.objective for end in ends] == [{"steps/so far": 2}, {"steps/so far": 4}]
    assert [end.objective for end in read_metrics(tmp_path / "run")] == [end.objective for end in ends]


def test_a_run_that_goes_on_within_an_epoch_does_not_begin_it_again(
    settings: Settings, ultrasound: list[Case], tmp_path: Path, recorders: list[Recorder]
) -> None:
    from napari_prosma.training.checkpoint import load_checkpoint

    config = settings(tmp_path / "run", steps_per_epoch=3)
    run = train(config, ultrasound)
    while recorders == [] or recorders[0].told.count("stepped") < 4:
        next(run)
    run.close()
    list(train(config, ultrasound, resumed=load_checkpoint(tmp_path / "run" / "last.safetensors")))
    assert recorders[1].told == ["step", "stepped"] * 2
    assert recorders[1].count == 6


# ---- unlabelled images --------------------------------------------------------------------------------


def test_learning_from_labels_alone_refuses_unlabelled_images(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="choose the objective dim"):
        settings(tmp_path / "run", unlabelled=tmp_path)
    with pytest.raises(ConfigError, match="choose the objective dim"):
        list(train(settings(tmp_path / "run"), ultrasound, unlabelled=bare(1)))
    assert not (tmp_path / "run").exists()
