"""Which text to use of new photos, by what ``metrics/recommend.json`` says of the adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compositional_prompts.deployment.adapter_metrics import LOCK, metrics_tell_of
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
        return Advice(
            ENHANCED,
            f"{LOCK} does not say that {path} is of {adapter}, so nothing shows that its captions "
            "are as right as the enhanced prompts that they were learnt from: dvc repro judges "
            "them.",
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
