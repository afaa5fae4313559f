"""Which unseen pairs are feasible: candidates of the open world.

An unseen pair is as feasible as its object resembles objects seen with its attribute, and its
attribute resembles attributes seen with its object. Pairs below a threshold, chosen on validation
images, are no candidates.

Source: Mancini et al., "Open World Compositional Zero-Shot Learning" (CompCos), CVPR 2021, section
3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compositional_prompts.clip.embedding import embed_texts
from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.prompt.pair import spoken_prompt
from compositional_prompts.troika.evaluation.glove import label_vectors
from compositional_prompts.troika.evaluation.judging import World
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.parameters import Feasibility

TEXT_BATCH = 256
"""Prompts encoded at once."""

LEAST_FEASIBLE = -1.0
"""Feasibility of a pair none of whose primitives was seen: the lowest cosine."""

BLOCK_ELEMENTS = 2**22
"""Similarities in memory at once, 8 bytes each."""


def word_vectors(params: Feasibility, clip: Clip, names: Sequence[str]) -> Tensor:
    """Unit vectors of attribute or object names whose dot products are their similarities.

    By CLIP: the text features of ``a photo of {name}``, as the authors'. By a GloVe file: the
    words of a name (lower case; dots, hyphens and underscores as spaces), averaged.

    Args:
        params: ``vectors`` and ``glove`` of ``troika_predict.feasibility``.
        clip: its text encoder is used with ``vectors: clip`` only.
        names: at least one.

    Returns:
        float64 ``[names, d]`` on the CPU.

    Raises:
        FileNotFoundError: there is no such GloVe file.
        ValueError: it cannot be read, lacks words (all are named), or a vector has no direction.
    """
    if params.vectors == "clip":
        prompts = [spoken_prompt(name) for name in names]
        vectors, source = embed_texts(clip, prompts, TEXT_BATCH).double(), "The CLIP text encoder"
    else:
        assert params.glove is not None  # the parameters' own check
        vectors = torch.from_numpy(label_vectors(Path(params.glove), names))
        source = params.glove
    lengths = vectors.norm(dim=1)
    without = ~((lengths > 0) & lengths.isfinite())
    if bool(without.any()):
        name = names[int(without.nonzero()[0])]
        raise ValueError(f"{source} gives {name!r} a vector without direction: it resembles none.")
    return F.normalize(vectors, dim=1)


def pair_feasibility(attribute_vectors: Tensor, object_vectors: Tensor, seen: Tensor) -> Tensor:
    """Feasibility of every combination.

    That of an unseen (a, o) is the mean of two similarities: the highest of *o* to another object
    seen with *a*, and the highest of *a* to another attribute seen with *o*. Where there is no
    such object or attribute, or none with a higher cosine, the similarity is -1.

    Args:
        attribute_vectors: of unit length, float64 ``[attributes, d]``.
        object_vectors: of unit length, float64 ``[objects, d]``.
        seen: whether the pair has training images, bool ``[attributes, objects]``.

    Returns:
        float64 ``[attributes, objects]``, between -1 and 1; 1 for seen pairs.
    """
    by_object = _nearest_seen(object_vectors, seen)
    by_attribute = _nearest_seen(attribute_vectors, seen.T).T
    return ((by_object + by_attribute) / 2).clamp(-1, 1).masked_fill(seen, 1.0)


def _nearest_seen(vectors: Tensor, seen: Tensor) -> Tensor:
    """Highest similarity of each name to another one that was seen with the partner.

    Args:
        vectors: of the names, float64 ``[names, d]``.
        seen: bool ``[partners, names]``.

    Returns:
        float64 ``[partners, names]``.
    """
    similarities = vectors @ vectors.T
    similarities.fill_diagonal_(LEAST_FEASIBLE)
    partners, names = seen.nonzero(as_tuple=True)
    nearest = vectors.new_full(seen.shape, LEAST_FEASIBLE)
    rows = max(1, BLOCK_ELEMENTS // len(vectors))
    for block_partners, block_names in zip(partners.split(rows), names.split(rows), strict=True):
        index = block_partners[:, None].expand(-1, len(vectors))
        nearest.scatter_reduce_(0, index, similarities[block_names], "amax")
    return nearest


@dataclass(frozen=True)
class OpenWorld:
    """Every combination of an attribute and an object, ordered so that thresholds are prefixes.

    Seen pairs come first, then the unseen ones, those that pass the highest threshold before those
    that pass the next; within, pairs are ordered by attribute, then object. Thresholds fall and
    cuts rise: ``cuts[k]`` columns are candidates at ``thresholds[k]``, and the last threshold
    leaves all pairs in.

    Attributes:
        pair_indices: attribute and object position of every column, int64 ``[columns, 2]``.
        world: the same as candidates.
        columns: column of every combination, int64 ``[attributes, objects]``.
        feasibility: of every column, float64 ``[columns]``; 1 for seen pairs.
        thresholds: evenly from the highest feasibility of an unseen pair to the lowest, float64
            ``[thresholds]``; the one threshold -1 if no pair is unseen.
        cuts: columns that are candidates at each threshold, ascending.
        seen_factors: with ``masking: multiply`` what the scores of seen pairs are multiplied by at
            each threshold, for :func:`judgements_of`; None with ``exclude``.
    """

    pair_indices: Tensor
    world: World
    columns: Tensor
    feasibility: Tensor
    thresholds: Tensor
    cuts: list[int]
    seen_factors: list[float] | None

    @classmethod
    def of(cls, vocabulary: Vocabulary, params: Feasibility, clip: Clip) -> OpenWorld:
        """The open world of a vocabulary.

        Args:
            vocabulary: its attributes, objects and seen pairs.
            params: ``troika_predict.feasibility``.
            clip: for ``vectors: clip``.

        Raises:
            FileNotFoundError, ValueError: as :func:`word_vectors`.
        """
        seen = torch.zeros(len(vocabulary.attributes), len(vocabulary.objects), dtype=torch.bool)
        seen_pairs = torch.from_numpy(vocabulary.pair_indices[vocabulary.seen_columns])
        seen[seen_pairs[:, 0], seen_pairs[:, 1]] = True
        names = [*vocabulary.attributes, *vocabulary.objects]
        vectors = word_vectors(params, clip, names)  # a GloVe file is read once for both
        attributes, objects = vectors.split([len(vocabulary.attributes), len(vocabulary.objects)])
        return cls.ordered(pair_feasibility(attributes, objects, seen), seen, params)

    @classmethod
    def ordered(cls, feasibility: Tensor, seen: Tensor, params: Feasibility) -> OpenWorld:
        """The open world of known feasibilities.

        Args:
            feasibility: float64 ``[attributes, objects]``; that of seen pairs is not looked at.
            seen: bool ``[attributes, objects]``.
            params: ``thresholds``, how many, and ``masking``.
        """
        flat, flat_seen = feasibility.flatten().numpy(), seen.flatten().numpy()
        unseen = flat[~flat_seen]
        if len(unseen):
            rising = np.linspace(unseen.min(), unseen.max(), params.thresholds)
            falling = np.minimum(rising, unseen.max())[::-1].copy()
        else:
            falling = np.array([LEAST_FEASIBLE])
        passed = np.searchsorted(-falling, -flat)  # the first threshold that lets the pair in
        order = np.lexsort((np.where(flat_seen, -1, passed),))
        cuts = flat_seen.sum() + np.bincount(passed[~flat_seen], minlength=len(falling)).cumsum()
        columns = np.empty(len(order), dtype=np.int64)
        columns[order] = np.arange(len(order))
        pair_indices = torch.from_numpy(np.stack(np.divmod(order, seen.shape[1]), axis=1))
        # The authors' feasibility of seen pairs is 0, which they add their 1 to if it passes.
        factors = np.where(falling <= 0, 2.0, 1.0).tolist()
        return cls(
            pair_indices=pair_indices,
            world=World.of(pair_indices, seen.flatten()[torch.from_numpy(order)]),
            columns=torch.from_numpy(columns).view(seen.shape),
            feasibility=torch.from_numpy(np.where(flat_seen, 1.0, flat)[order]),
            thresholds=torch.from_numpy(falling),
            cuts=cuts.tolist(),
            seen_factors=factors if params.masking == "multiply" else None,
        )
