"""Choosing words for images: one matrix product a batch, against a loop over images and words.

Both get the same unit vectors, random in place of CLIP's, and both end with the best word, its
cosine and its lead in every attribute group. Loading models, reading files and writing prompts
are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from measuring.resources import best_time
from numpy.typing import NDArray

from compositional_prompts.catalog.image_join import ImageJoin
from compositional_prompts.enhancement.word_choice import Choice, choose, score_images

GROUPS = {"color": 12, "material": 4}
THRESHOLD = 0.02  # random vectors of 512 numbers are nearly orthogonal
TOLERANCE = 1e-5  # between a matrix product and single dot products in float32
Vectors = NDArray[np.float32]


def unit_vectors(rows: int, dimension: int, generator: np.random.Generator) -> Vectors:
    """Random L2-normalised vectors, float32 ``[rows, dimension]``."""
    vectors = generator.standard_normal((rows, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def by_batches(images: Vectors, words: Mapping[str, Vectors], batch_size: int) -> dict[str, Choice]:
    """The pipeline's way."""
    image_ids = pa.array([f"image-{row}" for row in range(len(images))])

    def batches() -> Iterator[tuple[pa.StringArray, Vectors]]:
        for start in range(0, len(images), batch_size):
            yield image_ids[start : start + batch_size], images[start : start + batch_size]

    scores = score_images(ImageJoin(image_ids, None, Path("vectors")), batches(), words)
    return {
        group: choose(scores[group], [str(word) for word in range(len(vectors))], THRESHOLD)
        for group, vectors in words.items()
    }


def by_loop(
    images: Vectors, words: Mapping[str, Vectors]
) -> dict[str, list[tuple[int, float, float, bool]]]:
    """Best word, cosine, margin and whether it counts, one image and one word at a time."""
    results: dict[str, list[tuple[int, float, float, bool]]] = {group: [] for group in words}
    for image in images:
        for group, vectors in words.items():
            best, score, runner_up = -1, -np.inf, -np.inf
            for position, word in enumerate(vectors):
                cosine = float(np.dot(image, word))
                if cosine > score:
                    best, score, runner_up = position, cosine, score
                elif cosine > runner_up:
                    runner_up = cosine
            results[group].append((best, score, score - runner_up, score > THRESHOLD))
    return results


def assert_same(
    batched: Mapping[str, Choice], looped: Mapping[str, list[tuple[int, float, float, bool]]]
) -> None:
    """Check that both chose the same words, wherever rounding cannot decide.

    Raises:
        AssertionError: a word, a cosine or a margin differs.
    """
    for group, choice in batched.items():
        best, score, margin, chosen = (
            np.array(column) for column in zip(*looped[group], strict=True)
        )
        np.testing.assert_allclose(choice.score, score, atol=TOLERANCE)
        np.testing.assert_allclose(choice.margin, margin, atol=TOLERANCE)
        clear = margin > TOLERANCE
        np.testing.assert_array_equal(choice.best[clear], best[clear])
        clear = np.abs(score - THRESHOLD) > TOLERANCE
        np.testing.assert_array_equal(choice.chosen[clear], chosen[clear])


def main() -> None:
    """Measure both ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=24_000, help="default: as many as the report")
    parser.add_argument("--dimension", type=int, default=512, help="default: that of ViT-B/32")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3, help="the fastest run counts")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    generator = np.random.default_rng(arguments.seed)
    images = unit_vectors(arguments.images, arguments.dimension, generator)
    words = {
        group: unit_vectors(size, arguments.dimension, generator) for group, size in GROUPS.items()
    }
    assert_same(by_batches(images, words, arguments.batch_size), by_loop(images, words))

    loop = best_time(lambda: by_loop(images, words), arguments.repeats)
    batches = best_time(lambda: by_batches(images, words, arguments.batch_size), arguments.repeats)
    vocabulary = ", ".join(f"{size} of {group}" for group, size in GROUPS.items())
    print(f"Choosing words: {arguments.images} images, {vocabulary}; the same words chosen")
    print(f"{'':32}{'seconds':>10}{'images/s':>12}{'ratio':>8}")
    for name, seconds in (
        ("loop over images and words", loop),
        ("matrix product a batch", batches),
    ):
        rate = arguments.images / seconds
        print(f"{name:32}{seconds:>10.3f}{rate:>12.0f}{loop / seconds:>8.1f}")


if __name__ == "__main__":
    main()
