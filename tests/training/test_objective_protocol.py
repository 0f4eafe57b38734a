"""What a run tells its objective and takes from it; unlabelled images beside the labelled ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from typer.testing import CliRunner

from napari_prosma.cli.app import app
from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import EpochEnd, Event, Finished, Notice, Progress
from napari_prosma.geometry import Geometry
from napari_prosma.model.augment import RECIPES
from napari_prosma.model.checkpoint import LAST, load_checkpoint
from napari_prosma.training.batches import Batch, Batches, PreparedCases, UnlabelledBatches
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.objectives.supervised.learning import Supervised
from napari_prosma.training.run import train
from napari_prosma.training.run_folder import read_metrics, read_run
from napari_prosma.training.steering import Steering

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


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 8])
def test_parts_of_a_batch_hold_every_patch_once_and_know_where_it_is_from(wanted: int) -> None:
    whole = Batches(numbered(5), range(5), PLAN, 0, None).draw(1)
    parts, shares = zip(*whole.in_parts(wanted), strict=True)
    assert len(parts) == min(wanted, 4)
    assert sum(shares) == pytest.approx(1)
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
        return self.context.training[:1] if epoch % 2 else None

    def step(self, model, batch, backward):
        self.drawn.append(batch.cases)
        self.told.append("step")
        return super().step(model, batch, backward)

    def abandoned(self) -> None:
        self.told.append("abandoned")

    def stepped(self) -> None:
        self.told.append("stepped")
        self.count += 1

    def relabelled(self, index: int) -> None:
        self.told.append(f"relabelled {self.context.cases.cases[index].name}")

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

    monkeypatch.setattr("napari_prosma.training.learner.make_objective", make)
    return made


def test_an_objective_is_told_of_epochs_and_steps_and_chooses_their_cases(
    settings: Settings, ultrasound: list[Case], tmp_path: Path, recorders: list[Recorder]
) -> None:
    events = list(train(settings(tmp_path / "run"), ultrasound))
    assert isinstance(events[-1], Finished)
    epoch = ["step", "stepped", "step", "stepped"]
    assert recorders[0].told == ["epoch 0", *epoch, "epoch 1", *epoch]
    setting = recorders[0].context
    assert {n for drawn in recorders[0].drawn[:2] for n in drawn} == set(setting.training)
    assert {n for drawn in recorders[0].drawn[2:] for n in drawn} == {setting.training[0]}
    assert any(isinstance(event, Progress) and event.message == "partition" for event in events)
    ends = [event for event in events if isinstance(event, EpochEnd)]
    assert [end.objective for end in ends] == [{"steps/so far": 2}, {"steps/so far": 4}]
    assert [end.objective for end in read_metrics(tmp_path / "run")] == [end.objective for end in ends]


def test_a_run_that_goes_on_within_an_epoch_does_not_begin_it_again(
    settings: Settings, ultrasound: list[Case], tmp_path: Path, recorders: list[Recorder]
) -> None:
    config = settings(tmp_path / "run", steps_per_epoch=3)
    run = train(config, ultrasound)
    while recorders == [] or recorders[0].told.count("stepped") < 4:
        next(run)
    run.close()
    list(train(config, ultrasound, resumed=load_checkpoint(tmp_path / "run" / LAST)))
    assert recorders[1].told == ["step", "stepped"] * 2
    assert recorders[1].count == 6


def test_an_objective_is_told_of_a_try_that_failed_and_of_labels_that_were_corrected(
    settings: Settings, ultrasound: list[Case], tmp_path: Path, recorders: list[Recorder]
) -> None:
    steering, config = Steering(), settings(tmp_path / "run", epochs=1, batch=4)

    def refuse(module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if module.training and len(given[0]) > 2:
            raise torch.OutOfMemoryError("out of memory")

    for _ in train(config, ultrasound, steering=steering):
        if recorders and recorders[0].told == ["epoch 0"]:
            recorders[0].context.network.register_forward_pre_hook(refuse)
            steering.relabel(ultrasound[0].name)
    told = ["epoch 0", f"relabelled {ultrasound[0].name}", "step", "abandoned", "step", "step", "stepped"]
    assert recorders[0].told[: len(told)] == told


# ---- unlabelled images --------------------------------------------------------------------------------


def test_learning_from_labels_alone_refuses_unlabelled_images(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="choose the objective dim"):
        settings(tmp_path / "run", unlabelled=tmp_path)
    with pytest.raises(ConfigError, match="choose the objective dim"):
        list(train(settings(tmp_path / "run"), ultrasound, unlabelled=bare(1)))
    assert not (tmp_path / "run").exists()


def told(run_dir: Path, cases: list[Case], unlabelled: list[Case], **changes: object) -> str:
    """What a run of one step says of its unlabelled images."""
    wanted = {"widths": (4, 6, 8), "epochs": 1, "steps_per_epoch": 1, "device": "cpu", "threads": 1}
    config = TrainConfig.of(run_dir=run_dir, objective="dim", **{**wanted, **changes})
    return notices(list(train(config, cases, unlabelled=unlabelled)))


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((3, 40, 40), r"'odd\.png' has 3 channel\(s\) and 2 axes but the labelled ones have 1 and 2"),
        ((1, 8, 40, 40), r"'odd\.png' has 1 channel\(s\) and 3 axes"),
        ((1, 0, 40), r"'odd\.png' is empty"),
    ],
)
def test_an_unlabelled_image_that_does_not_fit_is_named(
    ultrasound: list[Case], tmp_path: Path, shape: tuple[int, ...], says: str
) -> None:
    odd = replace(Case.from_arrays("odd", np.zeros(shape, np.float32)), files=(Path("odd.png"),))
    with pytest.raises(DataError, match=says):
        told(tmp_path / "run", ultrasound, [*bare(1), odd])
    assert not (tmp_path / "run").exists()


def test_an_unlabelled_image_without_numbers_is_named(ultrasound: list[Case], tmp_path: Path) -> None:
    odd = Case.from_arrays("odd", np.full((1, 40, 40), np.nan, np.float32))
    with pytest.raises(DataError, match=r"'odd'.*NaN"):
        told(tmp_path / "run", ultrasound, [odd])


def test_no_labelled_case_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labelled case"):
        told(tmp_path / "run", [], bare(2))
    assert not (tmp_path / "run").exists()


def test_a_case_in_both_sets_is_taken_out_of_the_unlabelled_whatever_it_is_called(
    ultrasound: list[Case], tmp_path: Path
) -> None:
    again = [replace(ultrasound[0], name="copy"), replace(bare(1)[0], name=ultrasound[1].name), bare(2)[1]]
    said = told(tmp_path / "run", ultrasound, again)
    assert (
        "1 of the 3 unlabelled images (copy) are among the labelled cases and are not used as unlabelled "
        "images" in said
    )
    assert "Unlabelled: 2 images" in said
    with pytest.raises(DataError, match="none is left"):
        told(tmp_path / "other", ultrasound, ultrasound[2:4])
    assert not (tmp_path / "other").exists()


def sized(case: Case, spacing: float) -> Case:
    """The case on pixels of another size, in mm."""
    image = case.read_image().array
    label = None if case.read_label is None else case.read_label()
    return Case.from_arrays(case.name, image, label, Geometry((spacing,) * 2, (0.0,) * 2, "mm"))


def test_unlabelled_images_come_onto_the_grid_of_the_labelled_ones(
    ultrasound: list[Case], tmp_path: Path, recorders: list[Recorder]
) -> None:
    labelled = [sized(case, 1.0) for case in ultrasound]
    told(tmp_path / "run", labelled, [sized(case, 0.5) for case in bare(2)], spacing=(1.0, 1.0))
    unlabelled = recorders[0].context.unlabelled
    assert unlabelled is not None
    assert unlabelled._moved._cases[0].image.shape == (1, 20, 20)
    unsized = Case.from_arrays("bare 0", bare(1)[0].read_image().array)
    told(tmp_path / "taken as all others", labelled, [unsized], spacing=(1.0, 1.0))
    labelled = [sized(case, 1.0 + number) for number, case in enumerate(ultrasound)]
    with pytest.raises(DataError, match=r"'bare 0' cannot be brought to the spacing.*how large"):
        told(tmp_path / "other", labelled, [unsized], spacing=(1.0, 1.0))


def test_labels_of_unlabelled_images_are_never_read(ultrasound: list[Case], tmp_path: Path) -> None:
    def refuse() -> np.ndarray:
        raise AssertionError("read")

    told(tmp_path / "run", ultrasound, [replace(case, read_label=refuse) for case in bare(2)])


def test_other_unlabelled_images_than_at_the_beginning_are_told_when_a_run_goes_on(
    ultrasound: list[Case], tmp_path: Path
) -> None:
    told(tmp_path / "run", ultrasound, bare(2))
    kept = load_checkpoint(tmp_path / "run" / LAST)
    config = TrainConfig.of(**{**kept.config, "epochs": 2})
    said = [
        notices(list(train(config, ultrasound, resumed=kept, unlabelled=bare(count)))) for count in (2, 3)
    ]
    assert "unlabelled images changed" not in said[0]
    assert "unlabelled images changed" in said[1]


def test_a_run_that_is_stopped_among_its_unlabelled_images_leaves_nothing(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    steering, read = Steering(), []
    config = settings(tmp_path / "run", objective="dim")
    for event in train(config, ultrasound, steering=steering, unlabelled=bare(4)):
        if isinstance(event, Progress) and "unlabelled" in event.message:
            read.append(event.message)
            steering.stop()
    assert read == ["reading 1 of 4 unlabelled images"]
    assert not (tmp_path / "run").exists()


def test_a_folder_of_images_is_learned_from_in_a_shell(
    ultrasound: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, case in enumerate([*ultrasound[:4], *bare(2)]):
        grey = case.read_image().array[0]
        pictures = {"labelled/images" if n < 4 else "more": 255 * grey / grey.max()}
        if case.read_label is not None:
            pictures["labelled/masks"] = 255 * case.read_label()
        for folder, picture in pictures.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Picture.fromarray(picture.clip(0, 255).astype(np.uint8)).save(tmp_path / folder / f"{n}.png")
    monkeypatch.chdir(tmp_path)
    line = [
        *(
            "train",
            "labelled",
            "--out",
            "run",
            "--objective",
            "dim",
            "--unlabelled",
            "more",
            "--device",
            "cpu",
        ),
        *("--widths", "4,6,8", "--epochs", "1", "--steps-per-epoch", "1", "--threads", "1"),
        *("--dim-option", "rho=0.1"),
    ]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert "Unlabelled: 2 images" in done.output
    assert "--dim-option is now called --objective-option" in done.stderr
    config = read_run(tmp_path / "run").config
    assert (config.unlabelled, config.objective_options.rho) == (tmp_path / "more", 0.1)
