"""METEOR of exact words and stems against METEOR 1.5's numbers and a search of all alignments."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.stem.snowball import EnglishStemmer
from reference_scores import reference_column

from compositional_prompts.scoring.caption_metrics.meteor import align, meteor_stem

words = st.lists(st.sampled_from(["a", "run", "running", "boot", "boots", "red"]), max_size=6)


def one(caption, reference):
    return meteor_stem([caption], [reference])[0]


def test_as_meteor_scores_200_pairs():
    captions, references = reference_column("caption"), reference_column("reference")
    expected, found = reference_column("meteor"), meteor_stem(captions, references)
    off = [row for row in range(200) if abs(found[row] - expected[row]) > 1e-9]
    # METEOR 1.5 matches none of "color" and "color" with "colors", the paper one of them.
    assert [(captions[row], references[row], expected[row]) for row in off] == [
        ("shoes a color running and boot color shoe", "photo colors", 0.0)
    ]
    assert max(expected) == 1 and sum(0 < value < 1 for value in expected) > 150


def every_alignment(caption, reference):
    """Exact matches, matches and runs of all ways to give each word another of the same stem."""
    stem = EnglishStemmer().stem
    choices = [
        [None, *(j for j, other in enumerate(reference) if stem(other) == stem(word))]
        for word in caption
    ]
    for way in itertools.product(*choices):
        taken = [j for j in way if j is not None]
        if len(set(taken)) < len(taken):
            continue
        exact = sum(
            j is not None and reference[j] == word for j, word in zip(way, caption, strict=True)
        )
        runs = sum(
            j is not None and (before is None or j != before + 1)
            for before, j in itertools.pairwise((None, *way))
        )
        yield -exact, -len(taken), runs


@settings(deadline=None, max_examples=60)
@given(words, words)
def test_the_alignment_is_the_best_of_all(caption, reference):
    _, matches, runs = min(every_alignment(caption, reference))
    assert align(caption, reference) == (-matches, runs)


def test_the_formula():
    """Equations of section 2.2 of Banerjee and Lavie (2005)."""
    assert one("photo a of red boots", "a photo of red boots") == pytest.approx(
        1 - 0.5 * (3 / 5) ** 3
    )
    precision, recall = 2 / 2, 2 / 5
    mean = 10 * precision * recall / (recall + 9 * precision)
    assert one("red boot", "a pair of red boots") == pytest.approx(mean * (1 - 0.5 * (1 / 2) ** 3))


def test_edges():
    assert one("", "red boots") == one("red boots", "") == one("", "") == one(".", "_") == 0
    assert one("Canvas_Boots", "canvas boots") == one("GRÜNE Schuhe", "grüne schuhe") == 1
    assert one("boots", "boot") == 1 and one("boots", "sandals") == 0
    assert one("the " * 50, "the " * 40) == pytest.approx(0.9756, abs=1e-4)  # beyond the beam
    assert meteor_stem([], []).shape == (0,)
    with pytest.raises(ValueError, match="shorter"):
        meteor_stem(["a", "b"], ["a"])
