"""Methods of choosing words, learnt anew from the tables that a finished run left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from compositional_prompts.clip.prompt_ensembles import embed_ensembles
from compositional_prompts.enhancement.fitting.labelled_images import (
    FittingPaths,
    LabelledImages,
    read_labelled,
)
from compositional_prompts.enhancement.fitting.word_fitting import (
    PromptEnsembles,
    fit_word_scorer,
)
from compositional_prompts.enhancement.parameters import Enhance, Method
from compositional_prompts.enhancement.word_scorer import WordScorer
from compositional_prompts.enhancement.word_vocabulary import Vocabulary, read_vocabulary

ROOT = Path(__file__).resolve().parents[2]
MOST = 1_000_000


@dataclass(frozen=True)
class WordMethods:
    """A group's words in a finished run, scored by the parameters that are shipped."""

    vocabulary: Vocabulary
    ensembles: PromptEnsembles
    paths: FittingPaths

    @classmethod
    def of_run(cls, run: Path, group: str) -> WordMethods:
        """The group of the project in the folder ``run``."""
        data = run / "data"
        words = read_vocabulary(data / "embeddings" / "words.parquet")
        vocabulary = Vocabulary({group: words.words[group]}, {group: words.vectors[group]})
        templates = shipped("cosine").templates
        ensembles = embed_ensembles(run / "models" / "clip", vocabulary.words, templates)
        paths = FittingPaths(
            *(data / "splits.parquet", data / "truth.parquet"),
            *(data / "embeddings" / "images", data / "colors"),
        )
        return cls(vocabulary, PromptEnsembles(*ensembles), paths)

    def labelled(self, split: str) -> LabelledImages:
        """Images of a caption split of which something is true."""
        words = self.vocabulary.words
        return read_labelled(self.paths, split, words, list(words), MOST)

    def fit(self, method: Method, train: LabelledImages) -> WordScorer:
        """The scorer that learnt from ``train`` alone, calibrated by nothing."""
        nothing = train.take(np.empty(0, np.int64))
        params = shipped(method)
        return fit_word_scorer(self.vocabulary, self.ensembles, train, nothing, params).scorer


def shipped(method: Method) -> Enhance:
    """The section ``enhance`` of ``params.yaml``, with one method for all groups."""
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["enhance"]
    return Enhance.model_validate(section | {"method": method, "methods": [], "abstain": None})
