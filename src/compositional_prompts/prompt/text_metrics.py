"""BLEU and ROUGE of a caption against one reference, in 0..1; defined in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

TEXT_METRICS = ("bleu", "rouge1", "rouge2", "rougeL")
_ROUGE = ("rouge1", "rouge2", "rougeL")


def sentence_bleu(
    captions: Sequence[str], references: Sequence[str], bleu_tokenize: Literal["none", "13a"]
) -> NDArray[np.float64]:
    """BLEU of every caption, as :func:`score_texts` has it: float64 ``[n]`` in 0..1.

    Raises:
        ValueError: there are more captions than references, or fewer.
    """
    pairs = list(zip(captions, references, strict=True))
    bleu = BLEU(tokenize=bleu_tokenize, smooth_method="none", effective_order=True)
    scores = {
        # sacrebleu's product of logarithms can end a hair above 100.
        pair: min(bleu.sentence_score(pair[0], [pair[1]]).score / 100, 1.0)
        for pair in dict.fromkeys(pairs)
    }
    return np.array([scores[pair] for pair in pairs], dtype=np.float64)


def score_texts(
    captions: Sequence[str], references: Sequence[str], bleu_tokenize: Literal["none", "13a"]
) -> dict[str, NDArray[np.float64]]:
    """Score every caption against the reference of the same position.

    BLEU is sentence BLEU (Papineni et al. 2002) without smoothing, over the orders from 1 to 4
    that the caption is long enough for. ROUGE (Lin 2004) is the F1 of precision and recall, without
    stemming. A caption or reference without any token scores 0. Each distinct pair is scored once.

    Args:
        captions: ``n`` captions.
        references: as many references.
        bleu_tokenize: BLEU's tokens: split on white space (``none``), or as mteval-v13a does.

    Returns:
        float64 ``[n]`` in 0..1 for each of ``TEXT_METRICS``.

    Raises:
        ValueError: there are more captions than references, or fewer.
    """
    # Here, since it imports NLTK, which takes as long as all else: fine-tuning has BLEU alone.
    from rouge_score.rouge_scorer import RougeScorer

    pairs = list(zip(captions, references, strict=True))
    rows = {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
    rouge = RougeScorer(_ROUGE)
    distinct = np.zeros((len(rows), len(_ROUGE)))
    for (caption, reference), row in rows.items():
        scores = rouge.score(target=reference, prediction=caption)
        distinct[row] = [scores[name].fmeasure for name in _ROUGE]
    values = distinct[[rows[pair] for pair in pairs]]
    bleu = sentence_bleu(captions, references, bleu_tokenize)
    return {"bleu": bleu} | {name: values[:, place] for place, name in enumerate(_ROUGE)}
