"""A kept model in the place of what the stage ``troika_train`` would train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compositional_prompts.clip.open_clip_model import load_clip
from compositional_prompts.results.kept_models import (
    copy_model,
    kept_metrics,
    kept_model,
)
from compositional_prompts.troika.model.model_folder import load_model, vocabulary_to_name
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.parameters import TroikaTrain


def keep_troika(
    source: Path, pairs: Path, clip_directory: Path, model_directory: Path, params: TroikaTrain
) -> dict[str, Any]:
    """Write the kept model as the stage's output, once it is known to fit.

    Args:
        source: the folder of the kept Troika.
        pairs: ``pairs.parquet`` of the catalogue as it is now.
        clip_directory: the frozen CLIP.
        model_directory: where to; replaced if it is there.
        params: ``troika_train``, which asks for it.

    Returns:
        Metrics: its origin, and how many pairs are listed now whose words it does not know.

    Raises:
        KeptModelError: there is no kept model.
        CheckpointError: it was trained on another CLIP, or is damaged.
    """
    folder, origin = kept_model(source, params.section)
    vocabulary = vocabulary_to_name(folder, pairs)
    model = load_model(folder, vocabulary, load_clip(clip_directory, torch.device("cpu")))
    copy_model(folder, model_directory)
    named = set(vocabulary.pairs)
    return {
        "trained": model is not None,
        **kept_metrics(origin),
        "pairs": {
            "seen": len(vocabulary.seen_columns),
            "all": len(named),
            "unknown": sum(pair not in named for pair in Vocabulary.read(pairs).pairs),
        },
    }
