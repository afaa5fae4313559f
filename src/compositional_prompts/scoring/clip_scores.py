"""What CLIP makes of a caption: how near to the reference, and which of them fits the image."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.catalog.image_join import ImageJoin
from compositional_prompts.clip.embedding import embed_texts
from compositional_prompts.clip.open_clip_model import Clip

DEPICTING = "A photo depicts "
"""What CLIPScore sets before every text, references too (Hessel et al., EMNLP 2021)."""
CLIP_SCORE_SCALE = 2.5
"""The ``w`` of CLIPScore, which spreads the cosines of CLIP ViT-B/32 over about 0..1."""
TIE = 1e-6
"""Cosines that differ by no more than this are equal: float32 vectors say no more."""
PREFERENCES = ("caption", "enhanced", "tie")
"""Which text the image is nearer to. The report calls the first "correct" and the second "wrong";
but CLIP chose the words of the enhanced prompt, and neither text is true by being preferred."""

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class TextVectors:
    """CLIP vectors of distinct texts.

    Attributes:
        rows: the row of each text.
        vectors: L2-normalised float32 ``[texts, dimension]``.
        full: which texts fill the context that CLIP reads, and may be cut; bool ``[texts]``.
    """

    rows: Mapping[str, int]
    vectors: NDArray[np.float32]
    full: NDArray[np.bool_]

    def of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of ``texts``, float32 ``[n, dimension]``."""
        return self.vectors[[self.rows[text] for text in texts]]


def embed_distinct(clip: Clip, texts: Iterable[str], batch_size: int) -> TextVectors:
    """Embed each distinct text once; texts longer than CLIP's context are cut to it."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    vectors = embed_texts(clip, list(rows), batch_size).numpy()
    return TextVectors(rows, vectors, _fills_context(clip, list(rows), batch_size))


def _fills_context(clip: Clip, texts: Sequence[str], batch_size: int) -> NDArray[np.bool_]:
    """Which texts have at least as many tokens as CLIP reads; bool ``[texts]``."""
    padding = clip.tokenizer([""])[0, -1]
    last = [
        clip.tokenizer(list(texts[start : start + batch_size]))[:, -1] != padding
        for start in range(0, len(texts), batch_size)
    ]
    return np.concatenate([np.zeros(0, np.bool_), *(one.numpy() for one in last)])


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each row of ``a`` with the same row of ``b``.

    Args:
        a: L2-normalised float32 ``[n, dimension]``.
        b: the same.

    Returns:
        float64 ``[n]`` in -1..1; equal vectors give 1 but for the rounding of their length.
    """
    products: NDArray[np.float64] = np.einsum("nd,nd->n", a, b, dtype=np.float64)
    return np.clip(products, -1, 1)


def image_text_cosines(
    images: ImageJoin,
    texts: Mapping[Name, Sequence[str]],
    text_vectors: TextVectors,
    batches: Iterable[tuple[pa.StringArray, NDArray[np.float32]]],
) -> dict[Name, NDArray[np.float64]]:
    """Cosines of images and texts, one batch of image vectors in memory at a time.

    Args:
        images: which, in the vectors.
        texts: by name, one text an image, in the order of ``images``.
        text_vectors: vectors of all these texts.
        batches: image_id ``[b]`` and L2-normalised vectors, float32 ``[b, dimension]``, in any
            order and of any images.

    Returns:
        By name, float64 ``[images]``.

    Raises:
        ImageJoinError: an image has no vector, or two.
        ValueError: image and text vectors differ in width.
    """
    result = {name: np.full(len(images.found), np.nan) for name in texts}
    rows = {
        name: np.array([text_vectors.rows[text] for text in column], dtype=np.int64)
        for name, column in texts.items()
    }
    for batch_ids, batch in batches:
        if batch.shape[1] != text_vectors.vectors.shape[1]:
            raise ValueError(
                f"the image vectors have {batch.shape[1]} numbers and the text vectors "
                f"{text_vectors.vectors.shape[1]}: they must come from one model; "
                "run clip_embed again."
            )
        places, found = images.find(batch_ids)
        for name, text_rows in rows.items():
            text = text_vectors.vectors[text_rows[places]]
            result[name][places] = cosines(batch[found], text)
    images.check()
    return result


def clip_score(image_caption: NDArray[np.float64]) -> NDArray[np.float64]:
    """CLIPScore: ``2.5 max(cos, 0)`` (Hessel et al. 2021, section 3).

    Args:
        image_caption: cosine of image and :data:`DEPICTING` caption, float64 ``[n]``.

    Returns:
        float64 ``[n]`` in 0..2.5.
    """
    return CLIP_SCORE_SCALE * np.maximum(image_caption, 0)


def ref_clip_score(
    clip_scores: NDArray[np.float64], caption_reference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """RefCLIPScore: the harmonic mean of CLIPScore and ``max(cos, 0)`` of caption and reference.

    Args:
        clip_scores: float64 ``[n]``, as :func:`clip_score` gives.
        caption_reference: cosine of both texts, each after :data:`DEPICTING`, float64 ``[n]``.

    Returns:
        float64 ``[n]`` in 0..1.43; 0 where either is 0.
    """
    reference = np.maximum(caption_reference, 0)
    total = clip_scores + reference
    means = np.zeros_like(total)
    return np.divide(2 * clip_scores * reference, total, out=means, where=total > 0)


def prefer(
    caption: NDArray[np.float64], reference: NDArray[np.float64], name: str = PREFERENCES[1]
) -> NDArray[np.str_]:
    """Say which of two texts is nearer to the image: the report's comparison of section 5.2.

    Args:
        caption: cosine of image and caption, float64 ``[n]``.
        reference: cosine of image and reference, float64 ``[n]``.
        name: what a reference is called.

    Returns:
        ``[n]`` of ``PREFERENCES``: ``caption`` or ``enhanced`` where that is nearer, ``tie``
        within ``TIE`` of each other.
    """
    lead = caption - reference
    names = [PREFERENCES[0], name]
    return np.select([lead > TIE, lead < -TIE], names, default=PREFERENCES[2])
