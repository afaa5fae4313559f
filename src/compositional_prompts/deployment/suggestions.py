"""What Troika and CLIP say of a batch of photos, as the pipeline's stages say it of the catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from compositional_prompts.clip.embedding import embed_images, embed_texts
from compositional_prompts.clip.open_clip_model import load_clip
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.word_choice import choose
from compositional_prompts.prompt.template import PromptTemplate
from compositional_prompts.troika.model.model_folder import load_model, vocabulary_to_name
from compositional_prompts.troika.naming import LoadedModels, best_pairs, naming_scorer

Scores = Mapping[str, NDArray[np.float32]]
"""By attribute group, cosines of photos and words, float32 ``[photos, words]``."""


class PairNamer:
    """The pair of a photo: Troika's, or zero-shot CLIP's where Troika was not trained."""

    def __init__(
        self,
        clip_directory: Path,
        model_directory: Path,
        pairs: Path,
        device: torch.device,
        block_mib: int,
    ) -> None:
        """Load the models.

        Args:
            clip_directory: the CLIP that Troika was trained upon.
            model_directory: what training wrote.
            pairs: ``pairs.parquet``, the candidates.
            device: where to compute.
            block_mib: memory of a block of photos x pairs, as ``troika_predict.block_mib``.

        Raises:
            FileNotFoundError: a file is not there.
            CheckpointError: the model was trained with another vocabulary or CLIP.
        """
        vocabulary = vocabulary_to_name(model_directory, pairs)
        self._clip = load_clip(clip_directory, device)
        self._device = device
        model = load_model(model_directory, vocabulary, self._clip)
        candidates = torch.from_numpy(vocabulary.pair_indices)
        models = LoadedModels(self._clip, model)
        self._score = naming_scorer(models, vocabulary, candidates, block_mib)
        self._pairs = vocabulary.pairs

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixel_values, float32 ``[3, size, size]``."""
        return self._clip.preprocess(image)

    def __call__(self, pixel_values: Tensor) -> list[dict[str, Any]]:
        """``attribute``, ``object`` and ``probability`` of photos ``[n, 3, size, size]``."""
        rows = best_pairs(self._score(pixel_values.to(self._device)).scores(), 1)
        pairs = [self._pairs[position] for position in rows["positions"][:, 0].tolist()]
        return [
            {"attribute": attribute, "object": name, "probability": probability}
            for (attribute, name), probability in zip(
                pairs, rows["probabilities"][:, 0].tolist(), strict=True
            )
        ]


class WordScorer:
    """Cosines of a photo and every word of the attribute groups, by CLIP."""

    def __init__(self, clip_directory: Path, params: ClipEmbed, device: torch.device) -> None:
        """Load the CLIP and embed the words as stage ``clip_embed`` does.

        Raises:
            FileNotFoundError: a file is not there.
        """
        self.words = {group: tuple(words) for group, words in params.vocabulary.items()}
        self._clip = load_clip(clip_directory, device)
        texts = [
            params.template.replace("{}", word) for words in self.words.values() for word in words
        ]
        self._vectors = embed_texts(self._clip, texts, batch_size=len(texts)).numpy()

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixel_values, float32 ``[3, size, size]``."""
        return self._clip.preprocess(image)

    def __call__(self, pixel_values: Tensor) -> Scores:
        """Cosines of photos ``[n, 3, size, size]``."""
        cosines = embed_images(self._clip, pixel_values).numpy() @ self._vectors.T
        ends = np.cumsum([len(words) for words in self.words.values()])
        return dict(zip(self.words, np.split(cosines, ends[:-1], axis=1), strict=True))


def enhanced_prompts(
    pairs: Sequence[Mapping[str, Any]],
    scores: Scores,
    words: Mapping[str, Sequence[str]],
    params: Enhance,
) -> list[dict[str, Any]]:
    """The enhanced prompt of every photo and what it is made of, as stage ``enhance`` makes it.

    Args:
        pairs: of each photo, as :class:`PairNamer` gives them.
        scores: of the same photos.
        words: by group, as the columns of ``scores``.
        params: the section ``enhance``.

    Returns:
        ``prompt``, ``attribute``, ``object``, ``probability``, and ``words``: of each group the
        word, or None below the threshold.

    Raises:
        PromptError: a word of the vocabulary cannot be read back from a prompt.
    """
    template = PromptTemplate(tuple(words), params.fallback)
    template.check_words(words)
    choices = {
        group: choose(scores[group], vocabulary, params.threshold)
        for group, vocabulary in words.items()
    }
    rows = []
    for row, pair in enumerate(pairs):
        chosen = {
            group: choice.words[choice.best[row]] if choice.chosen[row] else None
            for group, choice in choices.items()
        }
        prompt = template.format(pair["attribute"], pair["object"], chosen)
        rows.append({"prompt": prompt, **pair, "words": chosen})
    return rows
