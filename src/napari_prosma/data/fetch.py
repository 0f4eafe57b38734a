"""Public data sets by name: terms shown, archive fetched with resume, verified, unpacked whole or not at all.

``fetch(name, folder)`` is an iterator of events; what came of an archive is kept as ``ARCHIVE.part`` when it
stops, and the next call goes on from there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started

if TYPE_CHECKING:
    from requests import Response

__all__ = ["PUBLIC_SETS", "PublicSet", "fetch"]

_KIB = 1024
_CHUNK = 64 * _KIB
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two packets
_TRIES = 6  # requests per call, as long as each brings something
_WHOLE, _PART, _BEYOND_END = 200, 206, 416
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError)


@dataclass(frozen=True)
class PublicSet:
    """Where a public data set lies, and on what terms."""

    # title, licence, citation, page: shown before anything is downloaded; ``page`` is where a person can get
    # the set by hand.
    title: str
    licence: str
    citation: str
    page: str
    url: str  # of a zip or plain tar archive with one folder at its top
    folder: str  # name of that folder
    checksum: str | None = None  # published checksum of the archive, such as ``md5:410d...``
    # layout, cases: what the unpacked folder must be recognised as; needed where no checksum is published.
    layout: str | None = None
    cases: int | None = None

    @property
    def archive(self) -> str:
        """File name of the archive."""
        return Path(urlsplit(self.url).path).name


def _decathlon(task: str, organ: str, md5: str) -> PublicSet:
    return PublicSet(
        title=f"Medical Segmentation Decathlon, {organ} CT",
        licence="CC BY-SA 4.0",
        citation='M. Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 13:4128 '
        "(2022)",
        page="http://medicaldecathlon.com",
        # Address and md5 are those of monai.apps.datasets.DecathlonDataset (MONAI 1.6.1).
        url=f"https://msd-for-monai.s3-us-west-2.amazonaws.com/{task}.tar",
        folder=task,
        checksum=f"md5:{md5}",
    )


PUBLIC_SETS: Mapping[str, PublicSet] = MappingProxyType(
    {
        "busi": PublicSet(
            title="BUSI, breast ultrasound images",
            licence="CC0 1.0, as quoted on Kaggle",
            citation='W. Al-Dhabyani, M. Gomaa, H. Khaled, A. Fahmy, "Dataset of breast ultrasound images", '
            "Data in Brief 28:104863 (2020)",
            page="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
            url="https://scholar.cu.edu.eg/Dataset_BUSI.zip",
            folder="Dataset_BUSI_with_GT",
            layout="BUSI",
            cases=780,
        ),
        "kvasir-seg": PublicSet(
            title="Kvasir-SEG, polyps in colonoscopy",
            licence="research and education only; commercial use needs written permission",
            citation='D. Jha et al., "Kvasir-SEG: a segmented polyp dataset", MultiMedia Modeling (2020)',
            page="https://datasets.simula.no/kvasir-seg",
            url="https://datasets.simula.no/downloads/kvasir-seg.zip",
            folder="Kvasir-SEG",
            # The value that torch_em and other loaders pin.
            checksum="sha256:03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7",
        ),
        "spleen": _decathlon("Task09_Spleen", "spleen", "410d4a301da4e5b2f6f86ec3ddba524e"),
        "colon": _decathlon("Task10_Colon", "colon cancer", "bad7a188931dc2f6acf72b08eb6202d0"),
    }
)


def fetch(name: str, out: str | Path, table: Mapping[str, PublicSet] = PUBLIC_SETS) -> Iterator[Event]:
    """Fetch a public data set into ``out/FOLDER``; nothing is done where that is already there.

    Parameters
    ----------
    name : str
        ``busi``, ``kvasir-seg``, ``spleen`` or ``colon``.
    out : path
        Folder to unpack into; made if missing.
    table : name -> PublicSet
        Sets that can be fetched.

    Yields
    ------
    Event
        Licence and citation as ``Notice`` before anything is downloaded; ``Progress`` in KiB, then in files;
        ``Finished`` with the folder of the data set.

    Raises
    ------
    ConfigError
        When no set has that name.
    DataError
        When the archive cannot be downloaded or written (what came is kept for the next call), or is not the
        one that was published, damaged or unsafe to unpack (it is removed).
    """
    if name not in table:
        raise ConfigError(f"unknown data set '{name}'; choose {_either(table)}")
    wanted, out = table[name], Path(out)
    target = out / wanted.folder
    if target.exists():
        yield Notice(f"'{target}' is already there; delete it to fetch it again")
        yield Finished(target)
        return
    yield Notice(f"{wanted.title} ({wanted.page})\nlicence: {wanted.licence}\nplease cite: {wanted.citation}")
    part = out / f"{wanted.archive}.part"
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield from _download(wanted, part)
        try:
            yield from _verify(wanted, part)
            yield from _unpack(wanted, part, target)
        except DataError:
            part.unlink()
            raise
        part.unlink()
    except OSError as error:
        raise DataError(
            f"cannot write to '{out}' ({error}); choose a folder that exists and has room. What came of "
            f"'{wanted.archive}' is kept"
        ) from error
    yield Finished(target)


def _download(wanted: PublicSet, part: Path) -> Iterator[Event]:
    """Bring ``part`` to its full length, from where an earlier call stopped.

    That the file on the server stayed the same meanwhile is told by the checksum; without one, by the checks
    that a zip holds for each of its files.
    """
    import requests

    for _ in range(_TRIES):
        before = _size(part)
        try:
            with _answer(wanted, before) as response:
                if response.status_code == _BEYOND_END:
                    if _total_beyond_end(response) == before:
                        return
                    part.unlink(missing_ok=True)
                    continue
                goes_on = _goes_on(response, before)
                if goes_on is None:
                    raise DataError(_unreachable(wanted, part, f"{response.status_code} {response.reason}"))
                if before and not goes_on:
                    yield Notice("the server cannot resume the download; starting again")
                with open(part, "ab" if goes_on else "wb") as file:
                    yield from _write(response, file, wanted.archive)
                return
        except requests.RequestException as error:
            after = _size(part)
            if after in (0, before):
                raise DataError(_unreachable(wanted, part, type(error).__name__)) from error
            yield Notice(f"the connection broke after {_in_mib(after)}; trying again")
    raise DataError(_unreachable(wanted, part, f"unfinished after {_TRIES} tries"))


def _answer(wanted: PublicSet, start: int) -> Response:
    import requests

    # Compressed on the way, the bytes would not be those that Range and Content-Length count.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    return requests.get(wanted.url, headers=headers, stream=True, timeout=_TIMEOUT)


def _write(response: Response, file: BinaryIO, archive: str) -> Iterator[Event]:
    import requests

    done = file.tell()
    left = int(response.headers.get("Content-Length", 0))  # 0: the server does not tell
    total = done + left
    _require_room(Path(file.name).parent, left)
    yield Started(total // _KIB, f"{archive}, KiB")
    yield Progress(done // _KIB, total // _KIB)
    for chunk in response.iter_content(_CHUNK):
        file.write(chunk)
        done += len(chunk)
        yield Progress(done // _KIB, max(done, total) // _KIB)
    if done < total:  # urllib3 1 takes a broken connection for the end
        raise requests.ConnectionError(f"{done} of {total} bytes")


def _goes_on(response: Response, start: int) -> bool | None:
    """Whether the answer continues a file of ``start`` bytes or is the whole file; None if neither."""
    if response.status_code == _WHOLE:
        return False
    continued = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    return True if response.status_code == _PART and start and continued else None


def _total_beyond_end(response: Response) -> int | None:
    total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
    return int(total[1]) if total else None


def _unreachable(wanted: PublicSet, part: Path, cause: str) -> str:
    kept = f"{_in_mib(_size(part))} are kept in '{part}'" if _size(part) else "nothing was written"
    return (
        f"cannot get {wanted.url} ({cause}); {kept}. Check the network or its proxy and give the same "
        f"command again, or {_by_hand(wanted, part.parent)}"
    )


def _by_hand(wanted: PublicSet, out: Path) -> str:
    return f"download it by hand from {wanted.page} and unpack it as '{out / wanted.folder}'"


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _verify(wanted: PublicSet, part: Path) -> Iterator[Event]:
    """Compare the whole file with the published checksum; without one, show what came."""
    if wanted.checksum is None:
        yield Notice(f"no published checksum is known; what came has sha256:{_digest(part, 'sha256')}")
        return
    algorithm, _, expected = wanted.checksum.partition(":")
    found = _digest(part, algorithm)
    if found != expected:
        raise DataError(
            f"'{wanted.archive}' has {algorithm} {found} where {expected} is expected; it was removed and "
            f"nothing unpacked. Give the same command again; if the same comes again, "
            f"{_by_hand(wanted, part.parent)}"
        )
    yield Notice(f"{wanted.archive}: {algorithm} as expected")


def _unpack(wanted: PublicSet, part: Path, target: Path) -> Iterator[Event]:
    """Unpack beside the target, check, and rename, so that ``target`` is whole or not there."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as temporary:
        try:
            yield from _extract(part, Path(temporary), wanted.archive)
        except _DAMAGED as error:
            raise DataError(
                f"'{wanted.archive}' cannot be unpacked ({error}); it was removed. Give the same command "
                f"again, or {_by_hand(wanted, target.parent)}"
            ) from error
        folder = Path(temporary, wanted.folder)
        if not folder.is_dir():
            there = ", ".join(sorted(path.name for path in folder.parent.iterdir())[:4]) or "nothing"
            raise DataError(
                f"'{wanted.archive}' holds no folder '{wanted.folder}' (found: {there}); it was removed. The "
                f"set may have changed; {_by_hand(wanted, target.parent)}"
            )
        if wanted.cases is not None:
            yield Notice(_recognised(folder, wanted))
        os.replace(folder, target)


def _extract(part: Path, into: Path, archive: str) -> Iterator[Event]:
    if archive.endswith(".zip"):
        with zipfile.ZipFile(part) as opened:
            infos = opened.infolist()
            for info in infos:
                _require_plain(info.filename, stat.S_ISLNK(info.external_attr >> 16), archive)
            _require_room(into, sum(info.file_size for info in infos))
            yield Started(len(infos), f"Unpacking {archive}, files")
            for done, info in enumerate(infos, 1):
                opened.extract(info, into)
                yield Progress(done, len(infos))
        return
    with tarfile.open(part, "r:") as tar:
        # Python before 3.11.4 has no filter; our own check is then the only one.
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        members = tar.getmembers()
        for member in members:
            _require_plain(member.name, not (member.isfile() or member.isdir()), archive)
        _require_room(into, sum(member.size for member in members))
        yield Started(len(members), f"Unpacking {archive}, files")
        for done, member in enumerate(members, 1):
            tar.extract(member, into)
            yield Progress(done, len(members))


def _require_plain(name: str, special: bool, archive: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if special:
        raise DataError(f"'{archive}' holds a link or a device, '{name}'; it was removed, nothing unpacked")
    if not parts[0] or ".." in parts or ":" in parts[0]:
        raise DataError(f"'{archive}' points outside its folder ('{name}'); it was removed, nothing unpacked")


def _recognised(folder: Path, wanted: PublicSet) -> str:
    """Summary of the unpacked set, which must be the one that was wanted."""
    from napari_prosma.data.layouts import find_cases

    try:
        data = find_cases(folder)
        found, right = data.summary, (data.layout, len(data.cases)) == (wanted.layout, wanted.cases)
    except DataError as error:
        found, right = str(error), False
    if not right:
        raise DataError(
            f"'{wanted.archive}' is not {wanted.layout} with {wanted.cases} cases (found: {found}); it was "
            f"removed. The set may have changed; see {wanted.page}"
        )
    return f"its content was checked instead: {found}"


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{_in_mib(needed)} are needed, {_in_mib(free)} are free")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _in_mib(size: int) -> str:
    return f"{size / _KIB**2:,.1f} MiB"


def _either(names: Mapping[str, object]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
