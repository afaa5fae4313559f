"""Sharing what was run: DVC's run records, and every object that they name, with a remote.

DVC keeps a record of every run of a stage in its run cache, and looks there before it runs one.
``dvc push --run-cache`` pushes all records, but objects of the outputs of the workspace alone: what
other parameters gave, and outputs that DVC does not cache, stay behind, and their stages run again
elsewhere. Here a record is pushed once everything that it names is in the remote, and not before.

Beside DVC's own layout a remote gets ``run-records.txt``, the list of its records, since a folder
over http cannot be listed.
"""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from compositional_prompts.files.outputs import DamagedOutputError

LISTING = "run-records.txt"
RECORDS = "runs"

_PACKAGE = Path(__file__).parents[1]


class SharingError(RuntimeError):
    """There is no remote, or it cannot be reached or written."""


@dataclass(frozen=True)
class Shared:
    """What a command of sharing did.

    Attributes:
        records: run records that are whole where they should be.
        copied: how many of them were not there before.
        objects: that were copied for them.
        remote: its name and address.
        incomplete: what is amiss with others, a sentence each.
    """

    records: int
    copied: int
    objects: int
    remote: str
    incomplete: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Store:
    """Objects and run records in one place, the cache or a remote.

    Attributes:
        objects: DVC's database of objects.
        fs: of the records, and ``root`` the folder of theirs.
        root: the folder in which ``runs/`` lies.
        title: what people call it.
    """

    objects: Any
    fs: Any
    root: str
    title: str

    @property
    def listable(self) -> bool:
        return "http" not in str(self.fs.protocol)

    def path(self, name: str) -> str:
        return str(self.fs.join(self.root, *PurePosixPath(name).parts))

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where it is not there.

        Raises:
            SharingError: a web server cannot be asked for it.
        """
        try:
            with self.fs.open(self.path(name), "rb") as file:
                return bytes(file.read())
        except FileNotFoundError as error:
            if not self.listable and (reason := _no_answer(error)):
                raise SharingError(
                    f"The remote {self.title} cannot be reached ({reason}): "
                    "check its address and the network."
                ) from error
            return None

    def require_place(self, *, made: bool = False) -> None:
        """Check that there is a folder, or a bucket, to look into; ``made``: or that one may be.

        Over http nothing but the list of records can tell.
        """
        if not self.listable or self.fs.isdir(self.root):
            return
        if self.fs.isfile(self.root):
            raise SharingError(f"The remote {self.title} is a file: give the address of a folder.")
        # A bucket's folders are nothing but the names of its objects.
        bucket = PurePosixPath(self.root).parts[0]
        if made or (_is_object_store(self.fs) and self.fs.exists(bucket)):
            return
        raise SharingError(
            f"The remote {self.title} does not exist: correct its address (`dvc remote modify`), "
            "or push to it first with `compositional-prompts share push`."
        )

    def record_names(self) -> list[str]:
        """Of all run records, ``runs/ab/KEY/VALUE``, sorted."""
        if not self.listable:
            listing = self.read(LISTING)
            if listing is None:
                raise SharingError(
                    f"{self.path(LISTING)} is missing: push once with "
                    "`compositional-prompts share push`, which lists the records for http."
                )
            return listing.decode().split()
        runs = self.path(RECORDS)
        if not self.fs.exists(runs):
            return []
        found = (self.fs.relpath(path, self.root) for path in self.fs.find(runs))
        names = (self.fs.as_posix(path) if self.fs.sep != "/" else path for path in found)
        # What is written is not a record yet: DVC and we write under another name first.
        return sorted(name for name in names if len(PurePosixPath(name).name) == 64)

    def contents(self, identifier: str) -> list[str]:
        """The objects that a folder's object lists; raises ValueError where it is damaged."""
        path = self.objects.oid_to_path(identifier)
        with self.objects.fs.open(path, "rb") as file:
            return [str(entry["md5"]) for entry in json.loads(file.read())]

    def have(self, identifiers: Iterable[str]) -> set[str]:
        """Those of the objects that are there."""
        wanted = set(identifiers)
        return set(self.objects.list_oids_exists(wanted)) if wanted else set()


def push_runs(remote: str | None = None, root: Path = Path()) -> Shared:
    """Push every run record whose outputs are whole here, after all objects that it names.

    Killed at any moment and run again, it goes on: no record is in the remote before its objects.

    Args:
        remote: name of a remote of DVC; None: the default one.
        root: of the project.

    Raises:
        SharingError: there is no such remote, or it cannot be written.
    """
    with _opened(root, remote) as (repo, cache, storage):
        if not storage.listable:
            raise SharingError("DVC writes to no http remote: name the one behind it with -r.")
        storage.require_place(made=True)
        _restore_uncached(repo)
        there = set(storage.record_names())
        records, amiss = _whole_records(cache, [cache])
        _forget_what_was_seen(storage)
        wanted = {part for parts in records.values() for part in parts}
        objects, failed = _copy_objects(repo.cloud.push, wanted, remote)
        if failed:
            raise SharingError(
                f"{counted(failed, 'object')} could not be pushed: run the command again."
            )
        new = [name for name in records if name not in there]
        for name in new:
            _copy_record(name, cache, storage)
        _write_listing(storage)
        return Shared(len(records), len(new), objects, storage.title, amiss)


def pull_runs(remote: str | None = None, objects: bool = False, root: Path = Path()) -> Shared:
    """Fetch the run records of a remote, by which ``dvc repro --pull`` finds what was run.

    Args:
        remote: as for :func:`push_runs`.
        objects: fetch all outputs of all records as well, to work without the remote afterwards.
        root: of the project.

    Raises:
        SharingError: there is no such remote, or it cannot be read.
    """
    with _opened(root, remote) as (repo, cache, storage):
        storage.require_place()
        names = storage.record_names()
        whole, amiss = _verified_records(storage, names)
        here = set(cache.record_names())
        damaged = here - set(_verified_records(cache, here)[0])
        # What is whole here is what the remote has: its name says so.
        new = [name for name in whole if name in damaged or name not in here]
        for name in new:
            _write(cache, name, whole[name])
        amiss += [
            f"{cache.path(name)} is damaged, and the remote has no whole one: remove it."
            for name in sorted(damaged - set(whole))
        ]
        copied = 0
        if objects:
            outputs = {one for content in whole.values() for one in _outputs(content)}
            wanted = {part for one in outputs for part in _parts(one, [cache, storage])}
            copied, failed = _copy_objects(repo.cloud.pull, wanted, remote)
            amiss += [f"{counted(failed, 'object')} could not be fetched."] if failed else []
        return Shared(len(whole), len(new), copied, storage.title, amiss)


def verify_runs(
    remote: str | None = None, content: bool = False, remove: bool = False, root: Path = Path()
) -> Shared:
    """Check that every object that a record of the remote names is there, and the record whole.

    Args:
        remote: as for :func:`push_runs`.
        content: read every object, and compare it with its name, its MD5. That is a download.
        remove: remove what is damaged, so that the next push brings it again.
        root: of the project.

    Returns:
        Records that are whole, and all that is amiss with others.

    Raises:
        SharingError: there is no such remote, or it cannot be read.
    """
    with _opened(root, remote) as (_, cache, storage):
        if remove and not storage.listable:
            raise SharingError(
                f"Nothing can be removed over http from the remote {storage.title}: "
                "name the writable one behind it with -r."
            )
        storage.require_place()
        damaged: dict[str, str] = {}
        if content:
            seen = set(_everything_named(storage))
            damaged = {name: reason for name in seen if (reason := _damaged(storage, name))}
            if remove:
                for name in damaged:
                    storage.objects.delete(name)
                _forget_what_was_seen(storage)
        records, amiss = _whole_records(storage, [storage, cache], damaged)
        if remove:
            for name in set(storage.record_names()) - set(records):
                storage.fs.remove(storage.path(name))
            _write_listing(storage)
        return Shared(len(records), 0, 0, storage.title, amiss)


def counted(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextmanager
def _opened(root: Path, remote: str | None) -> Iterator[tuple[Any, _Store, _Store]]:
    """DVC's project, its cache and a remote, while nobody else writes the cache.

    Raises:
        SharingError: there is no such remote, or a library of its kind of storage failed.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    title = remote or "of DVC"
    try:
        with Repo(str(root)) as repo, repo.lock:
            storage = repo.cloud.get_remote_odb(remote, "share")
            runs = repo.cloud.get_remote_odb(remote, "share", hash_name="md5-dos2unix")
            here = repo.cache.legacy
            name = remote or repo.config["core"]["remote"]
            title = f"{name} ({runs.fs.unstrip_protocol(runs.path)})"
            yield (
                repo,
                _Store(repo.cache.local, here.fs, here.path, "DVC's cache"),
                _Store(storage, runs.fs, runs.path, title),
            )
    except (DvcException, LockError) as error:
        raise SharingError(" ".join(str(error).split())) from error
    except ImportError as error:  # DVC's plugin for this kind of storage: it says which
        raise SharingError(f"The remote {title}: {error}.") from error
    except Exception as error:
        if _is_ours(error):
            raise
        raise SharingError(
            f"Sharing with the remote {title} failed ({_reason(error)}): "
            "check its address, the credentials and the network."
        ) from error


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised an error, and no library that it called."""
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return Path(innermost.f_code.co_filename).is_relative_to(_PACKAGE)


def _reason(error: BaseException) -> str:
    """An error of a library in one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _no_answer(error: BaseException | None) -> str:
    """Why a web server said nothing of a file; nothing where it said that there is none.

    The library tells of both that there is no such file, and how it came to that as the cause.
    Servers of object stores say 403 of what is not there.
    """
    from aiohttp import ClientError, ClientResponseError

    while error is not None:
        if isinstance(error, ClientResponseError):
            return "" if error.status in (403, 404, 410) else _reason(error)
        if isinstance(error, ClientError | TimeoutError):
            return _reason(error)
        error = error.__cause__ or error.__context__
    return ""


def _is_object_store(fs: Any) -> bool:
    from dvc_objects.fs.base import ObjectFileSystem

    return isinstance(fs, ObjectFileSystem)


def _outputs(content: bytes) -> list[str]:
    """The objects of the outputs of a run record, folders by theirs (``MD5.dir``)."""
    return [str(out["md5"]) for out in _parsed(content).get("outs", ())]


def _parsed(content: bytes) -> dict[str, Any]:
    from dvc.utils.serialize import parse_yaml

    return dict(parse_yaml(content.decode(), "record"))


def _is_damaged(name: str, content: bytes) -> bool:
    """Whether a record is not what its name says, by its hash."""
    from dvc.utils import dict_sha256

    try:
        found = dict_sha256(_parsed(content), exclude=["size", "nfiles"])
    except Exception:  # whatever the reader of DVC raises of bytes that are no YAML
        return True
    return bool(found != PurePosixPath(name).name)


def _whole_records(
    of: _Store, among: list[_Store], damaged: Iterable[str] = ()
) -> tuple[dict[str, list[str]], list[str]]:
    """The records of a store by name with all objects that they name, where these are there.

    Folders' lists may be read from any store of ``among``; the others are told, a sentence each.
    """
    parts: dict[str, list[str]] = {}
    verified, amiss = _verified_records(of, of.record_names())
    outputs = {name: _outputs(content) for name, content in verified.items()}
    for identifier in {one for named in outputs.values() for one in named}:
        parts[identifier] = _parts(identifier, among)
    there = of.have(part for all_parts in parts.values() for part in all_parts) - set(damaged)
    whole = {}
    for name, identifiers in outputs.items():
        gone = sorted({part for one in identifiers for part in parts[one]} - there)
        if gone:
            amiss.append(
                f"A run of `{_script(verified[name])}` is incomplete: "
                f"{_lacking(len(gone), len(set(gone) & set(damaged)))}, "
                f"such as {of.objects.oid_to_path(gone[0])}."
            )
        else:
            whole[name] = [part for one in identifiers for part in parts[one]]
    return whole, amiss


def _verified_records(of: _Store, names: Iterable[str]) -> tuple[dict[str, bytes], list[str]]:
    """The content of the records that are what their names say; of the others, a sentence each."""
    whole: dict[str, bytes] = {}
    amiss: list[str] = []
    for name in names:
        content = of.read(name)
        if content is None:
            amiss.append(f"{of.path(name)} is missing.")
        elif _is_damaged(name, content):
            amiss.append(f"{of.path(name)} is damaged.")
        else:
            whole[name] = content
    return whole, amiss


def _script(content: bytes) -> str:
    """What a record is of a run of."""
    command = str(_parsed(content).get("cmd", "")).split()
    return next((word for word in command if word.endswith(".py")), " ".join(command[:2]))


def _lacking(gone: int, damaged: int) -> str:
    """What keeps a run from being whole, of ``gone`` objects ``damaged`` ones."""
    what = {0: "missing", gone: "damaged"}.get(damaged, f"missing or damaged ({damaged} damaged)")
    return f"{counted(gone, 'object')} {'is' if gone == 1 else 'are'} {what}"


def _parts(identifier: str, among: list[_Store]) -> list[str]:
    """An object, and what it lists if it is a folder's and can be read."""
    if identifier.endswith(".dir"):
        for store in among:
            try:
                return [identifier, *store.contents(identifier)]
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return [identifier]


def _everything_named(storage: _Store) -> Iterator[str]:
    for content in _verified_records(storage, storage.record_names())[0].values():
        for identifier in _outputs(content):
            yield from _parts(identifier, [storage])


def _damaged(storage: _Store, identifier: str) -> str:
    """Whether an object that is there is not what its name says."""
    digest = hashlib.md5()
    try:
        with storage.objects.fs.open(storage.objects.oid_to_path(identifier), "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except FileNotFoundError:
        return ""
    return "" if digest.hexdigest() == identifier.removesuffix(".dir") else "damaged"


def _copy_objects(
    copy: Callable[..., Any], identifiers: Iterable[str], remote: str | None
) -> tuple[int, int]:
    """Push or pull by DVC; how many were copied, and how many could not be.

    Folders come after all of their files: a folder that is there then means that they are. Given a
    folder, DVC leaves files behind that stand in another one too.
    """
    from dvc_data.hashfile.hash_info import HashInfo

    wanted = {HashInfo("md5", identifier) for identifier in identifiers}
    folders = {one for one in wanted if one.isdir}
    copied = failed = 0
    for kind in (wanted - folders, folders):
        if kind and not failed:
            done = copy(kind, remote=remote)
            copied, failed = copied + len(done.transferred), failed + len(done.failed)
    return copied, failed


def _copy_record(name: str, source: _Store, target: _Store) -> None:
    content = source.read(name)
    if content is None:
        raise DamagedOutputError(f"{source.path(name)} vanished while it was copied: run it again.")
    _write(target, name, content)


def _write(store: _Store, name: str, content: bytes) -> None:
    """Under another name first: a killed command leaves no half of a file."""
    path = store.path(name)
    store.fs.makedirs(store.fs.parent(path), exist_ok=True)
    store.fs.pipe_file(f"{path}.part", content)
    store.fs.move(f"{path}.part", path)


def _write_listing(storage: _Store) -> None:
    _write(storage, LISTING, "".join(f"{name}\n" for name in storage.record_names()).encode())


def _forget_what_was_seen(storage: _Store) -> None:
    """Let DVC look again what is in the remote: it remembers folders, and asks no more for them."""
    from dvc_data.hashfile.db import get_index

    get_index(storage.objects).clear()


def _restore_uncached(repo: Any) -> None:
    """Put outputs that git keeps back into the cache, where `dvc gc` removed what records name."""
    for stage in repo.index.stages:
        for out in stage.outs:
            if out.use_cache or not out.hash_info or out.hash_info.isdir:
                continue
            identifier, path = out.hash_info.value, Path(out.fs_path)
            if not path.is_file() or repo.cache.local.exists(identifier):
                continue
            if hashlib.md5(path.read_bytes()).hexdigest() == identifier:
                repo.cache.local.add(out.fs_path, out.fs, identifier, hardlink=False)
