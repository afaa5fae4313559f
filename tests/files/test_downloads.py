"""Downloads from a server that breaks off, changes its file, or knows no ranges."""

from __future__ import annotations

import errno
import hashlib
import http.server
import logging
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compositional_prompts.files import downloads
from compositional_prompts.files.downloads import (
    ATTEMPTS,
    DOWNLOADS,
    DownloadError,
    Remote,
    fetch,
)
from compositional_prompts.files.scratch import SCRATCH

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(251)) * 40_000  # 10 MB, more than sockets buffer


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; breaks off after each of ``cuts`` bytes, a number a request."""

    daemon_threads = True
    content = CONTENT
    tag: str | None = '"one"'
    date: str | None = None
    ranges = True
    length = True
    chunked = False
    status = 200
    redirect: str | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.asked: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data/photos%20of%20all.zip?version=2"

    def handle_error(self, *_: Any) -> None:
        pass  # clients that were cut off


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        server, asked = self.server, dict(self.headers.items())
        server.asked.append(asked)
        self.close_connection = True
        start = 0
        valid = asked.get("If-Range") in (server.tag, server.date)
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
        elif server.status != 200:
            self.send_response(server.status)
            self.send_header("Content-Length", "0")
        elif server.ranges and valid and "Range" in asked:
            start = int(asked["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.end_headers()
                return
            self.send_response(206)
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(server.content)}")
        else:
            self.send_response(200)
        if server.tag:
            self.send_header("ETag", server.tag)
        if server.date:
            self.send_header("Last-Modified", server.date)
        body = server.content[start:] if server.status == 200 and not server.redirect else b""
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        sent = body[:cut]
        if server.chunked:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent) if sent else b"")
            self.wfile.write(b"0\r\n\r\n" if cut is None else b"")
        else:
            self.wfile.write(sent)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Clock:
    """Takes the place of sleeping, and remembers for how long."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)


def remote(server: Server, size: int | None = None, sha256: str | None = None) -> Remote:
    return Remote(server.url, size, sha256, "download.test.images")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def ranges(server: Server) -> list[str | None]:
    return [asked.get("Range") for asked in server.asked]


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in folder.iterdir())


def test_a_file_is_fetched_once_and_its_checksum_told(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="compositional_prompts"):
        path = fetch(remote(server), tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert f"size {len(CONTENT)} and sha256 {digest(CONTENT)}; pin both" in caplog.text
    assert fetch(remote(server, len(CONTENT), digest(CONTENT)), tmp_path / "cache") == path
    assert len(server.asked) == 1
    assert names(tmp_path / "cache") == ["photos of all.zip"]


@pytest.mark.parametrize("date", [None, "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_broken_transfer_goes_on_where_it_stopped(
    server: Server, tmp_path: Path, date: str | None
) -> None:
    if date:
        server.tag, server.date = None, date
    server.cuts = [3_000_000, 1, 2_000_000]
    clock = Clock()
    assert fetch(remote(server), tmp_path, clock).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=3000000-", "bytes=3000001-", "bytes=5000001-"]
    assert server.asked[1]["If-Range"] == (date or '"one"')
    assert clock.waits == [2.0] * 3  # each got further


def test_a_killed_run_goes_on_in_the_next(server: Server, tmp_path: Path) -> None:
    def killed(_: float) -> None:
        raise KeyboardInterrupt

    server.cuts = [4_000_000]
    with pytest.raises(KeyboardInterrupt):
        fetch(remote(server), tmp_path, killed)
    assert names(tmp_path) == ["photos of all.zip.part", "photos of all.zip.part.json"]
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=4000000-"]
    assert names(tmp_path) == ["photos of all.zip"]


def test_a_whole_part_is_only_put_in_place(server: Server, tmp_path: Path) -> None:
    path = fetch(remote(server), tmp_path)
    part = path.rename(f"{path}.part")
    Path(f"{part}.json").write_text(f'{{"validator": "x", "total": {len(CONTENT)}}}')
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_file_that_changed_meanwhile_starts_afresh(server: Server, tmp_path: Path) -> None:
    server.cuts = [4_000_000]

    def changes(_: float) -> None:
        server.content, server.tag = CONTENT[::-1], '"two"'

    assert fetch(remote(server), tmp_path, changes).read_bytes() == CONTENT[::-1]
    assert ranges(server) == [None, "bytes=4000000-"]


@pytest.mark.parametrize(
    "settings",
    [{"ranges": False}, {"tag": None}, {"tag": 'W/"weak"'}],
    ids=["no ranges", "no validator", "weak validator"],
)
def test_without_a_safe_way_to_go_on_it_starts_afresh(
    server: Server, tmp_path: Path, settings: dict[str, Any]
) -> None:
    for name, value in settings.items():
        setattr(server, name, value)
    server.cuts = [4_000_000, 3_000_000]
    assert fetch(remote(server), tmp_path, Clock()).read_bytes() == CONTENT
    assert len(server.asked) == 3
    if not server.ranges:
        assert ranges(server) == [None, "bytes=4000000-", "bytes=3000000-"]
    else:
        assert ranges(server) == [None] * 3


def test_a_part_longer_than_the_file_starts_afresh(server: Server, tmp_path: Path) -> None:
    path = fetch(remote(server), tmp_path)
    part = path.rename(f"{path}.part")
    part.write_bytes(CONTENT + b"more")
    Path(f"{part}.json").write_text('{"validator": "\\"one\\"", "total": null}')
    assert fetch(remote(server), tmp_path, Clock()).read_bytes() == CONTENT
    assert ranges(server)[1:] == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_damaged_state_starts_afresh(server: Server, tmp_path: Path) -> None:
    path = fetch(remote(server), tmp_path)
    part = path.rename(f"{path}.part")
    part.write_bytes(b"something else")
    Path(f"{part}.json").write_text('{"validator"')
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_chunks_that_break_off_are_noticed(server: Server, tmp_path: Path) -> None:
    server.chunked = True
    server.cuts = [4_000_000]
    assert fetch(remote(server), tmp_path, Clock()).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=4000000-"]


def test_an_answer_of_unknown_length_is_taken_until_it_ends(server: Server, tmp_path: Path) -> None:
    server.length = False
    assert fetch(remote(server, len(CONTENT)), tmp_path).read_bytes() == CONTENT


def test_it_gives_up_when_nothing_more_comes(server: Server, tmp_path: Path) -> None:
    server.cuts = [5_000_000] + [0] * ATTEMPTS
    clock = Clock()
    with pytest.raises(
        DownloadError, match=r"download\.test\.images.* broke off 5 times at 5000000"
    ):
        fetch(remote(server), tmp_path, clock)
    assert clock.waits == [2.0, 4.0, 8.0, 16.0, 32.0]
    assert names(tmp_path) == ["photos of all.zip.part", "photos of all.zip.part.json"]
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "requests"), [(503, ATTEMPTS), (429, ATTEMPTS), (404, 1)])
def test_refusals_are_told_and_passing_ones_tried_again(
    server: Server, tmp_path: Path, status: int, requests: int
) -> None:
    server.status = status
    with pytest.raises(DownloadError, match=f"HTTP {status}"):
        fetch(remote(server), tmp_path, Clock())
    assert len(server.asked) == requests


def test_nobody_listens(tmp_path: Path) -> None:
    gone = Remote("http://127.0.0.1:9/x.zip", None, None, "download.test.images")
    with pytest.raises(DownloadError, match=r"broke off 5 times at 0 bytes: URLError"):
        fetch(gone, tmp_path, Clock())


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x.zip", "file:///etc/hostname"])
def test_a_redirection_off_the_web_is_refused(server: Server, tmp_path: Path, target: str) -> None:
    server.redirect = target
    with pytest.raises(DownloadError, match="HTTP 302"):
        fetch(remote(server), tmp_path, Clock())


def test_another_size_is_told_before_anything_is_fetched(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=rf"has {len(CONTENT)} bytes, expected 77 \(size\)"):
        fetch(remote(server, 77), tmp_path)


def test_another_checksum_is_told_with_both(server: Server, tmp_path: Path) -> None:
    pinned = digest(b"another")
    for _ in range(2):
        with pytest.raises(DownloadError, match=f"sha256 {digest(CONTENT)}, expected {pinned}"):
            fetch(remote(server, sha256=pinned), tmp_path)
    assert len(server.asked) == 1  # told again, not fetched again


@pytest.mark.parametrize("prefix", ["file://", ""])
def test_local_files_stay_in_their_place(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "some photos.zip"
    path.write_bytes(b"photos")
    url = path.as_uri() if prefix else str(path)
    local = Remote(url, 6, digest(b"photos"), "download.test.images")
    assert fetch(local, tmp_path / "cache") == path
    assert not (tmp_path / "cache").exists()
    with pytest.raises(DownloadError, match="has 6 bytes, expected 7"):
        fetch(local._replace(size=7), tmp_path)
    path.unlink()
    with pytest.raises(DownloadError, match=r"download\.test\.images\.url: there is no file"):
        fetch(local, tmp_path)


def test_another_kind_of_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="neither http, https nor file"):
        fetch(Remote("ftp://host/x.zip", None, None, "download.test.images"), tmp_path)


def test_no_room_is_told_before_anything_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=f"has 1000 bytes free and needs {len(CONTENT)} bytes"):
        fetch(remote(server), tmp_path)


def test_a_disk_that_fills_up_is_told_and_the_part_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A file on a disk with room for two blocks."""

        def __init__(self, file: Any) -> None:
            self.file, self.room = file, 2

        def write(self, block: bytes) -> int:
            self.room -= 1
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.file.write(block))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    copy = downloads._copy
    monkeypatch.setattr(
        downloads, "_copy", lambda response, file, *rest: copy(response, Full(file), *rest)
    )
    with pytest.raises(DownloadError, match=r"no room for .* needs more"):
        fetch(remote(server), tmp_path, Clock())
    monkeypatch.undo()
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert ranges(server) == [None, f"bytes={2 * 2**20}-"]


def test_two_processes_do_not_fetch_the_same(server: Server, tmp_path: Path) -> None:
    def second(_: float) -> None:
        with pytest.raises(DownloadError, match="another process is fetching"):
            fetch(remote(server), tmp_path)

    server.cuts = [4_000_000]
    assert fetch(remote(server), tmp_path, second).read_bytes() == CONTENT


def test_what_was_fetched_survives_a_cleaning_and_is_in_no_repository(tmp_path: Path) -> None:
    for name in ("Makefile", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    kept, lost = tmp_path / DOWNLOADS / "photos.zip", tmp_path / SCRATCH / "infer" / "part"
    pixels = tmp_path / "models" / ".pixels-0"
    for path in (kept, lost, pixels):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert listed.stdout.split() == [".dvcignore", ".gitignore", "Makefile"]
    assert f"/{DOWNLOADS}/" in (ROOT / ".dvcignore").read_text().split()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert kept.is_file()
    assert not lost.exists()
