"""An export as a repository of the Hugging Face hub.

``HF_ENDPOINT``, ``HF_TOKEN`` and ``hf auth login`` are honoured, as huggingface_hub does. The token
is never part of a message.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is the base of all
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)

Kind = Literal["dataset", "model"]

_HARMLESS: Final = {".gitattributes", "README.md", "LICENSE"}
"""What a repository has that was made on the hub's page and holds nothing yet."""

_MARKS: Final[dict[Kind, set[str]]] = {
    "dataset": {".compositional-prompts/export.json"},
    "model": {"generation_config.json", "readable.json"},
}
"""Files by which a repository is known as an earlier export."""

_OWN: Final[dict[Kind, Sequence[str]]] = {
    "dataset": (
        *("data/*", "train/*", "validation/*", "test/*", "annotations/*", "captions.csv"),
        *("train-*.tar", "validation-*.tar", "test-*.tar", ".compositional-prompts/*"),
    ),
    "model": (
        *("adapter_config.json", "adapter_model.safetensors", "config.json", "grammar.json"),
        *("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    ),
}
"""What exports write and another one may lack: it is removed from the repository, or the rows of
two would be mixed."""


class PushError(RuntimeError):
    """The hub does not take an export; says why and what helps."""


@dataclass(frozen=True)
class Push:
    """Where an export goes.

    Attributes:
        repository: ``OWNER/NAME``.
        kind: of repository.
        revision: a branch, made if it is not there; None: the default one.
        message: of the commit; None: one that says what was pushed.
        public: whether everybody may see it; it is private by default.
    """

    repository: str
    kind: Kind
    revision: str | None = None
    message: str | None = None
    public: bool = False

    def check(self) -> None:
        """Ask the hub, before the work begins, whether it would take the export.

        Raises:
            PushError: there is no token, or none that counts; the hub is out of reach; the
                repository is public or holds something else.
            ValueError: ``repository`` cannot be the name of one.
        """
        try:
            validate_repo_id(self.repository)
        except HFValidationError as error:
            raise ValueError(f"--push {self.repository!r}: not OWNER/NAME: {error}") from error
        if self.repository.count("/") != 1:
            raise ValueError(f"--push {self.repository!r}: expected OWNER/NAME.")
        api = HfApi()
        with self._explained():
            if get_token() is None:
                raise LocalTokenNotFoundError
            api.whoami()
            try:
                found = api.repo_info(self.repository, repo_type=self.kind)
            except RepositoryNotFoundError:
                return
            files = set(self._files(api))
        if not found.private and not self.public:
            raise PushError(
                f"--push: {self.repository} is there and public: add --public if everybody may see "
                "this export, or name another repository."
            )
        if files - _HARMLESS and not _MARKS[self.kind] <= files:
            raise PushError(
                f"--push: {self.repository} holds something else ({sorted(files - _HARMLESS)[0]}, "
                f"no {sorted(_MARKS[self.kind])[0]}), and only earlier exports are replaced: name "
                "another repository."
            )

    def upload(self, folder: Path) -> str:
        """Push a folder that is whole, in the place of an earlier export.

        Files that an earlier export wrote and this one does not are removed. More than some 250
        files are pushed in several commits; cut short, the same call goes on.

        Returns:
            The address of the commit.

        Raises:
            PushError: the hub does not take it.
        """
        api = HfApi()
        with self._explained(folder):
            api.create_repo(
                self.repository, repo_type=self.kind, private=not self.public, exist_ok=True
            )
            if self.revision is not None:
                api.create_branch(
                    self.repository, branch=self.revision, repo_type=self.kind, exist_ok=True
                )
            commit = api.upload_folder(
                repo_id=self.repository,
                folder_path=folder,
                repo_type=self.kind,
                revision=self.revision,
                commit_message=self.message or f"Export {folder.resolve().name}",
                delete_patterns=list(_OWN[self.kind]),
            )
        return str(commit.commit_url)

    def _files(self, api: HfApi) -> Iterator[str]:
        try:
            yield from api.list_repo_files(
                self.repository, revision=self.revision, repo_type=self.kind
            )
        except RevisionNotFoundError:  # a branch that is made from the default one
            yield from api.list_repo_files(self.repository, repo_type=self.kind)

    @contextmanager
    def _explained(self, folder: Path | None = None) -> Iterator[None]:
        """Say in a sentence what is wrong with token, right, or connection."""
        try:
            yield
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            whole = ""
            if folder is not None:
                kind = "" if self.kind == "model" else f" --repo-type {self.kind}"
                whole = (
                    f" {folder} itself is whole: `hf upload {self.repository} {folder}{kind}` "
                    "pushes it too."
                )
            raise PushError(f"--push {self.repository}: {self._reason(error)}{whole}") from error

    def _reason(self, error: Exception) -> str:
        if isinstance(error, LocalTokenNotFoundError):
            return "there is no token of the hub: `hf auth login`, or set HF_TOKEN."
        if isinstance(error, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so that nothing can be pushed: unset it."
        if not isinstance(error, HfHubHTTPError):
            said = " ".join(str(error).split())[:200] or type(error).__name__
            if isinstance(error, ValueError):
                return f"the hub at {constants.ENDPOINT} refuses it ({said})."
            return f"the hub at {constants.ENDPOINT} is out of reach or broke off ({said})."
        status = error.response.status_code
        said = " ".join((error.server_message or "").split())[:200]
        said = f" ({said})" if said else ""
        if status == 401:
            return (
                f"the hub does not know the token, or it expired{said}: `hf auth login` again, or "
                "correct HF_TOKEN."
            )
        if status == 403:
            return (
                f"the token has no right to write there{said}: take one with the right to write to "
                f"{self.repository.partition('/')[0]}, or name a repository of your own."
            )
        return f"the hub at {constants.ENDPOINT} answers {status}{said}."
