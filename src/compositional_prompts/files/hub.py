"""A repository of the Hugging Face hub as a local folder, from the cache or over the network.

``HF_HUB_OFFLINE``, ``HF_HUB_CACHE`` and ``HF_TOKEN`` are honoured, as huggingface_hub does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


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
        ValueError: ``repository`` cannot be the name of one.
    """
    pin = f" --revision {revision}" if revision else ""
    command = f"hf download {repository}{pin}"
    remedy = "set its source to path"
    if kind == "dataset":
        command = f"hf download {repository} --repo-type dataset{pin}"
        remedy = "name a local folder of it"
    try:
        return Path(
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
