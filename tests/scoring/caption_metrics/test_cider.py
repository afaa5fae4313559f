"""CIDEr-D against pycocoevalcap's numbers, its formula, and what it cannot judge."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_scores import reference_column

from compositional_prompts.scoring.caption_metrics.cider import HIGHEST, cider_d

FORM = "A photo of {}_{} with {} color and {} material"
PROMPT = FORM.format("Canvas", "Sandals", "white", "fabric")
tokens = st.sampled_from(["a", "photo", "of", "red", "White", "é", "shoes", "grün", "."])
sentences = st.lists(tokens, max_size=9).map(" ".join)


def values(captions, references):
    return cider_d(captions, references).values.tolist()


def by_formula(captions, references):
    """Equations of section 4 of Vedantam et al. (2015), as their code has the length."""

    def words(text):
        return [token for token in text.casefold().split() if token != "."]

    def grams(text, n):
        found = words(text)
        return Counter(tuple(found[i : i + n]) for i in range(len(found) - n + 1))

    scores = []
    for caption, reference in zip(captions, references, strict=True):
        total = 0.0
        for n in (1, 2, 3, 4):
            documents = [grams(text, n) for text in references]

            def weight(gram, documents=documents):
                df = sum(gram in document for document in documents)
                return math.log(len(documents)) - math.log(max(1, df))

            have, want = (
                {gram: count * weight(gram) for gram, count in grams(text, n).items()}
                for text in (caption, reference)
            )
            norm = math.hypot(*have.values()) * math.hypot(*want.values())
            if norm:
                clipped = sum(
                    min(value, want.get(g, 0)) * want.get(g, 0) for g, value in have.items()
                )
                total += clipped / norm
        bigrams = [max(0, len(words(text)) - 1) for text in (caption, reference)]
        scores.append(10 / 4 * total * math.exp(-((bigrams[0] - bigrams[1]) ** 2) / 72))
    return scores


def test_as_pycocoevalcap_scores_200_pairs():
    expected = reference_column("cider_d")
    assert len(expected) == 200 and max(expected) > 5
    found = values(reference_column("caption"), reference_column("reference"))
    assert found == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6))
def test_against_the_formula(pairs):
    captions, references = zip(*pairs, strict=True)
    found = values(captions, references)
    assert found == pytest.approx(by_formula(captions, references), abs=1e-9)
    assert all(0 <= value <= HIGHEST for value in found)


def test_equal_prompts_score_nothing_even_when_perfect():
    """What a set of one prompt, or one image, says of its captions; and that it is counted."""
    for count in (1, 4):
        scores = cider_d([PROMPT] * count, [PROMPT] * count)
        assert scores.values.tolist() == [0] * count
        assert scores.indistinct_references == count


def test_a_prompt_is_distinct_by_its_words_alone():
    references = [PROMPT, FORM.format("Suede", "Boots", "black", "leather")] * 2
    scores = cider_d([references[0], references[1], references[1], "a photo"], references)
    # Every order has n-grams with a word of the prompt; the template's weigh nothing.
    assert scores.values == pytest.approx([10, 10, 0, 0])
    assert scores.indistinct_references == 0
    assert cider_d(["x", "x"], ["", "red"]).indistinct_references == 1


def test_empty_texts_and_other_alphabets():
    assert values(["", "red", "", "ботинки красные"], ["red shoes", "", "", "красные БОТИНКИ"]) == (
        pytest.approx([0, 0, 0, 2.5])
    )
    assert values([], []) == [] and cider_d([], []).indistinct_references == 0


def test_repeats_and_order_change_nothing_but_the_frequencies():
    references = [FORM.format("Wool", "Boots", color, "fabric") for color in ("red", "blue", "tan")]
    captions = [references[1], references[1], references[0]]
    once = cider_d(captions, references).values
    for times in (2, 3):
        np.testing.assert_allclose(cider_d(captions * times, references * times).values[:3], once)
    np.testing.assert_allclose(cider_d(captions[::-1], references[::-1]).values[::-1], once)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        cider_d(["a", "b"], ["a"])
