"""Photos from the web: a few at a time from every host, each kept under its address.

A photo that was fetched once is not fetched again, in this run or the next, until it is older than
asked for or its file is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import errno
import hashlib
import ipaddress
import logging
import shutil
import socket
import tempfile
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeVar

from pydantic import Field

from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.pipeline.section import Positive, Rate, Section, Workers

if TYPE_CHECKING:  # its import takes longer than most stages, and only what fetches needs it
    import aiohttp

FAILURES: Final = (
    "bad_address",
    "private_address",
    "not_found",
    "refused",
    "too_many_requests",
    "server_error",
    "unreachable",
    "timed_out",
    "broken_off",
    "too_large",
    "not_an_image",
    "empty_file",
)
"""Why a photo could not be had."""

IN_FLIGHT: Final = 1024
"""Photos that are asked for ahead of the one whose turn it is."""

GIVEN_UP_AFTER: Final = 10
"""So many photos of a host in a row that could not be had, for want of the host, and no more of it
are asked for."""

LONGEST_WAIT: Final = 600.0
"""Seconds that a server may ask us to wait; one that asks for more is not waited for."""

_THREAD: Final = "photo downloads"
_USER_AGENT: Final = "compositional-prompts"
_BACKOFF_SECONDS: Final = 1.0
_CONNECT_SECONDS: Final = 10.0
_REDIRECTS: Final = 5
_BLOCK_BYTES: Final = 2**16
_DAY: Final = 24 * 3600
# RFC 9110: try later, or the server's own trouble. Any other refusal would only be repeated.
_PASSING: Final = {408, 425, 429, 500, 502, 503, 504}
# The network translates addresses below it to IPv4 (RFC 6052), of which any may be private.
_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")

logger = logging.getLogger(__name__)

Thing = TypeVar("Thing")


class Fetch(Section):
    """How photos are fetched.

    Attributes:
        parallel: photos at a time.
        per_host: of them from one host.
        timeout_s: seconds that one attempt at a photo may take.
        retries: how often one is asked for again after what may pass.
        max_mib: size of a photo at most.
        max_age_days: what was fetched longer ago is fetched again; None: never.
        allow_private: whether addresses of the own machine or network are asked too.
    """

    parallel: Workers
    per_host: Workers
    timeout_s: Rate
    retries: Annotated[int, Field(ge=0, le=20)]
    max_mib: Rate
    max_age_days: Positive | None
    allow_private: bool


class Fetched(NamedTuple):
    """A photo that was asked for: the file that has it, or why there is none, in a word."""

    path: Path | None
    reason: str | None = None


class _Answer(NamedTuple):
    """What became of one attempt.

    Attributes:
        reason: why there is no photo; None where there is one.
        detail: the same for people.
        passing: whether another attempt may succeed.
        retry_after: seconds that the server asks to wait, where it does.
        lost: whether it says something of the host, and nothing of the photo.
    """

    reason: str | None
    detail: str = ""
    passing: bool = False
    retry_after: float | None = None
    lost: bool = False


class _PrivateAddressError(OSError):
    """A host that was to be asked is on the own machine or network."""

    def __init__(self) -> None:
        # Alike for all addresses of a host: else aiohttp makes a new error of several.
        super().__init__(errno.EACCES, "a private address")


class _Host:
    """What is known of a host.

    Attributes:
        slots: for the photos asked for at a time.
        not_before: when it may be asked again, in the event loop's time.
        lost: how many photos in a row could not be had for want of it.
    """

    def __init__(self, slots: int) -> None:
        self.slots = asyncio.Semaphore(slots)
        self.not_before = 0.0
        self.lost = 0


class PhotoDownloads:
    """Photos by address, kept in a folder.

    Memory holds some hundred bytes of each of the :data:`IN_FLIGHT` photos under way: what comes
    goes to disk block by block.
    """

    def __init__(
        self,
        folder: Path,
        params: Fetch,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Nothing is fetched yet.

        Args:
            folder: where photos are kept; made if need be.
            params: how they are fetched.
            sleep: waits for a number of seconds.
        """
        self._folder = folder
        self._params = params
        self._sleep = sleep
        self._oldest = time.time() - (params.max_age_days or 0) * _DAY
        self._hosts: dict[str, _Host] = {}
        self._told: set[tuple[str, str]] = set()

    def fetch(
        self, things: Iterable[Thing], url_of: Callable[[Thing], str]
    ) -> Iterator[tuple[Thing, Fetched]]:
        """Every thing with its photo, in their order: kept, or fetched now.

        Args:
            things: are taken up to :data:`IN_FLIGHT` ahead.
            url_of: the address of a thing's photo.

        Raises:
            OSError: a photo cannot be written.
        """
        waiting: deque[tuple[Thing, Fetched | Future[Fetched]]] = deque()
        # Of a photo that several products share, one is fetched.
        under_way: dict[str, Future[Fetched]] = {}

        def first() -> tuple[Thing, Fetched]:
            thing, found = waiting.popleft()
            under_way.pop(url_of(thing), None)
            return thing, found.result() if isinstance(found, Future) else found

        with contextlib.ExitStack() as stack:
            submit: Callable[[str], Future[Fetched]] | None = None
            for thing in things:
                url = url_of(thing)
                found: Fetched | Future[Fetched] | None = under_way.get(url) or self._found(url)
                if found is None:
                    if submit is None:
                        submit = stack.enter_context(self._fetching())
                    found = under_way[url] = submit(url)
                waiting.append((thing, found))
                if len(waiting) >= IN_FLIGHT:
                    yield first()
                while waiting and _is_ready(waiting[0][1]):
                    yield first()
            while waiting:
                yield first()

    def kept_at(self, url: str) -> Path:
        """Where the photo of an address is kept, once it was fetched."""
        name = hashlib.sha256(url.encode()).hexdigest()
        return self._folder / name[:2] / name

    def _found(self, url: str) -> Fetched | None:
        """What is known of a photo without asking for it."""
        try:
            parts = urllib.parse.urlsplit(url)
            host = parts.hostname or ""
            usable = parts.scheme in ("http", "https") and bool(host) and len(host.split()) == 1
        except ValueError:
            usable = False
        if not usable:
            return Fetched(None, "bad_address")
        path = self.kept_at(url)
        try:
            status = path.stat()
        except OSError:
            return None
        fresh = self._params.max_age_days is None or status.st_mtime >= self._oldest
        return Fetched(path) if status.st_size and fresh else None

    @contextlib.contextmanager
    def _fetching(self) -> Iterator[Callable[[str], Future[Fetched]]]:
        """What fetches an address, in an event loop in a thread of its own."""
        self._folder.mkdir(parents=True, exist_ok=True)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name=_THREAD, daemon=True)
        thread.start()

        def submit(work: Coroutine[Any, Any, Any]) -> Future[Any]:
            return asyncio.run_coroutine_threadsafe(work, loop)

        session = submit(self._open_session()).result()
        slots = asyncio.Semaphore(self._params.parallel)
        try:
            yield lambda url: submit(self._fetch(url, session, slots))
        finally:
            submit(_end(session)).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _open_session(self) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the slots are the limit
                # Whatever an address is written like, by name or number, and wherever it redirects
                # to: what is connected to comes through here.
                socket_factory=None if self._params.allow_private else _public_socket,
                resolver=aiohttp.ThreadedResolver(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": _USER_AGENT,
                "Accept": "image/*",
                "Accept-Encoding": "identity",
            },
            timeout=aiohttp.ClientTimeout(
                total=self._params.timeout_s,
                sock_connect=min(_CONNECT_SECONDS, self._params.timeout_s),
            ),
        )

    async def _fetch(
        self, url: str, session: aiohttp.ClientSession, slots: asyncio.Semaphore
    ) -> Fetched:
        name = urllib.parse.urlsplit(url).netloc.rpartition("@")[2].lower()
        host = self._hosts.setdefault(name, _Host(self._params.per_host))
        async with host.slots:
            answer = await self._answer(url, host, session, slots)
        if answer.reason is None:
            host.lost = 0
            return Fetched(self.kept_at(url))
        host.lost = host.lost + 1 if answer.lost else 0
        if (name, answer.reason) not in self._told:
            self._told.add((name, answer.reason))
            logger.warning(
                "%s: %s: %s; others of the host that end like this are only counted",
                *(url, answer.reason, answer.detail),
            )
        if host.lost == GIVEN_UP_AFTER:
            logger.warning(
                "%s: given up after %d photos in a row (%s); what came is kept, and the next run "
                "asks for the others",
                *(name, host.lost, answer.detail),
            )
        return Fetched(None, answer.reason)

    async def _answer(
        self, url: str, host: _Host, session: aiohttp.ClientSession, slots: asyncio.Semaphore
    ) -> _Answer:
        """The last answer: the photo, or what went wrong for good."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            if host.lost >= GIVEN_UP_AFTER:
                return _Answer("unreachable", "the host was given up", lost=True)
            pause = host.not_before - loop.time()
            if pause > 0:
                await self._sleep(pause)
            async with slots:
                answer = await self._attempt(url, session)
            wait = answer.retry_after
            if not answer.passing or attempt == self._params.retries:
                return answer
            if wait is None:
                await self._sleep(_BACKOFF_SECONDS * 2**attempt)
            elif wait > LONGEST_WAIT:
                return answer
            else:
                # All that is asked of the host waits.
                host.not_before = loop.time() + wait
            attempt += 1

    async def _attempt(self, url: str, session: aiohttp.ClientSession) -> _Answer:
        import aiohttp

        try:
            async with session.get(url, max_redirects=_REDIRECTS) as response:
                if response.status != HTTPStatus.OK:
                    return _refusal(response)
                if response.content_type.startswith("text/"):
                    return _Answer("not_an_image", f"the server sent {response.content_type}")
                return await self._keep(url, response)
        except (
            aiohttp.InvalidURL,
            aiohttp.NonHttpUrlClientError,
            aiohttp.TooManyRedirects,
        ) as error:
            return _Answer("bad_address", f"{type(error).__name__}: {error}")
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _PrivateAddressError):
                return _Answer(
                    "private_address",
                    "it is on this machine or its network; download.feed.fetch.allow_private",
                )
            return _Answer("unreachable", str(error), passing=True, lost=True)
        except aiohttp.ClientConnectorCertificateError as error:
            return _Answer("unreachable", str(error), lost=True)
        except aiohttp.ConnectionTimeoutError as error:
            return _Answer("unreachable", str(error), passing=True, lost=True)
        except TimeoutError:
            return _Answer("timed_out", f"longer than {self._params.timeout_s:g} s", passing=True)
        except aiohttp.ClientError as error:
            return _Answer("broken_off", f"{type(error).__name__}: {error}", passing=True)

    async def _keep(self, url: str, response: aiohttp.ClientResponse) -> _Answer:
        most = int(self._params.max_mib * 2**20)
        too_large = _Answer("too_large", f"more than {self._params.max_mib:g} MiB")
        if (response.content_length or 0) > most:
            return too_large
        # Without a name, so that a killed run leaves nothing behind.
        with tempfile.TemporaryFile(dir=self._folder) as file:
            size = 0
            async for block in response.content.iter_chunked(_BLOCK_BYTES):
                size += len(block)
                if size > most:
                    return too_large
                file.write(block)
            if not size:
                return _Answer("empty_file", "the server sent no byte")
            _write(file, self.kept_at(url))
        return _Answer(None)


def _is_ready(found: Fetched | Future[Fetched]) -> bool:
    return isinstance(found, Fetched) or found.done()


async def _end(session: aiohttp.ClientSession) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await session.close()


def _refusal(response: aiohttp.ClientResponse) -> _Answer:
    status = response.status
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        reason = "not_found"
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        reason = "too_many_requests"
    else:
        reason = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused"
    return _Answer(
        reason,
        f"HTTP {status} {response.reason or ''}".strip(),
        passing=status in _PASSING,
        retry_after=_seconds(response.headers.get("Retry-After", "")),
        lost=status == HTTPStatus.TOO_MANY_REQUESTS,
    )


def _seconds(retry_after: str) -> float | None:
    """RFC 9110, 10.2.3: a number of seconds, or a date; None for anything else."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _write(file: IO[bytes], path: Path) -> None:
    file.seek(0)
    with atomic_file(path) as temporary, temporary.open("wb") as target:
        shutil.copyfileobj(file, target)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet, and of none of the own networks."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in _TRANSLATED:
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast


def _public_socket(address: Any) -> socket.socket:
    """The socket to connect to what ``getaddrinfo`` gave.

    Raises:
        _PrivateAddressError: it is of the own machine or network.
    """
    family, kind, protocol, _, place = address
    if not is_public(place[0]):
        raise _PrivateAddressError
    return socket.socket(family, kind, protocol)
