"""What lies beside the checkpoints of a run: run.json, metrics.csv, and when they refuse."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_prosma import __version__
from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import CaseFacts, Plan, case_facts, content_hash
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.texts import read_rows
from napari_prosma.errors import CheckpointError, ConfigError, DataError
from napari_prosma.events import EpochEnd
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import LAST, Checkpoint
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run_folder import (
    METRICS,
    RUN,
    RunFolder,
    read_metrics,
    read_run,
)
from napari_prosma.training.state import RunState

PLAN = Plan(dims=2, channels=1, axes=2, class_names=("background", "lésion"), patch=(16, 16), batch=2)
CPU = torch.device("cpu")
NAMES = ("a", "b", "c")
SPLIT = {"training": ["a", "b"], "validation": ["c"]}


def facts(
    name: str, seed: int = 0, label_value: int = 1, spacing: float = 0.5, unit: str = "mm"
) -> CaseFacts:
    image = np.random.default_rng(seed).normal(size=(1, 6, 8))
    label = np.zeros((6, 8), np.uint8)
    label[2:4, 3] = label_value
    case = Case.from_arrays(name, image, label, Geometry((spacing, 0.25), (0.0, 0.0), unit))
    return case_facts(case, case.read_image(), label)


ALL = [facts(name) for name in NAMES]


def begun(folder: Path, **settings: object) -> RunFolder:
    run = RunFolder(folder)
    run.begin(TrainConfig.of(run_dir=folder, **settings), PLAN, ALL, SPLIT, CPU)
    return run


def end(epoch: int, **changes: object) -> EpochEnd:
    given = EpochEnd(
        epoch=epoch,
        epochs=3,
        loss=1 / 3 / epoch,
        learning_rate=1e-3,
        seconds=0.1 + 0.2,
        validation={"dice": 0.7, 'dice/left, "old"\nlesion': math.pi / 4},
        gates={1: {"lambda_mean": math.log(2)}, 12: {"z_zero_fraction": 0.5}},
        memory=2**33 + 1,
    )
    return replace(given, **changes)  # type: ignore[arg-type]


# ---- run.json -------------------------------------------------------------------------------------------


def test_run_json_gives_back_what_the_run_was_begun_with(tmp_path: Path) -> None:
    rule = LabelRule("values", ("background", "lésion"), (0, 3), unlabelled=7)
    config = TrainConfig.of(
        run_dir=tmp_path / "new" / "run",
        data=tmp_path,
        labels=rule,
        learning_rate=0.1 + 0.2,
        widths=(8, 16, 32),
    )
    folder = RunFolder(config.run_dir)
    assert folder.begin(config, PLAN, ALL, SPLIT, CPU) == ()
    run = read_run(config.run_dir)
    assert (run.config, run.plan, run.class_names) == (config, PLAN, ("background", "lésion"))
    first = run.cases[0]
    assert (first.name, first.shape, first.spacing, first.unit) == ("a", (6, 8), (0.5, 0.25), "mm")
    assert (first.image_hash, first.label_hash) == (ALL[0].image_hash, ALL[0].label_hash)
    assert [case.parts for case in run.cases] == [("training",), ("training",), ("validation",)]
    assert run.device.startswith("CPU")
    assert run.versions["torch"] == torch.__version__
    assert [start.version for start in run.started] == [__version__]
    assert json.loads((config.run_dir / RUN).read_text(encoding="utf-8"))["fingerprint"] == run.fingerprint


def test_a_single_case_is_in_both_parts(tmp_path: Path) -> None:
    both = {"training": ["a"], "validation": ["a"]}
    RunFolder(tmp_path).begin(TrainConfig.of(run_dir=tmp_path), PLAN, ALL[:1], both, CPU)
    assert read_run(tmp_path).cases[0].parts == ("training", "validation")


def test_a_relative_run_can_be_read_from_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    begun(Path("run"), data=Path("images"), start_from=Path("other.safetensors"))
    monkeypatch.chdir(tmp_path.parent)
    config = read_run(tmp_path / "run").config
    assert (config.run_dir, config.data) == (tmp_path / "run", (tmp_path / "images").resolve())
    assert config.start_from == (tmp_path / "other.safetensors").resolve()


def test_data_inside_a_run_folder_move_with_it(tmp_path: Path) -> None:
    inside, elsewhere = begun(tmp_path / "in", data=tmp_path / "in" / "cases"), tmp_path / "elsewhere"
    inside.path.rename(tmp_path / "moved")
    assert read_run(tmp_path / "moved").config.data == tmp_path / "moved" / "cases"
    assert read_run(tmp_path / "moved").config.run_dir == tmp_path / "moved"
    begun(tmp_path / "out", data=elsewhere).path.rename(tmp_path / "moved too")
    assert read_run(tmp_path / "moved too").config.data == elsewhere


def test_the_fingerprint_is_of_names_images_and_labels_in_any_order(tmp_path: Path) -> None:
    def fingerprint(*found: CaseFacts) -> str:
        RunFolder(tmp_path).begin(TrainConfig.of(run_dir=tmp_path), PLAN, found, SPLIT, CPU)
        return read_run(tmp_path).fingerprint

    assert fingerprint(*ALL) == fingerprint(*ALL[::-1])
    others = (facts("d"), facts("c", seed=1), facts("c", label_value=2))
    assert len({fingerprint(*ALL), *(fingerprint(*ALL[:2], other) for other in others)}) == 4


def resumed(folder: Path, *found: CaseFacts) -> tuple[str, ...]:
    return RunFolder(folder).begin(TrainConfig.of(run_dir=folder), PLAN, found, SPLIT, CPU, resumed=True)


def test_a_run_that_goes_on_names_the_cases_that_changed(tmp_path: Path) -> None:
    begun(tmp_path)
    assert resumed(tmp_path, *ALL) == ()
    notices = resumed(tmp_path, facts("a", seed=1), facts("b", spacing=0.75), facts("c", label_value=2))
    assert len(notices) == 2
    assert "images of 2 cases (a, b) changed" in notices[0]
    assert "labels of 1 case (c) changed" in notices[1]
    # What it learns from now is what it is left with.
    assert resumed(tmp_path, facts("a", seed=1), facts("b", spacing=0.75), facts("c", label_value=2)) == ()


def test_another_unit_of_the_spacing_is_another_image(tmp_path: Path) -> None:
    begun(tmp_path)
    (said,) = resumed(tmp_path, facts("a", unit="um"), *ALL[1:])
    assert "images of 1 case (a) changed" in said


def test_a_run_that_goes_on_keeps_when_it_was_started(tmp_path: Path) -> None:
    begun(tmp_path)
    before = read_run(tmp_path).started
    resumed(tmp_path, *ALL)
    assert read_run(tmp_path).started[: len(before)] == before
    assert len(read_run(tmp_path).started) == 2
    begun(tmp_path)
    assert len(read_run(tmp_path).started) == 1


def test_a_label_that_was_corrected_is_no_surprise_later(tmp_path: Path) -> None:
    run, corrected = begun(tmp_path), facts("b", label_value=2)
    fingerprint = read_run(tmp_path).fingerprint
    run.set_label_hash("b", corrected.label_hash)
    assert read_run(tmp_path).fingerprint != fingerprint
    del run
    assert resumed(tmp_path, ALL[0], corrected, ALL[2]) == ()
    assert "(b)" in resumed(tmp_path, *ALL)[0]


def test_a_changed_setting_is_kept_and_nothing_else_changes(tmp_path: Path) -> None:
    run = begun(tmp_path)
    before = read_run(tmp_path)
    run.configuration_changed(TrainConfig.of(run_dir=tmp_path, epochs=7))
    assert read_run(tmp_path) == replace(before, config=TrainConfig.of(run_dir=tmp_path, epochs=7))


def test_changes_one_after_the_other_are_all_kept(tmp_path: Path) -> None:
    run = begun(tmp_path)
    for name in ("a", "b"):
        run.set_label_hash(name, facts(name, label_value=2).label_hash)
    run.configuration_changed(TrainConfig.of(run_dir=tmp_path, epochs=7))
    assert read_run(tmp_path).config.epochs == 7
    del run
    assert resumed(tmp_path, facts("a", label_value=2), facts("b", label_value=2), ALL[2]) == ()


def test_a_new_run_takes_away_what_belongs_to_another(tmp_path: Path) -> None:
    begun(tmp_path).write_metrics([end(1)])
    others = [tmp_path / name for name in ("last.safetensors", "best.safetensors")]
    for path in (*others, tmp_path / "mine.txt"):
        path.touch()
    resumed(tmp_path, *ALL)
    assert all(path.exists() for path in (*others, tmp_path / METRICS))
    begun(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", RUN]


def test_a_run_without_run_json_can_go_on(tmp_path: Path) -> None:
    assert resumed(tmp_path, *ALL) == ()
    assert len(read_run(tmp_path).cases) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b'"text"',
        b"null",
        b"\xff\xfe\x00",
        b'{"format": 1}',
        b'{"format": "new"}',
        b'{"format": 1, "config": {"run_dir": "a", "epochs": -1}}',
    ],
)
def test_a_damaged_run_json_is_told_in_words_and_does_not_end_the_run(tmp_path: Path, content: bytes) -> None:
    begun(tmp_path)
    (tmp_path / RUN).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"run\.json' is damaged"):
        read_run(tmp_path)
    (notice,) = resumed(tmp_path, *ALL)
    assert "is damaged" in notice
    assert len(read_run(tmp_path).cases) == 3


@pytest.mark.parametrize("key", ["config", "plan", "cases", "versions", "started", "device"])
def test_nothing_in_run_json_may_be_missing(tmp_path: Path, key: str) -> None:
    begun(tmp_path)
    content = json.loads((tmp_path / RUN).read_text(encoding="utf-8"))
    del content[key]
    (tmp_path / RUN).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=key):
        read_run(tmp_path)


def test_run_json_of_a_newer_version_asks_for_an_update(tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / RUN).write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="newer version"):
        read_run(tmp_path)


def test_a_folder_without_a_run_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no run\.json"):
        read_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no run\.json"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_a_folder_that_is_gone_is_not_made_anew(tmp_path: Path, how: str) -> None:
    run = begun(tmp_path / "run")
    run.require_there()
    if how == "moved":
        run.path.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(run.path)
    writers = (
        run.require_there,
        lambda: run.write_metrics([end(1)]),
        lambda: run.set_label_hash("a", content_hash(np.zeros((2, 2)))),
        lambda: run.configuration_changed(TrainConfig.of(run_dir=run.path)),
    )
    for write in writers:
        with pytest.raises(DataError, match="moved, renamed or deleted"):
            write()
    assert not run.path.exists()


def test_a_folder_that_cannot_be_made_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        begun(tmp_path / "file" / "run")


# ---- metrics.csv and the history ------------------------------------------------------------------------


def test_metrics_come_back_digit_for_digit(tmp_path: Path) -> None:
    history = (
        end(1),
        end(2, validation={"dice": math.nan}, gates={}, loss=math.inf),
        end(3, gates={2: {"lambda_mean": 5e-324}}),
    )
    run = begun(tmp_path)
    run.write_metrics(history)
    assert repr(read_metrics(tmp_path)) == repr(history)
    columns = list(read_rows(tmp_path / METRICS)[0])
    assert columns[:7] == ["epoch", "epochs", "loss", "learning_rate", "seconds", "memory", "dice"]
    assert "skip12/z_zero_fraction" in columns


def test_a_folder_that_is_begun_without_a_run_is_taken(tmp_path: Path) -> None:
    first = begun(tmp_path)
    before = (tmp_path / RUN).read_bytes()
    with pytest.raises(ConfigError, match="another run"):
        begun(tmp_path)
    assert (tmp_path / RUN).read_bytes() == before
    del first


def test_a_run_without_an_epoch_has_no_metrics(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert read_metrics(tmp_path) == ()
    run.write_metrics([])
    assert read_metrics(tmp_path) == ()


@pytest.mark.parametrize(
    "content",
    ["epoch,epochs,loss\n1,2\n", "epoch\n1,2,3\n", "a,b\n1,2\n", "epoch,epochs\nx,y\n", '"epoch\n1'],
)
def test_damaged_metrics_are_told_in_words(tmp_path: Path, content: str) -> None:
    (tmp_path / METRICS).write_text(content)
    with pytest.raises(DataError, match=r"metrics\.csv' is damaged"):
        read_metrics(tmp_path)


numbers = st.floats()
figures = st.dictionaries(st.text(), numbers, max_size=3)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            EpochEnd,
            epoch=st.integers(1, 10**6),
            epochs=st.integers(1, 10**6),
            loss=numbers,
            learning_rate=numbers,
            seconds=numbers,
            validation=figures,
            gates=st.dictionaries(st.integers(1, 9), figures, max_size=3),
            memory=st.integers(0, 2**40),
        ),
        max_size=3,
    )
)
def test_the_history_passes_through_a_checkpoint_exactly(history: list[EpochEnd]) -> None:
    config = TrainConfig(run_dir=Path("run"))
    place = json.loads(json.dumps(RunState(config, PLAN, history=history).place(LAST)))
    assert repr(resumed_state(place).history) == repr(history)


def test_what_is_no_history_is_refused() -> None:
    place = RunState(TrainConfig(run_dir=Path("run")), PLAN).place(LAST)
    with pytest.raises(ValueError):
        resumed_state({**place, "history": [{"epoch": 1}]})


def resumed_state(place: dict[str, Any]) -> RunState:
    config = TrainConfig(run_dir=Path("run"))
    state = RunState(config, PLAN)
    state.resume(Checkpoint(config.model_spec(PLAN), PLAN, {}, {}, 1, place=place))
    return state
