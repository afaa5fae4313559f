"""Cosines of texts and images, and which of two texts fits the image."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.catalog.image_join import ImageJoin, ImageJoinError
from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.scoring.clip_scores import (
    TIE,
    TextVectors,
    clip_score,
    cosines,
    embed_distinct,
    image_text_cosines,
    prefer,
    ref_clip_score,
)


class LetterModel(torch.nn.Module):
    """Embeds a text as its token ids: enough to follow each text through."""

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.texts_seen = 0

    def encode_text(self, tokens):
        self.texts_seen += len(tokens)
        return tokens.float()


def letters(texts):
    return torch.tensor([[len(text) + 1, text.count("a"), text.count("b")] for text in texts])


@pytest.fixture
def clip():
    return Clip(LetterModel(), lambda image: image, letters, 2, (0.0,), (1.0,))


def unit(count, dimension, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_each_distinct_text_is_embedded_once(clip):
    texts = ["aab", "", "bb", "aab", "bb", "aab"]
    found = embed_distinct(clip, iter(texts), batch_size=2)
    assert clip.model.texts_seen == 3
    expected = letters(texts).double()
    expected = (expected / expected.norm(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(found.of(texts), expected, atol=1e-6)


def test_cosines_against_double_precision():
    a, b = unit(50, 7, 1), unit(50, 7, 2)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    expected = [float(x @ y) for x, y in zip(wide_a, wide_b, strict=True)]
    np.testing.assert_allclose(cosines(a, b), expected, atol=1e-12)
    assert cosines(a, a).max() <= 1
    np.testing.assert_allclose(cosines(a, a), 1, atol=1e-6)


def asked(ids):
    return ImageJoin(ids, Path("captions"), Path("vectors"))


def test_images_and_texts_are_joined_on_image_id():
    ids = [f"i{number}" for number in range(30)]
    images = unit(40, 5, 3)
    texts = {
        "reference": ["x", "y"] * 15,
        "base": np.random.default_rng(1).choice(["x", "y", "z"], 30).tolist(),
    }
    vectors = TextVectors({"x": 0, "y": 1, "z": 2}, unit(3, 5, 4), np.zeros(3, bool))
    # Ten more images than have captions, in another order, in batches.
    have = np.random.default_rng(2).permutation([*ids, *(f"other{n}" for n in range(10))])
    rows = {image_id: images[row] for row, image_id in enumerate(have)}
    batches = [
        (pa.array(have[start : start + 7].tolist()), images[start : start + 7])
        for start in range(0, 40, 7)
    ]
    found = image_text_cosines(asked(ids), texts, vectors, batches)
    for name, column in texts.items():
        expected = [
            float(rows[i].astype(float) @ vectors.vectors[vectors.rows[text]].astype(float))
            for i, text in zip(ids, column, strict=True)
        ]
        np.testing.assert_allclose(found[name], expected, atol=1e-12)


def test_an_image_without_a_vector_is_named():
    vectors = TextVectors({"x": 0}, unit(1, 5, 0), np.zeros(1, bool))
    with pytest.raises(
        ImageJoinError, match="vectors lacks 1 of the images of captions, the first 'b'"
    ):
        image_text_cosines(
            asked(["a", "b"]), {"base": ["x", "x"]}, vectors, [(pa.array(["a"]), unit(1, 5, 1))]
        )


def test_vectors_of_two_models_are_refused():
    vectors = TextVectors({"x": 0}, unit(1, 5, 0), np.zeros(1, bool))
    with pytest.raises(ValueError, match="6 numbers and the text vectors 5"):
        image_text_cosines(
            asked(["a"]), {"base": ["x"]}, vectors, [(pa.array(["a"]), unit(1, 6, 1))]
        )


def test_the_nearer_text_is_preferred():
    caption = np.array([0.3, 0.2, 0.25, 0.25 + TIE / 2, 0.25 - TIE / 2, 0.25 + 3 * TIE])
    reference = np.array([0.2, 0.3, 0.25, 0.25, 0.25, 0.25])
    assert prefer(caption, reference).tolist() == [
        "caption",
        "enhanced",
        "tie",
        "tie",
        "tie",
        "caption",
    ]


cosine_lists = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=20).map(
    np.array
)


@given(cosine_lists)
def test_exchanging_the_texts_exchanges_the_verdicts(pairs):
    swap = SimpleNamespace(caption="enhanced", enhanced="caption", tie="tie")
    verdicts = prefer(pairs[:, 0], pairs[:, 1]).tolist()
    assert prefer(pairs[:, 1], pairs[:, 0]).tolist() == [getattr(swap, v) for v in verdicts]
    assert set(prefer(pairs[:, 0], pairs[:, 0]).tolist()) == {"tie"}


def test_clip_scores_of_200_pairs_against_the_formulas():
    """Section 3 of Hessel et al. (2021): w = 2.5, and a harmonic mean; negative cosines are 0."""
    image_caption, caption_reference = np.random.default_rng(3).uniform(-0.5, 1, (2, 200))
    scores = clip_score(image_caption)
    both = ref_clip_score(scores, caption_reference)
    for row in range(200):
        alone = 2.5 * max(float(image_caption[row]), 0.0)
        other = max(float(caption_reference[row]), 0.0)
        assert scores[row] == pytest.approx(alone)
        assert both[row] == pytest.approx(2 / (1 / alone + 1 / other) if alone and other else 0)
    assert (both == 0).any() and (both > 0).any()
    assert ref_clip_score(clip_score(np.array([1.0])), np.array([1.0])) == pytest.approx(5 / 3.5)


def test_texts_that_fill_the_context_are_known(clip):
    # The last of the three "tokens" of a text is how many b it has; without one there is room.
    found = embed_distinct(clip, ["aa", "ab", "bb", "a"], batch_size=3)
    assert found.full.tolist() == [False, True, True, False]
    assert embed_distinct(clip, [], batch_size=3).full.shape == (0,)
