"""The best pairs of an image as a row of ``original.parquet``."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from torch import Tensor

from compositional_prompts.prompt.pair import original_prompt
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS


class PromptNaming:
    """Turns scores into rows of ``original.parquet``."""

    def __init__(self, vocabulary: Vocabulary, top_k: int) -> None:
        self.top_k = min(top_k, len(vocabulary.pairs))
        self.attributes = pa.array([attribute for attribute, _ in vocabulary.pairs])
        self.objects = pa.array([name for _, name in vocabulary.pairs])
        self.prompts = pa.array([original_prompt(*pair) for pair in vocabulary.pairs])

    def rows(self, image_ids: list[str], scores: Tensor) -> pa.Table:
        """The best pairs of each image, most probable first.

        Args:
            image_ids: of the batch.
            scores: of all pairs of the vocabulary, ``[batch, pairs]``.
        """
        probabilities, columns = scores.float().softmax(dim=-1).topk(self.top_k, dim=-1)
        best = pa.array(columns[:, 0].cpu().numpy())
        every = pa.array(columns.reshape(-1).cpu().numpy())
        values = probabilities.cpu().numpy()
        offsets = pa.array(np.arange(len(image_ids) + 1, dtype=np.int32) * self.top_k)

        def lists(items: pa.Array) -> pa.Array:
            return pa.ListArray.from_arrays(offsets, items)

        return pa.table(
            [
                pa.array(image_ids, pa.string()),
                self.attributes.take(best),
                self.objects.take(best),
                self.prompts.take(best),
                pa.array(values[:, 0]),
                lists(self.attributes.take(every)),
                lists(self.objects.take(every)),
                lists(pa.array(values.reshape(-1))),
            ],
            schema=ORIGINAL_PROMPTS,
        )
