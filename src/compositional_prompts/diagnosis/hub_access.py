"""Whether what the parameters take from the hub is here or within reach."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from compositional_prompts.clip.clip_names import HUB_PREFIX
from compositional_prompts.diagnosis.finding import Finding, error, ok
from compositional_prompts.project.whole_params import Params

SECONDS = 5.0
"""How long the hub has to answer."""


class Repository(NamedTuple):
    """What a parameter takes from the hub; ``kind`` as huggingface_hub names it."""

    parameter: str
    name: str
    revision: str | None
    kind: str = "model"


def wanted_repositories(params: Params) -> list[Repository]:
    """The repositories that the parameters name; open_clip knows those of its own models."""
    found = []
    if repository := params.download.chosen.hub_repository():
        found.append(Repository(f"download.{params.download.dataset}", *repository, "dataset"))
    for name in ("clip", "troika_clip", "blip2"):
        source = getattr(params.weights, name)
        if source.source == "hub":
            model = source.name.removeprefix(HUB_PREFIX)
            if "/" in model:
                found.append(Repository(f"weights.{name}", model, source.revision))
            elif tagged := _open_clip_repository(source.name, source.pretrained):
                found.append(Repository(f"weights.{name}", tagged, source.revision))
    bert = params.score.bert_score
    if bert is not None and bert.source == "hub":
        found.append(Repository("score.bert_score", bert.name, bert.revision))
    return found


def _open_clip_repository(name: str, pretrained: str) -> str | None:
    try:
        from compositional_prompts.clip.lean_open_clip import open_clip
    except (ImportError, OSError):  # said of torch already
        return None
    tag = open_clip.get_pretrained_cfg(name, pretrained) or {}
    return str(tag.get("hf_hub", "")).rpartition("/")[0] or None


def examine_hub(params: Params) -> Iterator[Finding]:
    """One line a repository; none where the parameters ask for none."""
    for repository in dict.fromkeys(wanted_repositories(params)):
        if _is_cached(repository):
            yield ok(f"{repository.parameter}: {repository.name} is in the hub's cache")
        elif reason := _unreachable(repository):
            yield error(
                f"{repository.parameter}: {repository.name} is neither in the hub's cache nor "
                f"within reach ({reason}): connect, or fetch it with `hf download "
                f"{repository.name}` on another machine and bring its cache, or name a folder."
            )
        else:
            yield ok(f"{repository.parameter}: {repository.name} is within reach")


def _is_cached(repository: Repository) -> bool:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=repository.revision,
            local_files_only=True,
            allow_patterns=["*.json", "*.safetensors", "*.parquet"],
        )
    except (OSError, ValueError):  # not there, in parts, or no name of a repository
        return False
    return True


def _unreachable(repository: Repository) -> str | None:
    """Why the hub does not give a repository; it may not hang, whatever the network does."""
    from huggingface_hub import HfApi

    api = HfApi()
    return within(
        SECONDS,
        lambda: api.repo_info(
            repository.name,
            revision=repository.revision,
            repo_type=repository.kind,
            timeout=SECONDS,
        ),
    )


def within(seconds: float, ask: Callable[[], Any]) -> str | None:
    """Why ``ask`` fails, also where it does not answer in time; None where it answers."""
    failed: list[str] = ["no answer in time"]

    def run() -> None:
        try:
            ask()
            failed.clear()
        except Exception as raised:
            failed[:] = [" ".join(str(raised).split())[:200] or type(raised).__name__]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)  # a name server that does not answer heeds no timeout
    return failed[0] if failed else None
