"""Where models lie, and what a file says of its model before any weight is read; imports no torch.

A model is given as a file, as the folder of a run, or by the name of a shipped one: a folder in ``models/``
of this package, or in one that ``PROSMA_MODELS`` names, such as that of a hospital.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from napari_prosma.data.texts import parse_json
from napari_prosma.errors import CheckpointError, DataError

FORMAT = 3
"""1: one network. 2: also ensembles, and a run's weights beside their average. 3: weights in half precision,
and the overlaps of the validation cases."""
BEST, LAST, ENSEMBLE = "best.safetensors", "last.safetensors", "ensemble.safetensors"
MODEL = "model.safetensors"
"""In the folder of a shipped model."""
FOLD = "fold"
"""Folders of the folds of a cross-validation are called ``fold1``, ``fold2``, ..."""
SUFFIX = ".safetensors"
SHIPPED, FURTHER = Path(__file__).parents[1] / "models", "PROSMA_MODELS"
"""Folder of the models in this package; variable that names further ones, parted as in ``PATH``."""
LENGTH = 8
"""Bytes of a safetensors file that say how long its header is."""
METADATA = "__metadata__"
"""What lies under this name in the header of a safetensors file is no tensor."""
_LONGEST_HEADER = 100_000_000


def shipped_models() -> dict[str, Path]:
    """Folders of the models that come with this program, and of those in ``PROSMA_MODELS``, by name."""
    further = (Path(text).expanduser() for text in os.environ.get(FURTHER, "").split(os.pathsep) if text)
    found: dict[str, Path] = {}
    for folder in (SHIPPED, *further):
        for inside in sorted(folder.iterdir()) if folder.is_dir() else ():
            if (inside / MODEL).is_file():
                found.setdefault(inside.name, inside)
    return found


def is_model(path: Path) -> bool:
    """Whether it looks like a model by its name, or holds one."""
    return path.suffix.lower() == SUFFIX if path.is_file() else bool(_inside(path))


def where_model_is(given: Path | str) -> Path:
    """The folder of the shipped model of this name; anything else as it is.

    A model that lies in a file or folder of the same name goes first, a folder without one does not.
    """
    path = Path(given)
    if len(path.parts) == 1 and not is_model(path):
        return shipped_models().get(str(given), path)
    return path


def model_file(given: Path | str) -> Path:
    """The file of a model; of a run folder its best one, of a cross-validation's folder its ensemble.

    Raises ``CheckpointError``: there is none.
    """
    path = where_model_is(given)
    if path.is_dir():
        inside = _inside(path)
        if not inside and (path / f"{FOLD}1").is_dir():
            raise CheckpointError(
                f"the cross-validation in '{path}' is not finished and has no {ENSEMBLE} yet; resume it, "
                f"or choose one of its folds, such as '{path / f'{FOLD}1'}'"
            )
        if not inside:
            raise CheckpointError(
                f"folder '{path}' holds no checkpoint ({BEST} or {LAST}); train a model into it"
            )
        return inside[0]
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist; give {_instead_of(str(given))}")
    return path


def read_header(path: Path) -> dict[str, Any]:
    """Values of the header of a model file, by the names that ``model.checkpoint`` writes.

    Raises ``CheckpointError``: it cannot be read, is no model of ours, is shorter than its tensors, or of a
    newer format.
    """
    try:
        header, end = _whole_header(path)
        read = parse_header(path, _ours(path, header)["prosma"])
        if end > path.stat().st_size:
            raise DataError("its tensors are longer than the file")
        return read
    except (OSError, DataError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"'{path}' is no checkpoint or is cut short ({error})") from error


def require_no_longer(path: Path) -> None:
    """Refuse a file that goes on behind its tensors, before any of it is read.

    Raises ``DataError``; ``ValueError`` and its like where the header is none.
    """
    if path.stat().st_size > _whole_header(path)[1]:
        raise DataError("the file is longer than its tensors")


def _whole_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its last tensor ends."""
    if path.stat().st_size <= LENGTH:
        raise DataError("it is empty")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        if length > min(_LONGEST_HEADER, path.stat().st_size):
            raise DataError("its header is longer than the file")
        header = parse_json(file.read(length), f"the header of '{path}'")
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != METADATA]
    return header, LENGTH + length + max(ends, default=0)


def metadata_of(path: Path, header: bytes) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors.

    Raises ``CheckpointError``: it is not of ours.
    """
    return _ours(path, parse_json(header, f"the header of '{path}'"))


def _ours(path: Path, header: dict[str, Any]) -> dict[str, str]:
    metadata = header.get(METADATA, {})
    if "prosma" not in metadata:
        raise CheckpointError(
            f"'{path}' is a safetensors file but no ProSMA checkpoint; choose one that we wrote"
        )
    return metadata


def parse_header(path: Path, text: str) -> dict[str, Any]:
    """Our part of the header.

    Raises ``CheckpointError``: a newer version wrote it.
    """
    read = parse_json(text, f"the header of '{path}'")
    if read["format"] > FORMAT:
        raise CheckpointError(
            f"'{path}' was written by a newer version (format {read['format']}, this one reads "
            f"{FORMAT}); update napari-prosma"
        )
    return read


def _inside(folder: Path) -> list[Path]:
    return [folder / name for name in (ENSEMBLE, BEST, LAST, MODEL) if (folder / name).is_file()]


def _instead_of(name: str) -> str:
    """What can be given, the shipped models named, a similar name first."""
    shipped = list(shipped_models())
    close = difflib.get_close_matches(name, shipped, n=1)
    names = [*close, *(other for other in shipped if other not in close)]
    further = f", or a shipped model: {', '.join(names)}" if names else ""
    return f"a {SUFFIX} file{',' if names else ' or'} a run folder{further}"
