"""Photos by address, from a server of this test's own."""

from __future__ import annotations

import email.utils
import http.server
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from compositional_prompts.datasets.feeds import photo_downloads
from compositional_prompts.datasets.feeds.photo_downloads import (
    FAILURES,
    GIVEN_UP_AFTER,
    Fetch,
    PhotoDownloads,
    is_public,
)

PHOTO = b"the bytes of a photo"


class Answer(NamedTuple):
    """What the server says once to one path."""

    status: int = 200
    body: bytes = PHOTO
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it
    announced: int | None = None


class Server(http.server.ThreadingHTTPServer):
    """Answers by path: each of the listed answers once, the last one ever after."""

    answers: dict[str, list[Answer]]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {}
        self.asked: Counter[str] = Counter()
        self.seen: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.asked[self.path] += 1
            server.seen.append(dict(self.headers))
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            answers = server.answers.get(self.path, [Answer(404, b"")])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(answer.status)
        length = len(answer.body) if answer.announced is None else answer.announced
        if length >= 0:
            self.send_header("Content-Length", str(length))
        for name, value in ({"Content-Type": "image/jpeg"} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        with server.lock:
            server.at_once -= 1
        self.wfile.write(answer.body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def params(**changed: Any) -> Fetch:
    usual: dict[str, Any] = {
        "parallel": 8,
        "per_host": 2,
        "timeout_s": 20,
        "retries": 2,
        "max_mib": 0.01,
        "max_age_days": None,
        "allow_private": True,
    }
    return Fetch.model_validate(usual | changed)


class Waits(list[float]):
    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def fetch(folder: Path, *urls: str, waits: Waits | None = None, **changed: Any) -> list[Any]:
    """By address, the bytes of the photo or the reason that there are none."""
    downloads = PhotoDownloads(folder, params(**changed), Waits() if waits is None else waits)
    found = list(downloads.fetch(urls, lambda url: url))
    assert [url for url, _ in found] == list(urls)
    return [one.reason if one.path is None else one.path.read_bytes() for _, one in found]


def test_photos_come_in_their_order_and_are_not_asked_for_again(
    server: Server, tmp_path: Path
) -> None:
    paths = [f"/{n}.jpg?v={n}" for n in range(40)]
    server.answers = {path: [Answer(body=path.encode())] for path in paths}
    urls = [server.url(path) for path in (*paths, paths[3])]
    expected = [path.encode() for path in (*paths, paths[3])]
    assert fetch(tmp_path / "photos", *urls) == expected
    assert fetch(tmp_path / "photos", *urls) == expected
    assert server.asked == Counter(paths)
    assert 1 <= server.most_at_once <= 2
    assert {seen["User-Agent"] for seen in server.seen} == {"compositional-prompts"}
    assert sum(1 for path in (tmp_path / "photos").rglob("*") if path.is_file()) == 40


def test_an_old_photo_is_fetched_again_where_asked(server: Server, tmp_path: Path) -> None:
    server.answers["/a.jpg"] = [Answer(body=b"old"), Answer(body=b"new")]
    url = server.url("/a.jpg")
    assert fetch(tmp_path, url) == [b"old"]
    kept = PhotoDownloads(tmp_path, params()).kept_at(url)
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(kept, (two_days_ago, two_days_ago))
    assert fetch(tmp_path, url, max_age_days=3) == [b"old"]
    assert fetch(tmp_path, url, max_age_days=1) == [b"new"]


def test_what_may_pass_is_tried_again_and_the_host_is_left_alone_meanwhile(
    server: Server, tmp_path: Path
) -> None:
    server.answers["/busy.jpg"] = [Answer(429, b"", {"Retry-After": "7"}), Answer()]
    server.answers["/ill.jpg"] = [Answer(500, b""), Answer(503, b""), Answer()]
    server.answers["/short.jpg"] = [Answer(announced=1000), Answer()]
    waits = Waits()
    urls = [server.url(f"/{name}.jpg") for name in ("ill", "short", "busy")]
    assert fetch(tmp_path, *urls, waits=waits, per_host=1) == [PHOTO] * 3
    assert waits[:3] == [1.0, 2.0, 1.0]
    assert [round(wait) for wait in waits[3:]] == [7]


@pytest.mark.parametrize(
    ("answer", "reason", "asked"),
    [
        (Answer(404), "not_found", 1),
        (Answer(410), "not_found", 1),
        (Answer(403), "refused", 1),
        (Answer(204, b""), "refused", 1),
        (Answer(500), "server_error", 3),
        (Answer(429), "too_many_requests", 3),
        (Answer(503, headers={"Retry-After": "86400"}), "server_error", 1),
        (Answer(headers={"Content-Type": "text/html; charset=utf-8"}), "not_an_image", 1),
        (Answer(body=b"x" * 20_000), "too_large", 1),
        (Answer(body=b"x" * 20_000, announced=-1), "too_large", 1),
        (Answer(body=b"x", announced=20_000), "too_large", 1),
        (Answer(body=b""), "empty_file", 1),
        (Answer(announced=100), "broken_off", 3),
        (Answer(302, b"", {"Location": "/b.jpg"}), "not_found", 1),
        (Answer(302, b"", {"Location": "/a.jpg"}), "bad_address", 5),
        (Answer(302, b"", {"Location": "file:///etc/passwd"}), "bad_address", 1),
        (Answer(302, b"", {"Location": "ftp://example.org/a.jpg"}), "bad_address", 1),
    ],
)
def test_each_failure_has_its_reason_and_leaves_nothing(
    answer: Answer, reason: str, asked: int, server: Server, tmp_path: Path
) -> None:
    server.answers["/a.jpg"] = [answer]
    assert fetch(tmp_path, server.url("/a.jpg")) == [reason]
    assert server.asked["/a.jpg"] == asked
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert reason in FAILURES


@pytest.mark.parametrize(
    "url",
    ["", "photo.jpg", "file:///etc/passwd", "ftp://example.org/a.jpg", "https:///a.jpg", "http://[",
     "http://a b/c.jpg", "data:image/png;base64,AAAA", "http://example.org:99999/a.jpg"],
)  # fmt: skip
def test_what_is_no_address_of_the_web_is_not_asked(url: str, tmp_path: Path) -> None:
    assert fetch(tmp_path, url) == ["bad_address"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "[::1]"])
def test_the_own_machine_is_not_asked(host: str, server: Server, tmp_path: Path) -> None:
    server.answers["/a.jpg"] = [Answer()]
    url = server.url("/a.jpg").replace("127.0.0.1", host)
    assert fetch(tmp_path, url, allow_private=False) == ["private_address"]
    assert not server.asked


def test_nor_is_it_by_a_redirection(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/b.jpg"] = [Answer()]
    url = server.url("/a.jpg")
    other = server.url("/b.jpg").replace("127.0.0.1", "localhost")
    server.answers["/a.jpg"] = [Answer(302, b"", {"Location": other})]
    allowed: list[str] = []

    def the_first_only(address: str) -> bool:
        allowed.append(address)
        return len(allowed) == 1

    monkeypatch.setattr(photo_downloads, "is_public", the_first_only)
    assert fetch(tmp_path, url, allow_private=False) == ["private_address"]
    assert server.asked == {"/a.jpg": 1}


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("239.1.2.3", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:a00:1::", False),
    ],
)
def test_which_addresses_are_of_the_internet(address: str, public: bool) -> None:
    assert is_public(address) == public


def test_a_host_that_cannot_be_reached_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, server: Server
) -> None:
    with Server() as closed:
        gone = closed.url("")
    server.answers["/a.jpg"] = [Answer()]
    urls = [f"{gone}/{n}.jpg" for n in range(GIVEN_UP_AFTER + 30)]
    waits = Waits()
    with caplog.at_level(logging.WARNING):
        found = fetch(tmp_path, *urls, server.url("/a.jpg"), waits=waits, per_host=1)
    assert found == ["unreachable"] * len(urls) + [PHOTO]
    assert len(waits) == 2 * GIVEN_UP_AFTER
    assert len(caplog.messages) == 2
    assert f"given up after {GIVEN_UP_AFTER} photos in a row" in caplog.messages[1]


def test_the_first_failure_of_a_kind_is_told(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    urls = [server.url(f"/{n}.jpg") for n in range(5)]
    assert fetch(tmp_path, *urls, per_host=1) == ["not_found"] * 5
    assert caplog.messages == [
        f"{urls[0]}: not_found: HTTP 404 Not Found; others of the host that end like this are only "
        "counted"
    ]


def test_a_consumer_that_stops_ends_what_is_under_way(server: Server, tmp_path: Path) -> None:
    urls = [server.url(f"/{n}.jpg") for n in range(2000)]
    server.answers = {f"/{n}.jpg": [Answer()] for n in range(2000)}
    found = PhotoDownloads(tmp_path, params()).fetch(urls, lambda url: url)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert photo_downloads._THREAD not in {thread.name for thread in threading.enumerate()}
    assert server.asked.total() < 2000


def test_a_wait_may_be_given_as_a_date() -> None:
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    found = photo_downloads._seconds(later)
    assert found is not None and 0 < found <= 100
    assert photo_downloads._seconds(email.utils.formatdate(0, usegmt=True)) == 0
    assert photo_downloads._seconds("soon") is None
    assert photo_downloads._seconds("") is None


def test_a_full_disk_ends_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/a.jpg"] = [Answer()]

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(photo_downloads.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path, server.url("/a.jpg"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
