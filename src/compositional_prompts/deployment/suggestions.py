"""What Troika and CLIP say of a batch of photos, as the pipeline's stages say it of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from compositional_prompts.clip.embedding import embed_images
from compositional_prompts.clip.open_clip_model import load_clip
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.enhancement.colors.color_tables import colors_of_rows
from compositional_prompts.enhancement.colors.foreground_colors import ColorWorker, row_type
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.word_scorer import WordScorer, load_word_scorer
from compositional_prompts.files.outputs import MismatchedOutputsError
from compositional_prompts.prompt.pair import NO_ATTRIBUTE, objects_alone
from compositional_prompts.prompt.template import PromptTemplate
from compositional_prompts.troika.model.model_folder import load_model, vocabulary_to_name
from compositional_prompts.troika.naming import LoadedModels, best_pairs, naming_scorer

Scores = Mapping[str, NDArray[np.float32]]
"""By attribute group, scores of photos and words, float32 ``[photos, words]``."""


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
        """``attribute``, ``object`` and ``probability`` of photos ``[n, 3, size, size]``.

        The attribute is None where photos are named by objects alone.
        """
        rows = best_pairs(self._score(pixel_values.to(self._device)).scores(), 1)
        pairs = [self._pairs[position] for position in rows["positions"][:, 0].tolist()]
        return [
            {"attribute": attribute or None, "object": name, "probability": probability}
            for (attribute, name), probability in zip(
                pairs, rows["probabilities"][:, 0].tolist(), strict=True
            )
        ]


class PhotoWords:
    """Scores of a photo and every word of the attribute groups, by CLIP and the word scorer."""

    def __init__(
        self, clip_directory: Path, scorer_directory: Path, params: ClipEmbed, device: torch.device
    ) -> None:
        """Load the CLIP, and how words are scored.

        Args:
            clip_directory: the CLIP.
            scorer_directory: what the stage ``word_scorer`` wrote.
            params: the section ``clip_embed``, whose words it is held against.
            device: where to compute.

        Raises:
            FileNotFoundError: a file is not there.
            MismatchedOutputsError: the scorer was made for other words.
        """
        self.scorer = load_word_scorer(scorer_directory)
        if {group: list(words) for group, words in self.scorer.words.items()} != params.vocabulary:
            raise MismatchedOutputsError(
                f"{scorer_directory} was made for other words than clip_embed.attributes has now.",
                scorer_directory,
            )
        self._clip = load_clip(clip_directory, device)
        self._colors = ColorWorker(self.scorer.palettes)

    def preparations(self) -> dict[str, Callable[[Image.Image], Tensor]]:
        """By name, what makes of an RGB image what :meth:`scores` takes.

        ``words``: pixel_values, float32 ``[3, size, size]``; and where words are scored by colours
        ``colors``, a row of :class:`ForegroundColors` as uint8 ``[bytes]``.
        """
        found: dict[str, Callable[[Image.Image], Tensor]] = {"words": self._clip.preprocess}
        return found | ({"colors": self._colors_of} if self.scorer.needs_colors else {})

    def _colors_of(self, image: Image.Image) -> Tensor:
        row = self._colors.compute([self._colors.look_at(image)])
        return torch.from_numpy(row.view(np.uint8))

    def scores(self, prepared: Mapping[str, Tensor]) -> Scores:
        """Scores of photos, of which :meth:`preparations` are stacked."""
        vectors = embed_images(self._clip, prepared["words"]).numpy()
        if not self.scorer.needs_colors:
            return self.scorer.scores(vectors)
        rows = prepared["colors"].numpy().view(row_type(self.scorer.palettes))[:, 0]
        colors = colors_of_rows(rows, self.scorer.words, self.scorer.palettes)
        return self.scorer.scores(vectors, colors)


def enhanced_prompts(
    pairs: Sequence[Mapping[str, Any]],
    scores: Scores,
    scorer: WordScorer,
    params: Enhance,
) -> list[dict[str, Any]]:
    """The enhanced prompt of every photo and what it is made of, as stage ``enhance`` makes it.

    Args:
        pairs: of each photo, as :class:`PairNamer` gives them.
        scores: of the same photos.
        scorer: that gave them.
        params: the section ``enhance``.

    Returns:
        ``prompt``, ``attribute``, ``object``, ``probability``, and ``words``: of each group the
        word, or None where it is not to be written.

    Raises:
        PromptError: a word of the vocabulary cannot be read back from a prompt.
    """
    alone = bool(pairs) and objects_alone(pair["attribute"] for pair in pairs)
    template = PromptTemplate(tuple(scorer.words), params.fallback, objects_alone=alone)
    template.check_words(scorer.words)
    choices = {
        group: one.choose(scores[group], params.threshold) for group, one in scorer.groups.items()
    }
    rows = []
    for row, pair in enumerate(pairs):
        chosen = {
            group: choice.words[choice.best[row]] if choice.chosen[row] else None
            for group, choice in choices.items()
        }
        prompt = template.format(pair["attribute"] or NO_ATTRIBUTE, pair["object"], chosen)
        rows.append({"prompt": prompt, **pair, "words": chosen})
    return rows
