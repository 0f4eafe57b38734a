"""A run folder has one owner, and a folder that is no run of ours stays as it is."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from napari_prosma.data.case import Case
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Finished
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.folds import cross_validate
from napari_prosma.training.run import train
from napari_prosma.training.run_claim import LOCK, claimed, is_run, require_own_folder

Settings = Callable[..., TrainConfig]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Claims a folder in a process of its own, which lives until it is killed."""
    program = (
        "import sys; from pathlib import Path; from napari_prosma.training.run_claim import claim\n"
        "claim(Path(sys.argv[1]), object()); print('claimed', flush=True); sys.stdin.read()"
    )
    begun = []

    def begin(folder: Path) -> subprocess.Popen[str]:
        line = [sys.executable, "-c", program, str(folder)]
        other = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        begun.append(other)
        return other

    yield begin
    for other in begun:
        other.kill()
        other.communicate()


def test_of_two_runs_in_one_folder_the_second_is_refused(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    first = train(settings(tmp_path / "run"), ultrasound)
    list(islice(first, 3))
    with pytest.raises(ConfigError, match="another run in this program"):
        next(train(settings(tmp_path / "run"), ultrasound))
    assert isinstance(list(first)[-1], Finished)
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_run_of_another_process_is_refused_by_its_name(
    tmp_path: Path, elsewhere: Callable[[Path], subprocess.Popen[str]]
) -> None:
    other = elsewhere(tmp_path / "run")
    with (
        pytest.raises(ConfigError, match=rf"process {other.pid} on '{platform.node()}'"),
        claimed(tmp_path / "run", object()),
    ):
        pass


def test_the_lock_of_a_process_that_was_killed_is_no_hindrance(
    tmp_path: Path, elsewhere: Callable[[Path], subprocess.Popen[str]]
) -> None:
    other = elsewhere(tmp_path / "run")
    other.kill()
    other.wait()
    assert (tmp_path / "run" / LOCK).is_file()
    with claimed(tmp_path / "run", object()):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["process"] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("field", ["machine", "namespace"])
def test_a_lock_of_another_machine_is_never_broken(tmp_path: Path, field: str) -> None:
    with claimed(tmp_path, object()):
        owner = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps({**owner, field: "another", "process": 2**22 + 1}))
    with pytest.raises(ConfigError, match=r"delete '.*run\.lock'"), claimed(tmp_path, object()):
        pass
    assert (tmp_path / LOCK).is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of this kind")
def test_a_full_disk_leaves_no_lock_that_names_nobody(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(DataError, match="cannot write to"), claimed(tmp_path, object()):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the time of a beginning tells starts apart")
def test_a_lock_of_before_the_machine_started_anew_is_broken(tmp_path: Path) -> None:
    """Process numbers and their ticks may come again then."""
    with claimed(tmp_path, object()):
        owner = json.loads((tmp_path / LOCK).read_text())
    ticks, _, _ = owner["began"].partition(" ")
    (tmp_path / LOCK).write_text(json.dumps({**owner, "began": f"{ticks} another start", "token": "0"}))
    with claimed(tmp_path, object()):
        assert json.loads((tmp_path / LOCK).read_text())["began"] == owner["began"]


def test_a_number_of_a_process_that_was_given_again_is_no_owner(tmp_path: Path) -> None:
    with claimed(tmp_path, object()):
        owner = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps({**owner, "process": os.getppid(), "began": "0"}))
    with claimed(tmp_path, object()):
        pass


def test_a_lock_that_was_cut_off_is_broken_once_it_is_old(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text('{"proc')
    with pytest.raises(ConfigError, match="being taken"), claimed(tmp_path, object()):
        pass
    os.utime(tmp_path / LOCK, (0, 0))
    with claimed(tmp_path, object()):
        pass


@pytest.mark.parametrize(
    "name", ["metrics.csv", "label_confidence.csv", "run.json", "last.safetensors", "notes"]
)
def test_a_folder_that_is_no_run_stays_as_it_is(
    settings: Settings, ultrasound: list[Case], tmp_path: Path, name: str
) -> None:
    mine = tmp_path / name
    mine.write_text('{"protocol": "mine"}')
    with pytest.raises(ConfigError, match=f"holds '{name}'.* no run folder"):
        list(train(settings(tmp_path), ultrasound))
    with pytest.raises(ConfigError, match=name):
        list(cross_validate(settings(tmp_path), ultrasound, overwrite=True))
    assert mine.read_text() == '{"protocol": "mine"}'
    assert list(tmp_path.iterdir()) == [mine]


def test_files_of_systems_do_not_make_a_folder_somebody_elses(tmp_path: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).touch()
    require_own_folder(tmp_path)


def test_a_cross_validation_that_was_killed_before_its_first_fold_can_begin_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "fold1").mkdir()
    (tmp_path / "fold1" / LOCK).touch()
    require_own_folder(tmp_path)


def test_the_folder_of_the_data_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds the data"):
        require_own_folder(tmp_path / "." / "data", tmp_path / "data")


def test_forgetting_a_cross_validation_removes_only_what_it_wrote(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    (tmp_path / "fold9").mkdir()
    mine = tmp_path / "fold9" / "mine.safetensors"
    mine.write_text("weights of mine")
    begun = train(settings(tmp_path / "fold1"), ultrasound)
    assert isinstance(list(begun)[-1], Finished)
    assert is_run(tmp_path)
    (tmp_path / "fold1" / "mine.safetensors").write_text("weights of mine")
    list(islice(cross_validate(settings(tmp_path), ultrasound, folds=2, overwrite=True), 1))
    assert mine.read_text() == "weights of mine"
    assert (tmp_path / "fold1" / "mine.safetensors").is_file()
    assert not (tmp_path / "fold1" / "last.safetensors").exists()
