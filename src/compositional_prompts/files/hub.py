"""A repository of the Hugging Face hub as a local folder, from the cache or over the network.

``HF_HUB_OFFLINE``, ``HF_HUB_CACHE`` and ``HF_TOKEN`` are honoured, as huggingface_hub does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._paths import filter_repo_objects

_BLOBS: Final = "blobs"
_SHA256_DIGITS: Final = 64
_GIT_DIGITS: Final = 40


def fetch_snapshot(
    repository: str,
    revision: str | None,
    patterns: Sequence[str],
    parameter: str,
    kind: Literal["model", "dataset"] = "model",
) -> Path:
    """The folder of a repository's files at a revision, downloaded if the cache lacks them.

    Args:
        repository: ``ORGANISATION/NAME``.
        revision: commit, branch or tag; the default branch if null.
        patterns: file names to take, with wildcards.
        parameter: what names the repository in ``params.yaml``, for messages.
        kind: of the repository.

    Raises:
        FileNotFoundError: the hub is out of reach and the cache does not have the files; the
            message has the command that fetches them. Or the repository or the revision is not
            there, or not for this account.
        ValueError: ``repository`` cannot be the name of one, or a file of the cache is not what
            the hub has.
    """
    pin = f" --revision {revision}" if revision else ""
    command = f"hf download {repository}{pin}"
    remedy = "set its source to path"
    if kind == "dataset":
        command = f"hf download {repository} --repo-type dataset{pin}"
        remedy = "name a local folder of it"
    try:
        folder = Path(
            snapshot_download(
                repository, repo_type=kind, revision=revision, allow_patterns=list(patterns)
            )
        )
    except IncompleteSnapshotError as error:
        raise FileNotFoundError(
            f"{parameter}: the local cache holds only a part of {repository}, and the hub is out "
            f"of reach. Run `{command}` on a machine with a connection and bring its cache. "
            f"({error})"
        ) from error
    except LocalEntryNotFoundError as error:
        at = f" at revision {revision}" if revision else ""
        raise FileNotFoundError(
            f"{parameter}: {repository}{at} is neither within reach nor in the local cache. On a "
            f"machine with a connection run `{command}` and bring its cache, or {remedy}."
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{parameter}: {repository} has no revision {revision!r} on the hub: correct it, or "
            "set it to null for the newest."
        ) from error
    except GatedRepoError as error:
        raise FileNotFoundError(
            f"{parameter}: {repository} is for accounts that accepted its terms: accept them on "
            "its page, then `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{parameter}: the hub has no repository {repository}, or it is private: correct the "
            "name, or `hf auth login` with an account that may read it."
        ) from error
    except HFValidationError as error:
        raise ValueError(
            f"{parameter}: {repository!r} is not ORGANISATION/NAME of a repository: {error}"
        ) from error
    _check_digests(folder, patterns, f"{parameter}: {repository}", command)
    return folder


def _check_digests(folder: Path, patterns: Sequence[str], name: str, command: str) -> None:
    """Hold the files of a snapshot against the digests that the hub calls them by in its cache.

    There they are links to ``blobs/DIGEST``: SHA-256 of large files, and what git calls the others.
    Copies, as on systems without links, have no digest and are taken as they are.

    Raises:
        ValueError: a file is another.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for found in filter_repo_objects(sorted(files), allow_patterns=list(patterns)):
        blob = files[found].resolve()
        if files[found].is_symlink() and blob.is_file() and blob.parent.name == _BLOBS:
            digest = _digest_like(blob)
            if digest not in (None, blob.name):
                raise ValueError(
                    f"{name}: {found} in the cache is damaged: its digest is {digest}, and that of "
                    f"the hub {blob.name}. Remove {blob} and run `{command}`."
                )


def _digest_like(blob: Path) -> str | None:
    """The digest of a file, of the kind that its name is; None where that is none."""
    with blob.open("rb") as file:
        if len(blob.name) == _SHA256_DIGITS:
            return hashlib.file_digest(file, "sha256").hexdigest()
        if len(blob.name) == _GIT_DIGITS:
            content = file.read()
            header = b"blob %d\0" % len(content)
            return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
    return None
