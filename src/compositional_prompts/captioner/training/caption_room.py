"""Whether captions fit beside the image, before a model learns to write them."""

from __future__ import annotations

from typing import Any

from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.compute.training.training_run import TrainingError


def require_room(captioner: Captioner, longest: int, params: Finetune) -> None:
    """Raise :class:`TrainingError` where the language model has too few positions.

    Args:
        captioner: the model; a T5 has as many positions as are wanted.
        longest: tokens of the longest caption that is learnt, its begin and end included.
        params: with ``caption_every``, captions of up to ``max_tokens`` are written on the way.
    """
    config: Any = captioner.model.config
    positions = getattr(config.text_config, "max_position_embeddings", None)
    if positions is None or not config.use_decoder_only_language_model:
        return
    room = positions - config.num_query_tokens
    if longest > room:
        raise TrainingError(
            f"The longest caption has {longest} tokens, and the language model has room for "
            f"{room} beside the image: shorten the vocabulary or the titles, or take a larger "
            "model (weights.blip2)."
        )
    if params.caption_every is not None and params.max_tokens > room:
        raise TrainingError(
            f"finetune.max_tokens is {params.max_tokens}, and the language model has room for "
            f"{room} beside the image: lower it to {room} (the longest caption has {longest}), or "
            "set finetune.caption_every to null."
        )
