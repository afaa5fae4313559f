"""Files from the web: resumed where they broke off, checked, and whole or not there.

What was fetched is kept, because the hosts of old data sets go away and a rerun with another
parameter must not transfer gigabytes again; remove the folder to have the room back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from compositional_prompts.files.outputs import atomic_file

DOWNLOADS: Final = Path("downloads")
"""Relative to the project's root; ignored by git and by DVC, and kept by ``make clean``."""

ATTEMPTS: Final = 5
"""How often in a row a transfer may get no further before it is given up."""

_TIMEOUT_SECONDS: Final = 60
_BACKOFF_SECONDS: Final = 2.0
_BLOCK_BYTES: Final = 2**20
# RFC 9110: try later, or the server's own trouble. Any other refusal would only be repeated.
_PASSING: Final = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

logger = logging.getLogger(__name__)


class DownloadError(ValueError):
    """A file cannot be had, or is not the one that was meant."""


class Remote(NamedTuple):
    """A file as the parameters name it.

    Attributes:
        url: http, https or file URL, or a local path.
        size: in bytes, None where not known.
        sha256: of its content, in hexadecimal, None where not known.
        parameter: what names it in ``params.yaml``, for messages.
    """

    url: str
    size: int | None
    sha256: str | None
    parameter: str


class _TransferError(Exception):
    """The transfer broke off and may go on."""


class _State(NamedTuple):
    """What is known of a part file: the strong validator it was sent with, and its whole size."""

    validator: str | None
    total: int | None


def fetch(remote: Remote, folder: Path, wait: Callable[[float], None] = time.sleep) -> Path:
    """The file that ``remote`` names, from ``folder`` or fetched into it; a local one in its place.

    A transfer that breaks off, or is killed, leaves ``NAME.part`` behind, and the next goes on
    from there (HTTP Range) if the server says that the file is still the same (If-Range with a
    strong ETag or a date); otherwise it starts afresh. Each call checks size and checksum, and
    logs the checksum where none is given, so that it can be pinned.

    Args:
        remote: what to fetch.
        folder: where fetched files are kept; made if need be.
        wait: sleeps for a number of seconds.

    Raises:
        DownloadError: it is not there, breaks off :data:`ATTEMPTS` times without getting further,
            does not fit on the disk, is being fetched by another process, or has another size or
            checksum than given.
    """
    parts = urllib.parse.urlsplit(remote.url)
    if parts.scheme in ("http", "https"):
        name = Path(urllib.parse.unquote(parts.path)).name or "file"
        path = folder / f"{hashlib.sha256(remote.url.encode()).hexdigest()[:12]}-{name}"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _download(remote, path, wait)
    elif parts.scheme == "file":
        path = Path(urllib.request.url2pathname(parts.path))
    elif "://" not in remote.url:
        path = Path(remote.url).expanduser()
    else:
        raise DownloadError(
            f"{remote.parameter}.url: {remote.url} begins with neither http, https nor file."
        )
    if not path.is_file():
        raise DownloadError(f"{remote.parameter}.url: there is no file {path}.")
    _verify(remote, path)
    return path


def _verify(remote: Remote, path: Path) -> None:
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        raise DownloadError(
            f"{remote.parameter}: {path} has {size} bytes, expected {remote.size} (size). Remove "
            "it to fetch it again, or correct size if the publisher changed the file."
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if remote.sha256 is None:
        logger.info(
            "%s: %s has size %d and sha256 %s; pin both in params.yaml, so that a changed file is "
            "noticed",
            remote.parameter,
            path,
            size,
            found,
        )
    elif found != remote.sha256:
        raise DownloadError(
            f"{remote.parameter}: {path} has sha256 {found}, expected {remote.sha256}. Remove it "
            "to fetch it again, or correct sha256 if the publisher changed the file."
        )


def _download(remote: Remote, path: Path, wait: Callable[[float], None]) -> None:
    part = path.with_name(f"{path.name}.part")
    with _locked(part, remote) as file:
        furthest = file.seek(0, os.SEEK_END)
        failures = 0
        while True:
            try:
                _transfer(remote, part, file)
                break
            except _TransferError as error:
                reached = file.seek(0, os.SEEK_END)
                failures = 0 if reached > furthest else failures + 1
                furthest = max(furthest, reached)
                if failures >= ATTEMPTS:
                    raise DownloadError(
                        f"{remote.parameter}: {remote.url} broke off {ATTEMPTS} times at {reached} "
                        f"bytes: {error}. What has come is kept in {part}: run the stage again to "
                        "go on, or fetch the file yourself and name its path as url."
                    ) from error
                logger.warning("%s: %s: %s; trying again", remote.parameter, remote.url, error)
                wait(_BACKOFF_SECONDS * 2**failures)
        file.flush()
        os.fsync(file.fileno())
        part.replace(path)
        _state_file(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(part: Path, remote: Remote) -> Iterator[IO[bytes]]:
    with part.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(
                f"{remote.parameter}: another process is fetching {part}; wait for it."
            ) from error
        yield file


def _transfer(remote: Remote, part: Path, file: IO[bytes]) -> None:
    """Bring the part to its end, or raise; ``file`` is open for appending."""
    offset = file.seek(0, os.SEEK_END)
    state = _read_state(part)
    if offset and state.total == offset:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "compositional-prompts"}
    # Without a validator nobody could tell whether the rest belongs to the same file.
    if offset and state.validator is not None:
        headers |= {"Range": f"bytes={offset}-", "If-Range": state.validator}
    with _opened(remote, headers, file) as response:
        start, total = _extent(response.status, response.headers, remote)
        other = total is not None and state.total is not None and total != state.total
        if start and (start != offset or other):
            file.truncate(0)
            raise _TransferError(
                f"asked for the bytes from {offset} of {state.total}, the server sent those from "
                f"{start} of {total}: starting afresh"
            )
        file.truncate(start)
        if remote.size is not None and total is not None and total != remote.size:
            file.truncate(0)
            raise DownloadError(
                f"{remote.parameter}: {remote.url} has {total} bytes, expected {remote.size} "
                "(size). Correct size if the publisher changed the file."
            )
        _write_state(part, _State(_validator(response.headers), total))
        _check_room(part, remote, (total or 0) - start)
        _copy(response, file, part, remote)
    reached = file.seek(0, os.SEEK_END)
    if total is not None and reached > total:
        file.truncate(0)
        raise _TransferError(f"the server sent {reached} bytes and had announced {total}")
    if total is not None and reached < total:
        raise _TransferError(f"broke off at {reached} of {total} bytes")


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but never off the web: urllib would also go to ftp."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(newurl, code, "redirected off the web", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opened(remote: Remote, headers: dict[str, str], file: IO[bytes]) -> Any:
    opener = urllib.request.build_opener(_WebOnly)
    request = urllib.request.Request(remote.url, headers=headers)
    try:
        return opener.open(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            file.truncate(0)
            raise _TransferError(
                "the server has no bytes from there on: starting afresh"
            ) from error
        if error.code in _PASSING:
            raise _TransferError(f"HTTP {error.code} {error.reason}") from error
        raise DownloadError(
            f"{remote.parameter}.url: {remote.url}: HTTP {error.code} {error.reason}. If the file "
            "moved, correct url; or fetch it elsewhere and name its path as url."
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _TransferError(f"{type(error).__name__}: {error}") from error


def _extent(status: int, headers: Message, remote: Remote) -> tuple[int, int | None]:
    """The first byte that is sent, and the size of the whole file where it is told."""
    if status == http.HTTPStatus.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if match is None:
            raise DownloadError(
                f"{remote.parameter}: {remote.url} answers a range with Content-Range "
                f"{headers.get('Content-Range')!r}: fetch the file yourself and name its path."
            )
        return int(match[1]), None if match[3] == "*" else int(match[3])
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _validator(headers: Message) -> str | None:
    # RFC 9110, 13.1.5: a weak tag says only that two files mean the same.
    tag = headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        return str(tag)
    date = headers.get("Last-Modified")
    return None if date is None else str(date)


def _copy(response: Any, file: IO[bytes], part: Path, remote: Remote) -> None:
    while True:
        broken: Exception | None = None
        try:
            block = response.read(_BLOCK_BYTES)
        except http.client.IncompleteRead as error:
            # After it, reading on would look like the end.
            block, broken = error.partial, error
        except (OSError, http.client.HTTPException) as error:
            raise _TransferError(f"{type(error).__name__}: {error}") from error
        try:
            file.write(block)
            file.flush()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _no_room(part, remote, None) from error
            raise
        if broken is not None:
            raise _TransferError("the connection was closed in the middle of a chunk") from broken
        if not block:
            return


def _check_room(part: Path, remote: Remote, needed: int) -> None:
    if shutil.disk_usage(part.parent).free < needed:
        raise _no_room(part, remote, needed)


def _no_room(part: Path, remote: Remote, needed: int | None) -> DownloadError:
    free = shutil.disk_usage(part.parent).free
    wanted = "more" if needed is None else f"{needed} bytes"
    return DownloadError(
        f"{remote.parameter}: no room for {remote.url}: {part.parent} has {free} bytes free and "
        f"needs {wanted}. Make room and run the stage again; it goes on where it stopped."
    )


def _state_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path) -> _State:
    try:
        state = json.loads(_state_file(part).read_text())
        return _State(state["validator"], state["total"])
    except (OSError, ValueError, KeyError, TypeError):
        # Written whole or not at all; without it the transfer starts afresh.
        return _State(None, None)


def _write_state(part: Path, state: _State) -> None:
    with atomic_file(_state_file(part)) as temporary:
        temporary.write_text(json.dumps(state._asdict()))
