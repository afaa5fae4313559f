"""How probable words are, from the scores that ``enhance`` keeps of all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.enhancement.word_scorer import GroupScorer, log_softmax


def word_probabilities(scorer: GroupScorer, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of every word, float32 ``[n, words]``: calibrated ones where there are any.

    Else the scores are taken for what they are: logarithms of probabilities, or cosines, of which
    the softmax is taken at CLIP's temperature of 0.01 (Radford et al., 2021, section 2.5).
    """
    calibrated = scorer.probabilities(scores)
    if calibrated is not None:
        return calibrated
    scale = np.float32(100 if scorer.method == "cosine" else 1)
    return np.exp(log_softmax(scores * scale))
