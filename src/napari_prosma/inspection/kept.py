"""``KeptCases``: a file per finished case, so that an inspection that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case
from napari_prosma.data.names import file_stems
from napari_prosma.inspection.citing import content_of
from napari_prosma.model.checkpoint import Checkpoint


class _OfCase(Protocol):
    """What is kept of one case, with what it hangs on."""

    @property
    def name(self) -> str: ...

    @property
    def of(self) -> dict[str, str]: ...


Kept = TypeVar("Kept", bound=_OfCase)
MEANING = "4"
"""Another whenever a number comes to mean something else under the same name."""


class KeptCases(Generic[Kept]):
    """Files of what was found of cases, in a folder; what is no longer true is not read."""

    def __init__(
        self, kind: type[Kept], folder: Path, cases: Iterable[Case], models: Mapping[str, Checkpoint]
    ) -> None:
        self._adapter = TypeAdapter(kind)
        self._folder, self._stems = folder, file_stems(case.name for case in cases)
        self._hashes = {name: content_of(checkpoint) for name, checkpoint in models.items()}

    def of(self, case: Case) -> dict[str, str]:
        """What numbers of a case hang on: the models' weights, size and time of its files, what is meant."""
        there = [(path, path.stat()) for path in case.files if path.is_file()]
        files = {p.name: f"{stat.st_size} {stat.st_mtime_ns}" for p, stat in there}
        return {"": MEANING, **self._hashes, **files}

    def read(self, case: Case, of: Mapping[str, str]) -> Kept | None:
        """What was kept before; None where it is missing, damaged or no longer true."""
        try:
            kept = self._adapter.validate_json(self._file(case).read_bytes())
        except (OSError, ValidationError):
            return None
        return kept if (kept.name, kept.of) == (case.name, of) else None

    def write(self, case: Case, found: Kept) -> None:
        """Keep it (raises ``DataError``)."""
        with written_whole(self._file(case)) as temporary:
            temporary.write_bytes(self._adapter.dump_json(found, indent=1))

    def _file(self, case: Case) -> Path:
        return self._folder / f"{self._stems[case.name]}.json"
