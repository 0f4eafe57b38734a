"""Files and folders are written whole or not at all, also where the process is killed or the disk is full."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_prosma.data.names import fitting_name
from napari_prosma.errors import ConfigError, DataError

WRITING, ASIDE = ".writing-", ".replaced-"
"""How the names begin of what is being written, and of a folder whose successor takes its place."""
_TAG = 8
"""Digits that tell two writers of one file apart."""
_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between tries of a refused replace: virus scanners and OneDrive hold a file for a moment."""
_AT_FDCWD, _SWAP = -100, 2


def wanted_name(path: Path) -> str:
    """The user's name for a file that :func:`written_whole` lets us write under a temporary one."""
    return path.name.split("-", 2)[-1] if path.name.startswith(WRITING) else path.name


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written in ``folder``, where nobody else writes now."""
    for left in folder.glob(f"{ASIDE}*"):
        restore(folder / left.name.removeprefix(ASIDE))
    for left in (*folder.glob(f"{WRITING}*"), *folder.glob(f"{ASIDE}*")):
        _remove(left)


def restore(path: Path) -> None:
    """Give a folder its name back if a process was killed between setting it aside and replacing it."""
    left = beside(path, ASIDE)
    if left.is_dir() and not path.exists():
        os.replace(left, path)


@contextmanager
def written_whole(path: str | Path, on_disk: bool = True) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what was written there takes its place when the block ends.

    The temporary name ends as ``path`` does, for libraries that look at it. On an error nothing is left
    behind and what was at ``path`` stays. A link stays a link: what it points to is replaced. The permissions
    of what was there are kept. Without ``on_disk`` nobody waits until the disk holds it: for what may be lost
    where the computer goes out that moment.

    Raises ``DataError``: when the folder cannot be made or written to, or what is there is write-protected.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        target = _pointed_to(path)
        restore(target)
        require_replaceable(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(target, f"{WRITING}{uuid.uuid4().hex[:_TAG]}-")
        yield temporary
        replace(temporary, path, on_disk)
    except OSError as error:
        raise DataError(f"cannot write '{path}' ({error.strerror or error}); {_remedy(error)}") from error
    finally:
        if temporary is not None:
            _remove(temporary)


def require_new(paths: Iterable[Path], remedy: str) -> None:
    """Refuse to write where something is.

    Raises ``DataError``: the first file that is there, and ``remedy``.
    """
    there = [path for path in paths if path.exists()]
    if there:
        more = f" and {len(there) - 1} more are" if len(there) > 1 else " is"
        raise DataError(f"'{there[0]}'{more} there already, perhaps corrected by hand; {remedy}")


def require_writable(folder: Path) -> None:
    """Refuse a folder, which need not be there yet, before the work of which the results would go there.

    Raises ``ConfigError``.
    """
    there = nearest(folder)
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(
            f"'{there}' is no folder that can be written to; choose another place than '{folder}'"
        )


def nearest(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def require_replaceable(path: Path) -> None:
    """Refuse what is write-protected (raises ``DataError``)."""
    if path.exists() and not os.access(path, os.W_OK):
        raise DataError(f"'{path}' is write-protected; allow writing, or choose another name")


def replace(new: Path, path: Path, on_disk: bool = True) -> None:
    """Move a file or folder to ``path``; at every moment the old or the new one is there, whole.

    Links and permissions are kept as by :func:`written_whole`. A replace that the system refuses, as Windows
    does while somebody reads the file, is tried again a few times.

    Raises ``OSError``.
    """
    path = _pointed_to(path)
    _keep_permissions(path, new)
    if on_disk:
        _sync(new)
    for wait in (*_WAITS, None):
        try:
            if new.is_dir() and path.is_dir():
                _replace_folder(new, path)
            else:
                os.replace(new, path)
            break
        except PermissionError:
            if wait is None:
                raise
            time.sleep(wait)
    if on_disk:
        _sync_folder(path.parent)


def beside(path: Path, beginning: str) -> Path:
    """A hidden name beside ``path`` that ends as its name does."""
    ending = "".join(path.suffixes[-2:])
    ending = ending if len(ending) < len(path.name) else ""
    return path.with_name(fitting_name(beginning + path.name.removesuffix(ending), ending))


def _replace_folder(new: Path, path: Path) -> None:
    if _swap(new, path):
        _remove(new)  # the old one by now
        return
    aside = beside(path, ASIDE)
    _remove(aside)  # of an earlier replace, whose successor stands
    os.replace(path, aside)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(aside, path)
        raise
    _sync_folder(path.parent)
    _remove(aside)


def _swap(one: Path, other: Path) -> bool:
    """Let two folders change names in one step, where the system knows how."""
    here, there = os.fsencode(os.path.abspath(one)), os.fsencode(os.path.abspath(other))
    try:
        if sys.platform == "linux":
            return ctypes.CDLL(None).renameat2(_AT_FDCWD, here, _AT_FDCWD, there, _SWAP) == 0
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(here, there, _SWAP) == 0
    except (OSError, AttributeError):  # a C library without them
        return False
    return False


def _pointed_to(path: Path) -> Path:
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _keep_permissions(target: Path, new: Path) -> None:
    """Give what is new the mode, the group and the access list of what it replaces."""
    if not target.exists():
        return
    _like(target, new)
    if new.is_dir():
        models = {True: target, False: next((p for p in target.rglob("*") if p.is_file()), None)}
        for path in new.rglob("*"):
            model = models[path.is_dir()]
            if model is not None:
                _like(model, path)


def _like(model: Path, new: Path) -> None:
    is_of = model.stat()
    if sys.platform != "win32" and is_of.st_gid != new.stat().st_gid:
        with suppress(PermissionError):  # a group that the user is not in
            os.chown(new, -1, is_of.st_gid)
    if sys.platform == "linux":
        for name in os.listxattr(model):
            with suppress(OSError):  # such as those of the system itself
                os.setxattr(new, name, os.getxattr(model, name))
    os.chmod(new, stat.S_IMODE(is_of.st_mode))


def _sync(written: Path) -> None:
    """Have the disk hold it before it takes another's place."""
    if not written.is_dir():
        with open(written, "rb+") as file:
            os.fsync(file.fileno())
        return
    for folder, _, names in os.walk(written):
        for name in names:
            with open(Path(folder, name), "rb+") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(folder))


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    with suppress(OSError):  # file systems that cannot; the names follow later
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    """Remove a file or folder of ours; one that cannot be removed now is left to the next sweep."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "make room on the disk or choose another one"
        case errno.ENAMETOOLONG:
            return "choose a shorter name"
        case _:
            return "choose a folder that exists and has room"
