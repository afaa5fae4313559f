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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from compositional_prompts.files.outputs import DamagedOutputError

LISTING = "run-records.txt"
RECORDS = "runs"


class SharingError(RuntimeError):
    """There is no remote, or it cannot be reached or written."""


@dataclass(frozen=True)
class Shared:
    """What a command of sharing did.

    Attributes:
        records: run records that are whole where they should be.
        copied: how many of them were not there before.
        objects: that were copied for them.
        incomplete: what is amiss with others, a sentence each.
    """

    records: int
    copied: int
    objects: int
    incomplete: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Store:
    """Objects and run records in one place, the cache or a remote.

    Attributes:
        objects: DVC's database of objects.
        fs: of the records, and ``root`` the folder of theirs.
        root: the folder in which ``runs/`` lies.
    """

    objects: Any
    fs: Any
    root: str

    @property
    def listable(self) -> bool:
        return "http" not in str(self.fs.protocol)

    def path(self, name: str) -> str:
        return str(self.fs.join(self.root, *PurePosixPath(name).parts))

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where it is not there."""
        try:
            with self.fs.open(self.path(name), "rb") as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

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
        _restore_uncached(repo)
        there = set(storage.record_names())
        records, amiss = _whole_records(cache, [cache])
        _forget_what_was_seen(storage)
        wanted = {part for parts in records.values() for part in parts}
        objects, failed = _copy_objects(repo.cloud.push, wanted, remote)
        if failed:
            raise SharingError(f"{failed} objects could not be pushed: run the command again.")
        new = [name for name in records if name not in there]
        for name in new:
            _copy_record(name, cache, storage)
        _write_listing(storage)
        return Shared(len(records), len(new), objects, amiss)


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
        amiss, new = [], 0
        here = set(cache.record_names())
        names = storage.record_names()
        for name in names:
            content = storage.read(name)
            reason = "is missing" if content is None else _damage(name, content)
            if reason:
                amiss.append(f"{storage.path(name)} {reason}")
            elif name not in here:
                _copy_record(name, storage, cache)
                new += 1
        copied = 0
        if objects:
            outputs = {one for name in names for one in _outputs(cache.read(name) or b"{}")}
            wanted = {part for one in outputs for part in _parts(one, [cache, storage])}
            copied, failed = _copy_objects(repo.cloud.pull, wanted, remote)
            amiss += [f"{failed} objects could not be fetched"] if failed else []
        return Shared(len(names) - len(amiss), new, copied, amiss)


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
        if remove and storage.listable:
            _write_listing(storage)
        return Shared(len(records), 0, 0, amiss)


@contextmanager
def _opened(root: Path, remote: str | None) -> Iterator[tuple[Any, _Store, _Store]]:
    """DVC's project, its cache and a remote, while nobody else writes the cache."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo, repo.lock:
            storage = repo.cloud.get_remote_odb(remote, "share")
            runs = repo.cloud.get_remote_odb(remote, "share", hash_name="md5-dos2unix")
            here = repo.cache.legacy
            yield (
                repo,
                _Store(repo.cache.local, here.fs, here.path),
                _Store(storage, runs.fs, runs.path),
            )
    except (DvcException, LockError) as error:
        raise SharingError(" ".join(str(error).split())) from error


def _outputs(content: bytes) -> list[str]:
    """The objects of the outputs of a run record, folders by theirs (``MD5.dir``)."""
    return [str(out["md5"]) for out in _parsed(content).get("outs", ())]


def _parsed(content: bytes) -> dict[str, Any]:
    from dvc.utils.serialize import parse_yaml

    return dict(parse_yaml(content.decode(), "record"))


def _damage(name: str, content: bytes) -> str:
    """What is wrong with a record; nothing where it is what its name says, by its hash."""
    from dvc.utils import dict_sha256

    try:
        found = dict_sha256(_parsed(content), exclude=["size", "nfiles"])
    except Exception:  # whatever the reader of DVC raises of bytes that are no YAML
        found = ""
    return "" if found == PurePosixPath(name).name else "is damaged"


def _whole_records(
    of: _Store, among: list[_Store], damaged: Iterable[str] = ()
) -> tuple[dict[str, list[str]], list[str]]:
    """The records of a store by name with all objects that they name, where these are there.

    Folders' lists may be read from any store of ``among``; the others are told, a sentence each.
    """
    parts: dict[str, list[str]] = {}
    outputs: dict[str, list[str]] = {}
    amiss: list[str] = []
    for name in of.record_names():
        content = of.read(name)
        reason = "is missing" if content is None else _damage(name, content)
        if reason:
            amiss.append(f"{of.path(name)} {reason}.")
            continue
        outputs[name] = _outputs(content or b"")
        for identifier in outputs[name]:
            if identifier not in parts:
                parts[identifier] = _parts(identifier, among)
    there = of.have(part for all_parts in parts.values() for part in all_parts) - set(damaged)
    whole = {}
    for name, identifiers in outputs.items():
        gone = sorted({part for one in identifiers for part in parts[one]} - there)
        if gone:
            command = str(_parsed(of.read(name) or b"{}").get("cmd", "")).split()
            script = next((word for word in command if word.endswith(".py")), " ".join(command[:2]))
            bad = set(gone) & set(damaged)
            what = f"{len(bad)} damaged" if bad else "missing"
            amiss.append(
                f"A run of `{script}` is incomplete: {len(gone)} objects "
                f"are {what if len(bad) in (0, len(gone)) else f'missing or damaged ({what})'}, "
                f"such as {of.objects.oid_to_path(gone[0])}."
            )
        else:
            whole[name] = [part for one in identifiers for part in parts[one]]
    return whole, amiss


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
    for name in storage.record_names():
        content = storage.read(name)
        if content is not None and not _damage(name, content):
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
