"""The choice of photos to label, against the gradient embeddings written out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from compositional_prompts.labelling.informative_choice import choose_informative

Floats = NDArray[np.float32]


def made_up(images: int, words: int = 4, seed: int = 0) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(images, words))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), random.normal(size=(images, 6)).astype(np.float32)


def chosen(
    probabilities: Floats, vectors: Floats, wanted: int, products: list[int] | None = None
) -> list[int]:
    numbers = np.array(products or range(len(vectors)), np.int64)
    random = np.random.default_rng(3)
    rows: list[int] = choose_informative(probabilities, vectors, numbers, wanted, random).tolist()
    assert len(set(rows)) == len(rows)
    return rows


def test_it_draws_as_k_means_plus_plus_does_on_the_embeddings() -> None:
    probabilities, vectors = made_up(60)
    embeddings = probabilities.astype(np.float64)
    embeddings[np.arange(60), probabilities.argmax(axis=1)] -= 1
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    embeddings = (embeddings[:, :, None] * centred[:, None, :]).reshape(60, -1)
    random = np.random.default_rng(3)
    weights = (embeddings**2).sum(axis=1)
    expected: list[int] = []
    for _ in range(12):
        expected.append(int(np.searchsorted(weights.cumsum(), random.random() * weights.sum())))
        distances = [((embeddings - embeddings[row]) ** 2).sum(axis=1) for row in expected]
        weights = np.min(distances, axis=0)
    assert chosen(probabilities, vectors, 12) == expected


def test_the_sure_and_the_alike_are_left_for_last() -> None:
    probabilities = np.full((30, 2), 0.5, np.float32)
    probabilities[10:] = [1, 0]  # nothing to learn from these
    vectors = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    vectors[:5] = [0, 0, 1]  # of ten unsure photos, five look alike, and so do the other five
    assert {row // 5 for row in chosen(probabilities, vectors, 2)} == {0, 1}


def test_a_product_has_one_photo_until_all_have_one() -> None:
    probabilities, vectors = made_up(12)
    products = [0, 1, 2] * 4
    rows = chosen(probabilities, vectors, 6, products)
    assert sorted(products[row] for row in rows[:3]) == [0, 1, 2]
    assert len(rows) == 6


@pytest.mark.parametrize("words", [1, 3])
def test_where_nothing_tells_them_apart_chance_does(words: int) -> None:
    probabilities = np.full((5, words), 1 / words, np.float32)
    vectors = np.ones((5, 2), np.float32)
    assert sorted(chosen(probabilities, vectors, 9)) == [0, 1, 2, 3, 4]


def test_none_of_none_and_no_number_is_refused() -> None:
    assert chosen(np.empty((0, 3), np.float32), np.empty((0, 2), np.float32), 4) == []
    probabilities, vectors = made_up(3)
    vectors[1, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        chosen(probabilities, vectors, 1)
