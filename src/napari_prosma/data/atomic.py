"""Files are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_prosma.errors import DataError

WRITING = ".writing-"
"""How the temporary names begin."""


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written in ``folder``, where nobody else writes now."""
    for left in folder.glob(f"{WRITING}*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what was written there takes its place when the block ends.

    The temporary name ends as ``path`` does, for libraries that look at it. On an error nothing is left
    behind and what was at ``path`` stays.

    Raises
    ------
    DataError
        When the folder cannot be made or written to.
    """
    path = Path(path)
    temporary = path.with_name(f"{WRITING}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with open(temporary, "rb+") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"cannot write '{path}' ({error}); choose a folder that exists and has room"
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        elif path.parent.is_dir():
            temporary.unlink(missing_ok=True)
