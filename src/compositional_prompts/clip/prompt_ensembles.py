"""Words in several sentences each, as CLIP names things without having learnt them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from compositional_prompts.clip.embedding import embed_texts
from compositional_prompts.clip.open_clip_model import load_clip

TEXTS_AT_ONCE = 256


def embed_ensembles(
    directory: Path, vocabulary: Mapping[str, Sequence[str]], templates: Sequence[str]
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """The mean vector of every word over several templates, and the model's logit scale.

    As Radford et al. (2021), section 3.1.4: each text's vector has unit length before the mean is
    taken, and the mean is brought to unit length again.

    Args:
        directory: of the CLIP.
        vocabulary: words by group, at least one.
        templates: each holds ``{}`` where the word goes.

    Returns:
        By group, L2-normalised float32 ``[words, d]``; and what CLIP was trained to multiply
        cosines by, before the softmax.

    Raises:
        MissingOutputError: the model is not there.
    """
    clip = load_clip(directory, torch.device("cpu"))
    texts = [
        template.replace("{}", word)
        for words in vocabulary.values()
        for word in words
        for template in templates
    ]
    vectors = embed_texts(clip, texts, TEXTS_AT_ONCE).numpy()
    means = vectors.reshape(-1, len(templates), vectors.shape[1]).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    ends = np.cumsum([len(words) for words in vocabulary.values()])
    parts = np.split(means, ends[:-1])
    return dict(zip(vocabulary, parts, strict=True)), float(clip.model.logit_scale.exp())
