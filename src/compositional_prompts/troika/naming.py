"""The best pairs of an image, as a row that is computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.clip.clip_digest import CLIP_LIBRARIES, tower_libraries, whole_digest
from compositional_prompts.clip.open_clip_model import Clip, load_clip
from compositional_prompts.compute.rows.computation import Computation, Worker
from compositional_prompts.files.digests import folder_digest
from compositional_prompts.troika.model.model_folder import BEST_FILE, load_model, read_config
from compositional_prompts.troika.model.network import Troika
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.pair_scoring import MIB, Scorer, TroikaScorer
from compositional_prompts.troika.zero_shot import ZeroShot


def named_dtype(pairs: int) -> np.dtype[Any]:
    """Of the rows of :func:`best_pairs` with so many pairs each."""
    return np.dtype([("positions", np.int32, (pairs,)), ("probabilities", np.float32, (pairs,))])


def best_pairs(scores: Tensor, top_k: int) -> NDArray[Any]:
    """The best pairs of each image, most probable first; of equal scores the first pair.

    Args:
        scores: of all pairs, ``[images, pairs]``.
        top_k: how many; all of fewer pairs.

    Returns:
        Structured ``[images]``: ``positions`` among the pairs, int32, and ``probabilities``, the
        softmax of the scores over all pairs, float32.

    Raises:
        ValueError: a score is no number.
    """
    scores = scores.float()
    if not bool(scores.isfinite().all()):
        raise ValueError("Scores of images are not numbers (NaN or infinity): the model diverged.")
    # By score: probabilities that are too small to be told apart have an order there.
    positions = scores.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    probabilities = scores.softmax(dim=1).gather(1, positions)
    rows = np.empty(len(scores), named_dtype(positions.shape[1]))
    rows["positions"] = positions.cpu().numpy()
    rows["probabilities"] = probabilities.cpu().numpy()
    return rows


@dataclass(frozen=True)
class LoadedModels:
    """What scores pairs.

    Attributes:
        clip: the frozen CLIP.
        troika: the model trained upon it; None where nothing was trained, and pairs are named by
            zero-shot CLIP.
    """

    clip: Clip
    troika: Troika | None


@dataclass(frozen=True, kw_only=True)
class PairNames(Computation):
    """Rows as :func:`best_pairs` makes them, of an encoded photo.

    Attributes:
        clip: the folder of the CLIP that Troika was trained upon.
        model: what training wrote; untrained, pairs are named by zero-shot CLIP.
        vocabulary: the pairs, all of them candidates.
        top_k: pairs to keep.
        device: the type of a torch device.
        batch_size: photos at once.
        block_mib: memory of a block of photos x pairs.
    """

    name: ClassVar[str] = "troika_naming"
    libraries: ClassVar[Sequence[str]] = CLIP_LIBRARIES

    clip: Path
    model: Path
    vocabulary: Vocabulary
    top_k: int
    device: str
    batch_size: int
    block_mib: int

    def further_libraries(self) -> Sequence[str]:
        return tower_libraries(self.clip)

    def settings(self) -> Mapping[str, Any]:
        """
        Raises:
            MissingOutputError: a file of a model is not there.
            CheckpointError: the layout of Troika's folder is another one.
        """
        return {
            "clip": whole_digest(self.clip),
            "model": _content(self.model),
            "pairs": self.vocabulary.pairs,
            "top_k": self.kept,
            "device": self.device,
            "block_mib": self.block_mib,
        }

    @property
    def kept(self) -> int:
        """Pairs of a row."""
        return min(self.top_k, len(self.vocabulary.pairs))

    def load(self) -> LoadedModels:
        """The models.

        Raises:
            CheckpointError: the model was trained with another vocabulary or CLIP.
        """
        clip = load_clip(self.clip, torch.device(self.device))
        return LoadedModels(clip, load_model(self.model, self.vocabulary, clip))

    def start(self) -> Worker:
        models = self.load()
        candidates = torch.from_numpy(self.vocabulary.pair_indices)
        scorer = naming_scorer(models, self.vocabulary, candidates, self.block_mib)
        return _NamingWorker(models.clip, scorer, self)


class _NamingWorker:
    def __init__(self, clip: Clip, scorer: Scorer, computation: PairNames) -> None:
        self._clip = clip
        self._scorer = scorer
        self._device = torch.device(computation.device)
        self._kept = computation.kept

    def prepare(self, value: bytes) -> Tensor:
        return self._clip.preprocess(decode_rgb(value))

    def compute(self, prepared: Sequence[Tensor]) -> NDArray[Any]:
        pixels = torch.stack(list(prepared)).to(self._device)
        return best_pairs(self._scorer(pixels).scores(), self._kept)


def naming_scorer(
    models: LoadedModels, vocabulary: Vocabulary, candidates: Tensor, block_mib: int
) -> Scorer:
    """What names images: Troika, or zero-shot CLIP where Troika was not trained.

    Args:
        models: loaded.
        vocabulary: names of attributes and objects.
        candidates: their positions in every pair to be scored, int64 ``[pairs, 2]``.
        block_mib: memory of a block of images x pairs.
    """

    def zero_shot() -> ZeroShot:
        return ZeroShot(models.clip, vocabulary, candidates, block_mib * MIB)

    if models.troika is None:
        return zero_shot()
    blended = zero_shot() if models.troika.config.zero_shot_score_weight else None
    return TroikaScorer(models.troika, candidates, block_mib * MIB, blended)


def _content(model: Path) -> dict[str, Any]:
    """What of a model's folder decides a score, beside its vocabulary and its CLIP."""
    document = read_config(model)
    if not document["trained"]:
        return {"trained": False}
    return {"config": document["config"], "weights": folder_digest(model / BEST_FILE)}
