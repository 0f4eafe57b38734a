"""Public sets: terms first, resumed where it stopped, verified before unpacked. The server is our own."""

from __future__ import annotations

import hashlib
import io
import re
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from napari_prosma.data.fetch import PUBLIC_SETS, PublicSet, fetch
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event, Finished, Notice, Progress, Started

NOISE = np.random.default_rng(0).bytes(600_000)  # cannot be compressed: several chunks on the way
FILES = {"Set/readme.txt": b"hello", "Set/images/one.bin": NOISE}


@dataclass
class Server:
    """Serves one file on 127.0.0.1; ``asked`` keeps the Range of every request (None: the whole file)."""

    content: bytes = b""
    ranges: bool = True
    status: int | None = None
    shift: int = 0  # answers a Range from this many bytes further on
    announced: int | None = None
    cuts: list[int] = field(default_factory=list)  # the next answers end after so many bytes, then silence
    dies: bool = False  # answers 503 after a cut
    asked: list[str | None] = field(default_factory=list)

    @cached_property
    def http(self) -> ThreadingHTTPServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        return ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.ranges else 0
        if self.status is not None:
            request.send_error(self.status)
            return
        if start and start >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.end_headers()
            return
        start += self.shift if start else 0
        body = self.content[start:]
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        request.send_header("Content-Length", str(self.announced or len(body)))
        request.end_headers()
        if self.cuts:
            body = body[: self.cuts.pop(0)]
            self.status = 503 if self.dies else None
        request.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server(zipped(FILES))
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in members:
            archive.addfile(info)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def table_of(server: Server, name: str = "set.zip", **changes: object) -> dict[str, PublicSet]:
    wanted = PublicSet(
        title="A set",
        licence="for tests only",
        citation="Nobody (2026)",
        page="https://example.org/set",
        url=server.url(name),
        folder="Set",
        checksum=f"sha256:{hashlib.sha256(server.content).hexdigest()}",
    )
    return {"one": replace(wanted, **changes)}


def said(events: list[Event]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Notice))


def stop_midway(events: Iterator[Event]) -> None:
    """Pull until bytes have come and close, as Ctrl-C does."""
    next(event for event in events if isinstance(event, Progress) and event.done)
    events.close()  # type: ignore[attr-defined]


def everything_under(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_terms_are_shown_before_anything_is_downloaded(server: Server, tmp_path: Path) -> None:
    first = next(fetch("one", tmp_path, table_of(server)))
    assert isinstance(first, Notice)
    assert all(part in first.message for part in ("for tests only", "Nobody (2026)", "https://example.org"))
    assert server.asked == []


@pytest.mark.parametrize("name", ["set.zip", "set.tar"])
def test_a_set_is_downloaded_and_unpacked_whole(name: str, server: Server, tmp_path: Path) -> None:
    server.content = zipped(FILES) if name == "set.zip" else tarred()
    out = tmp_path / "new" / "folder"
    events = list(fetch("one", out, table_of(server, name)))
    assert events[-1] == Finished(out / "Set")
    assert everything_under(out) == FILES
    assert "sha256 as expected" in said(events)


@pytest.mark.parametrize("name", ["set.zip", "set.tar"])
def test_progress_rises_to_the_announced_total(name: str, server: Server, tmp_path: Path) -> None:
    server.content = zipped(FILES) if name == "set.zip" else tarred()
    events = list(fetch("one", tmp_path, table_of(server, name)))
    begun = [index for index, event in enumerate(events) if isinstance(event, Started)]
    totals = [events[index].total for index in begun]
    assert totals == [len(server.content) // 1024, len(FILES)]
    for total, stage in zip(totals, (events[: begun[1]], events[begun[1] :]), strict=True):
        done = [event.done for event in stage if isinstance(event, Progress)]
        assert done == sorted(done)
        assert done[-1] == total
    assert len([event for event in events[: begun[1]] if isinstance(event, Progress)]) > 5


def test_what_came_before_a_stop_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    table = table_of(server)
    stop_midway(fetch("one", tmp_path, table))
    came = (tmp_path / "set.zip.part").read_bytes()
    assert 0 < len(came) < len(server.content)
    assert server.content.startswith(came)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.zip.part"]
    events = list(fetch("one", tmp_path, table))
    assert server.asked == [None, f"bytes={len(came)}-"]
    assert next(event for event in events if isinstance(event, Progress)).done == len(came) // 1024
    assert everything_under(tmp_path) == FILES


def test_a_server_that_knows_no_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    table = table_of(server)
    stop_midway(fetch("one", tmp_path, table))
    events = list(fetch("one", tmp_path, table))
    assert "starting again" in said(events)
    assert everything_under(tmp_path) == FILES


def test_a_broken_connection_is_taken_up_within_the_call(server: Server, tmp_path: Path) -> None:
    server.cuts = [200_000, 200_000]
    events = list(fetch("one", tmp_path, table_of(server)))
    assert said(events).count("the connection broke") == 2
    starts = [int(re.findall(r"\d+", asked)[0]) for asked in server.asked if asked]
    assert server.asked[0] is None
    assert starts == sorted(starts)
    assert 0 < starts[0] <= 200_000 < starts[1]
    assert everything_under(tmp_path) == FILES


def test_a_connection_that_always_breaks_ends_in_an_error(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 200_000] * 20
    server.ranges = False
    with pytest.raises(DataError, match=r"unfinished after \d tries.* kept in"):
        list(fetch("one", tmp_path, table_of(server)))
    assert len(server.asked) < 10


def test_a_server_that_dies_leaves_what_came(server: Server, tmp_path: Path) -> None:
    server.cuts, server.dies = [200_000], True
    table = table_of(server)
    with pytest.raises(DataError, match=r"503 .* MiB are kept in .* same command again"):
        list(fetch("one", tmp_path, table))
    server.status, server.dies = None, False
    list(fetch("one", tmp_path, table))
    assert server.asked[-1] is not None
    assert everything_under(tmp_path) == FILES


def test_a_part_that_is_already_complete_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(server.content)
    events = list(fetch("one", tmp_path, table_of(server)))
    assert server.asked == [f"bytes={len(server.content)}-"]
    assert "KiB" not in " ".join(event.message for event in events if isinstance(event, Started))
    assert everything_under(tmp_path) == FILES


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(server.content + b"more")
    list(fetch("one", tmp_path, table_of(server)))
    assert everything_under(tmp_path) == FILES


def test_an_answer_from_another_place_is_not_appended(server: Server, tmp_path: Path) -> None:
    server.shift = 10
    (tmp_path / "set.zip.part").write_bytes(server.content[:1000])
    with pytest.raises(DataError, match="206"):
        list(fetch("one", tmp_path, table_of(server)))
    assert (tmp_path / "set.zip.part").read_bytes() == server.content[:1000]


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_wrong_checksum_leaves_nothing(algorithm: str, server: Server, tmp_path: Path) -> None:
    expected = "0" * 32
    found = hashlib.new(algorithm, server.content).hexdigest()
    with pytest.raises(DataError, match=f"{algorithm} {found} where {expected} is expected"):
        list(fetch("one", tmp_path, table_of(server, checksum=f"{algorithm}:{expected}")))
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_another_file_is_seen_by_the_checksum(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="where"):
        list(fetch("one", tmp_path, table_of(server)))
    assert list(tmp_path.iterdir()) == []
    list(fetch("one", tmp_path, table_of(server)))
    assert everything_under(tmp_path) == FILES


def busi(cases: int) -> bytes:
    mask = np.zeros((20, 24), dtype=np.uint8)
    mask[5:12, 8:15] = 255
    files = {}
    for number in range(1, cases + 1):
        for name, array in (("", mask // 3), ("_mask", mask)):
            buffer = io.BytesIO()
            PIL.Image.fromarray(array).save(buffer, "png")
            files[f"Set/benign/benign ({number}){name}.png"] = buffer.getvalue()
    return zipped(files)


def test_without_a_checksum_the_content_is_checked_and_the_sum_shown(server: Server, tmp_path: Path) -> None:
    server.content = busi(3)
    events = list(fetch("one", tmp_path, table_of(server, checksum=None, layout="BUSI", cases=3)))
    assert f"no published checksum is known; what came has sha256:{sha256(server)}" in said(events)
    assert "BUSI: 3 cases" in said(events)
    assert len(everything_under(tmp_path)) == 6


def sha256(server: Server) -> str:
    return hashlib.sha256(server.content).hexdigest()


@pytest.mark.parametrize(
    ("content", "found"),
    [(busi(2), "BUSI: 2 cases"), (zipped(FILES), "no image"), (zipped({"Other/x": b""}), "found: Other")],
)
def test_another_content_without_a_checksum_leaves_nothing(
    content: bytes, found: str, server: Server, tmp_path: Path
) -> None:
    server.content = content
    with pytest.raises(DataError, match=found):
        list(fetch("one", tmp_path, table_of(server, checksum=None, layout="BUSI", cases=3)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["set.zip", "set.tar"])
@pytest.mark.parametrize("content", [b"<html>please log in</html>", b"", None], ids=["html", "empty", "cut"])
def test_a_damaged_archive_leaves_nothing(
    name: str, content: bytes | None, server: Server, tmp_path: Path
) -> None:
    whole = zipped(FILES) if name == "set.zip" else tarred()
    server.content = whole[: len(whole) // 2] if content is None else content
    with pytest.raises(DataError, match="cannot be unpacked"):
        list(fetch("one", tmp_path, table_of(server, name)))
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_in_a_zip_is_seen_without_a_checksum(server: Server, tmp_path: Path) -> None:
    middle = len(server.content) // 2
    server.content = server.content[:middle] + b"\0\1\2\3" + server.content[middle + 4 :]
    with pytest.raises(DataError, match="CRC"):
        list(fetch("one", tmp_path, table_of(server, checksum=None)))
    assert list(tmp_path.iterdir()) == []


UNSAFE = {
    "zip up": ("set.zip", zipped({**FILES, "Set/../../evil": b"x"})),
    "zip absolute": ("set.zip", zipped({**FILES, "/evil": b"x"})),
    "zip drive": ("set.zip", zipped({**FILES, "C:\\evil": b"x"})),
    "zip link": ("set.zip", zipped({**FILES, zip_link("Set/evil"): b"/etc"})),  # type: ignore[dict-item]
    "tar up": ("set.tar", tarred(member("Set/../../evil"))),
    "tar absolute": ("set.tar", tarred(member("/evil"))),
    "tar link": ("set.tar", tarred(member("Set/evil", tarfile.SYMTYPE, "readme.txt"))),
    "tar hard link": ("set.tar", tarred(member("Set/evil", tarfile.LNKTYPE, "Set/readme.txt"))),
    "tar pipe": ("set.tar", tarred(member("Set/evil", tarfile.FIFOTYPE))),
}


@pytest.mark.parametrize(("name", "content"), UNSAFE.values(), ids=UNSAFE)
def test_nothing_unsafe_is_unpacked(name: str, content: bytes, server: Server, tmp_path: Path) -> None:
    server.content = content
    with pytest.raises(DataError, match=r"evil'\)?; it was removed, nothing unpacked"):
        list(fetch("one", tmp_path / "a" / "b", table_of(server, name)))
    assert everything_under(tmp_path) == {}


def test_a_stop_while_unpacking_leaves_no_half_set(server: Server, tmp_path: Path) -> None:
    table = table_of(server)
    events = fetch("one", tmp_path, table)
    for event in events:
        if isinstance(event, Started) and "Unpacking" in event.message:
            break
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert everything_under(tmp_path) == {"set.zip.part": server.content}
    list(fetch("one", tmp_path, table))
    assert everything_under(tmp_path) == FILES


def test_what_is_already_there_is_left_as_it_is(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Set").mkdir()
    events = list(fetch("one", tmp_path, table_of(server)))
    assert "already there" in said(events)
    assert events[-1] == Finished(tmp_path / "Set")
    assert server.asked == []
    assert everything_under(tmp_path) == {}


def test_an_unknown_name_is_answered_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'brats'; choose busi, kvasir-seg, spleen or colon"):
        next(fetch("brats", tmp_path))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusing_server_is_told_with_the_way_by_hand(status: int, server: Server, tmp_path: Path) -> None:
    server.status = status
    with pytest.raises(DataError, match=rf"{status} .*nothing was written.*by hand from https://example.org"):
        list(fetch("one", tmp_path, table_of(server)))
    assert list(tmp_path.iterdir()) == []


def test_no_server_at_all_is_told_with_the_way_by_hand(server: Server, tmp_path: Path) -> None:
    nobody = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    nobody.server_close()  # its port is free again
    table = table_of(server, url=f"http://127.0.0.1:{nobody.server_port}/set.zip")
    events = fetch("one", tmp_path, table)
    assert isinstance(next(events), Notice)
    with pytest.raises(DataError, match=r"cannot get .*Check the network.*by hand from https://example.org"):
        next(events)  # at once: nobody waits for more tries
    assert list(tmp_path.iterdir()) == []


def test_a_file_larger_than_the_disk_is_not_begun(server: Server, tmp_path: Path) -> None:
    server.announced = 10**18
    with pytest.raises(DataError, match="are needed"):
        list(fetch("one", tmp_path, table_of(server)))


def test_a_folder_that_cannot_be_made_is_a_clear_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot write to"):
        list(fetch("one", tmp_path / "file" / "out", table_of(server)))


def test_the_decathlon_entries_are_those_of_monai() -> None:
    """Read as text: importing MONAI takes seconds."""
    spec = find_spec("monai")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("apps").joinpath("datasets.py").read_text(encoding="utf-8")
    for name in ("spleen", "colon"):
        wanted = PUBLIC_SETS[name]
        assert f'"{wanted.folder}": "{wanted.url}"' in source
        assert f'"{wanted.folder}": "{wanted.checksum.removeprefix("md5:")}"' in source  # type: ignore[union-attr]


@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_every_public_set_can_be_verified(name: str) -> None:
    wanted = PUBLIC_SETS[name]
    assert wanted.checksum or (wanted.layout and wanted.cases)
    assert wanted.archive.endswith((".zip", ".tar"))
    assert wanted.url.startswith("https://")
