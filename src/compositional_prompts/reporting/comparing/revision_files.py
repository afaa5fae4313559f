"""Outputs of a revision as files to be read, without checking it out.

Of what DVC keeps, links into its cache are made, so that no byte of a large catalog is copied; what
git keeps is written beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

WORKSPACE = "workspace"
"""The name of what lies in the working folder."""


class RevisionError(ValueError):
    """A revision, or what it kept, is not there."""


@contextmanager
def open_revision(
    root: Path,
    revision: str | None,
    paths: Sequence[Path],
    optional: Sequence[Path] = (),
    tracked: Sequence[Path] = (),
) -> Iterator[Path]:
    """A folder with ``paths`` as ``revision`` has them; of ``optional`` those that it has.

    It is to be read only, and gone at the end; for None it is ``root`` itself, the workspace.

    Args:
        root: of the project.
        revision: whatever git knows a commit by, or an experiment's name.
        paths: files and folders that ``dvc.yaml`` of the revision has among its outputs, relative
            to ``root``.
        optional: as ``paths``.
        tracked: files that git keeps and no stage writes.

    Raises:
        RevisionError: there is no such revision, it has no such output, or the cache lacks it.
    """
    if revision in (None, WORKSPACE):
        missing = [path for path in (*paths, *tracked) if not (root / path).exists()]
        if missing:
            raise RevisionError(
                f"the workspace has no {missing[0]}: run `dvc repro`, or `dvc pull {missing[0]}`."
            )
        yield root
        return
    assert revision is not None
    with TemporaryDirectory(prefix="revision-") as name:
        folder = Path(name)
        _lay_out(root, revision, paths, optional, tracked, folder)
        yield folder


def _lay_out(
    root: Path,
    revision: str,
    paths: Sequence[Path],
    optional: Sequence[Path],
    tracked: Sequence[Path],
    folder: Path,
) -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import RevError
    from scmrepo.exceptions import SCMError

    try:
        with Repo(str(root)) as repo:
            # The one that is asked for: the brancher yields the workspace before it.
            for _ in (name for name in repo.brancher(revs=[revision]) if name != WORKSPACE):
                outputs = {Path(out.fs_path): out for out in repo.index.outs}
                for path in (*paths, *optional):
                    out = _output(outputs, Path(repo.root_dir) / path)
                    if out is not None:
                        _lay(repo, out, path, folder, revision)
                    elif path in paths:
                        raise RevisionError(
                            f"{revision} has no output {path}: it is of another version of the "
                            "pipeline, and cannot be compared."
                        )
                for path in tracked:
                    _lay_tracked(repo, path, folder, revision)
    except (RevError, SCMError) as error:  # the latter where there is no commit at all
        raise RevisionError(
            f"there is no revision {revision!r}: name a commit, a branch, a tag, or an experiment "
            "of `dvc exp show`."
        ) from error
    except DvcException as error:
        raise RevisionError(f"{revision}: DVC cannot read it: {error}") from error


def _output(outputs: dict[Path, Any], path: Path) -> Any:
    """The output that is, or holds, a path; None where there is none."""
    return next((outputs[one] for one in (path, *path.parents) if one in outputs), None)


def _lay(repo: Any, out: Any, path: Path, folder: Path, revision: str) -> None:
    target = folder / path
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not out.use_cache:
        _lay_tracked(repo, path, folder, revision)
        return
    if not out.hash_info:
        raise RevisionError(f"{revision} never ran the stage that writes {path}.")
    inner = path.relative_to(Path(out.fs_path).relative_to(repo.root_dir))
    for name, digest in _objects(out, path, revision):
        # Of a folder, the files below the path that is asked for.
        if inner.parts and not name.is_relative_to(inner):
            continue
        link = target / name.relative_to(inner) if name != inner else target
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(_cached(out, digest, path, revision))


def _lay_tracked(repo: Any, path: Path, folder: Path, revision: str) -> None:
    try:
        (folder / path).write_bytes(repo.fs.cat_file(str(Path(repo.root_dir) / path)))
    except FileNotFoundError as error:
        raise RevisionError(f"{revision} has no {path}: commit it there.") from error


def _objects(out: Any, path: Path, revision: str) -> list[tuple[Path, str]]:
    """The files of an output, by name below it (``.`` for a file alone), and their digests."""
    if not out.hash_info.isdir:
        return [(Path(), out.hash_info.value)]
    _cached(out, out.hash_info.value, path, revision)
    tree = out.get_obj()
    return [(Path(*key), digest.value) for key, _, digest in tree]


def _cached(out: Any, digest: str, path: Path, revision: str) -> str:
    found: str = out.cache.oid_to_path(digest)
    if not Path(found).is_file():
        raise RevisionError(
            f"{path} of {revision} is not in DVC's cache. Run `dvc fetch --all-commits {path}`; of "
            "an experiment that was shared, `dvc exp pull REMOTE NAME`."
        )
    return found
