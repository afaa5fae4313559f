"""A checkpoint of the authors' in the place of what the stage ``troika_train`` would train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compositional_prompts.clip.open_clip_model import load_clip
from compositional_prompts.troika.authors.authors_checkpoint import (
    ReferenceCheckpointError,
    convert_reference,
)
from compositional_prompts.troika.model.model_folder import TrainedState, save_model
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.parameters import TroikaTrain
from compositional_prompts.troika.training.catalog_training import parameter_counts
from compositional_prompts.troika.training.score_choice import ScoreChoice


def import_reference(
    checkpoint: Path,
    pairs: Path,
    clip_directory: Path,
    model_directory: Path,
    params: TroikaTrain,
) -> dict[str, Any]:
    """Write the model directory out of a checkpoint, whose best and last epoch are the same.

    Args:
        checkpoint: a state dict that the authors' code has saved.
        pairs: ``pairs.parquet``.
        clip_directory: the CLIP that it was trained upon.
        model_directory: where to; replaced if it is there.
        params: ``troika_train``; how to train is not read.

    Returns:
        Metrics without any of training.

    Raises:
        Whatever :func:`~.authors_checkpoint.convert_reference` raises; nothing is written then.
    """
    vocabulary = Vocabulary.read(pairs)
    if vocabulary.objects_alone:
        raise ReferenceCheckpointError(
            f"{checkpoint} names pairs, and the labels of the data set are objects alone, without "
            "attributes: set troika_train.mode to train."
        )
    clip = load_clip(clip_directory, torch.device("cpu"))
    model = convert_reference(checkpoint, clip, vocabulary, params)
    tensors = {name: tensor.clone() for name, tensor in model.trained_state().items()}
    state = TrainedState(tensors, tensors, best_epoch=0, epochs=0)
    save_model(model_directory, vocabulary, clip, model.config, state)
    return {
        "mode": params.mode,
        "trained": True,
        "selection": "imported",
        "pairs": {"seen": len(vocabulary.seen_columns), "all": len(vocabulary.pairs)},
        "parameters": parameter_counts(clip, model),
        "score_weights": ScoreChoice(model.config.score_mix, "fixed").as_json(),
    }
