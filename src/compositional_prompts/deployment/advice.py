"""Which text to use of new photos, by what ``metrics/recommend.json`` says of the adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compositional_prompts.deployment.adapter_metrics import (
    LOCK,
    is_as_recorded,
    is_recorded,
    is_trained_last,
    metrics_tell_of,
)
from compositional_prompts.deployment.trained_paths import TrainedPaths
from compositional_prompts.files.outputs import DamagedOutputError
from compositional_prompts.scoring.recommended_texts import CAPTION, ENHANCED


@dataclass(frozen=True)
class Advice:
    """What validation showed.

    Attributes:
        recommended: ``caption`` or ``enhanced``.
        reason: why, in a sentence.
        warnings: what is wrong with the captions, each with what would help.
    """

    recommended: str
    reason: str
    warnings: Sequence[str]


NO_ADVICE = Advice(ENHANCED, "", ())
"""Where nothing is known, and nothing asked."""


def read_advice(adapter: Path, paths: TrainedPaths) -> Advice:
    """What is known of an adapter's captions.

    Where the metrics are not of this adapter nothing is known of its captions, and they were learnt
    from the enhanced prompts: these are recommended.

    Raises:
        DamagedOutputError: the metrics are not as ``recommend`` writes them.
    """
    path = paths.recommendation
    if not metrics_tell_of(adapter, paths, [path]):
        found, remedy = _lacking(adapter, paths)
        return Advice(
            ENHANCED,
            f"{found}, so nothing shows that its captions are as right as the enhanced prompts "
            f"that they were learnt from: {remedy}.",
            (),
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        advice = Advice(found["recommended"], str(found["reason"]), list(found["warnings"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedOutputError(
            f"{path} must be JSON with recommended, reason and warnings ({error!r}).", path
        ) from error
    if advice.recommended not in (CAPTION, ENHANCED):
        raise DamagedOutputError(
            f"{path}: recommended must be {CAPTION} or {ENHANCED}, found {advice.recommended!r}.",
            path,
        )
    return advice


def _lacking(adapter: Path, paths: TrainedPaths) -> tuple[str, str]:
    """Why nothing is known of an adapter's captions, and what helps."""
    path = paths.recommendation
    if is_trained_last(adapter, paths):
        if not path.is_file():
            pull = is_recorded(path)
            helps = "fetches it where it was shared" if pull else "judges them"
            return (
                f"{path} is missing, which judges {adapter}",
                f"`dvc {'pull' if pull else 'repro'} recommend` {helps}",
            )
        if is_recorded(path) and not is_as_recorded(path):
            return (
                f"{path} is not what {LOCK} names (edited, or damaged)",
                "`dvc checkout recommend` brings that back, or `dvc repro` judges them",
            )
    return f"{LOCK} does not say that {path} is of {adapter}", "dvc repro judges them"
