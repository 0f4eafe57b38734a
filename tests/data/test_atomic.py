"""What is written takes the place of what was there in one step, and keeps its permissions and links."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from napari_prosma.data import atomic
from napari_prosma.data.atomic import ASIDE, WRITING, restore, sweep, written_whole
from napari_prosma.data.names import LONGEST_NAME, fitting_name
from napari_prosma.errors import DataError

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes, links and fork of POSIX")


def write_file(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text)


def write_folder(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        (temporary / "0").mkdir(parents=True)
        (temporary / "0" / "chunk").write_text(text)


def folder_text(path: Path) -> str:
    return (path / "0" / "chunk").read_text()


def _counting(fatal: int) -> Callable[[object, object], None]:
    """``os.replace`` that ends the process at its n-th call."""
    really, renames = os.replace, []

    def counted(old: object, new: object) -> None:
        renames.append(new)
        if len(renames) == fatal:
            os._exit(9)
        really(old, new)  # type: ignore[arg-type]

    return counted


def killed_at_each_rename(write: Callable[[], None], check: Callable[[], None]) -> int:
    """Run ``write`` in processes that are killed before their n-th rename; how many renames there are."""
    for number in range(1, 10):
        child = os.fork()
        if child == 0:
            os.replace = _counting(number)  # type: ignore[assignment]
            write()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        check()
        if code == 0:
            return number - 1
    raise AssertionError("it never ends")


@posix
@pytest.mark.parametrize("swaps", [True, False], ids=["swapped", "set aside"])
def test_a_folder_is_there_wherever_a_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    path = tmp_path / "masks.ome.zarr"
    write_folder(path, "old")
    if not swaps:
        monkeypatch.setattr(atomic.sys, "platform", "a system that cannot swap")

    def check() -> None:
        restore(path)
        assert folder_text(path) in ("old", "new")

    assert killed_at_each_rename(lambda: write_folder(path, "new"), check) == (0 if swaps else 2)
    assert folder_text(path) == "new"
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_clean_up_brings_back_a_folder_that_was_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "masks.ome.zarr"
    write_folder(path, "only copy")
    path.rename(tmp_path / f"{ASIDE}masks.ome.zarr")
    (tmp_path / f"{WRITING}0123abcd-masks.ome.zarr").mkdir()
    sweep(tmp_path)
    assert folder_text(path) == "only copy"
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_replace_that_is_refused_for_a_moment_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, str], None]
) -> None:
    path, really, refused = tmp_path / "labels.nii", os.replace, []

    def scanned(old: Path, new: Path) -> None:
        if len(refused) < 3:
            refused.append(new)
            raise PermissionError(13, "used by another process")
        really(old, new)

    write(path, "old")
    monkeypatch.setattr(os, "replace", scanned)
    monkeypatch.setattr(atomic.sys, "platform", "a system that cannot swap")
    write(path, "new")
    assert len(refused) == 3
    assert (path.read_text() if path.is_file() else folder_text(path)) == "new"


def test_a_replace_that_stays_refused_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(old: Path, new: Path) -> None:
        raise PermissionError(13, "used by another process")

    write_file(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "replace", locked)
    monkeypatch.setattr(atomic, "_WAITS", (0.0,))
    with pytest.raises(DataError, match="used by another process"):
        write_file(tmp_path / "a.txt", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions_stay_as_they_were(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "mask.png"
    write_file(path, "old")
    path.chmod(mode)
    write_file(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_permissions_of_a_folder_and_what_is_in_it_stay_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "mask.ome.zarr"
    write_folder(path, "old")
    (path / "0" / "chunk").chmod(0o640)
    path.chmod(0o750)
    write_folder(path, "new")
    found = [stat.S_IMODE(p.stat().st_mode) for p in (path, path / "0", path / "0" / "chunk")]
    assert found == [0o750, 0o750, 0o640]


@posix
@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_link_stays_a_link_and_its_target_is_replaced(
    tmp_path: Path, write: Callable[[Path, str], None]
) -> None:
    target, link = tmp_path / "archive" / "mask", tmp_path / "mask"
    write(target, "old")
    link.symlink_to(Path("archive") / "mask")
    write(link, "new")
    assert link.is_symlink()
    assert (target.read_text() if target.is_file() else folder_text(target)) == "new"


@posix
def test_a_write_protected_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "gold.txt", "old")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "gold.txt")  # root may all
    with pytest.raises(DataError, match=r"gold\.txt' is write-protected"):
        write_file(tmp_path / "gold.txt", "new")
    assert (tmp_path / "gold.txt").read_text() == "old"


@pytest.mark.parametrize("name", ["x" * 245 + ".nii.gz", "ä" * 124 + ".png", "x" * 255])
def test_the_longest_names_are_written(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / name, "a")
    write_file(tmp_path / name, "b")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_that_no_disk_takes_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose a shorter name"):
        write_file(tmp_path / ("x" * 300), "a")
    assert list(tmp_path.iterdir()) == []


def test_a_long_name_is_shortened_and_stays_unlike_others() -> None:
    names = [fitting_name("ä" * 200 + end, "_labels.nii.gz") for end in "ab"]
    assert all(len(name.encode()) <= LONGEST_NAME and name.endswith("_labels.nii.gz") for name in names)
    assert names[0] != names[1]
    assert fitting_name("scan", "_labels.png") == "scan_labels.png"
