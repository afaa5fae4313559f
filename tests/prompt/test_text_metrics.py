"""BLEU and ROUGE against their formulas, and against figures from elsewhere."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compositional_prompts.prompt.text_metrics import TEXT_METRICS, score_texts

CAPTION = "A photo of Canvas_Shoes.Loafers with brown color and rubber material"
REFERENCE = (
    "A photo of Canvas_Shoes.Sneakers.and.Athletic.Shoes with brown color and fabric material"
)

tokens = st.sampled_from(
    ["a", "photo", "of", "Canvas_Sandals", "with", "white", "red", "color", "and", "é", "."]
)
sentences = st.lists(tokens, max_size=12).map(" ".join)
pairs = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6)


def one(caption, reference, tokenize="none"):
    return {
        name: float(values[0])
        for name, values in score_texts([caption], [reference], tokenize).items()
    }


def bleu_by_formula(caption, reference):
    """Papineni et al. (2002), equations of section 2.3, on white-space tokens."""
    candidate, target = caption.split(), reference.split()
    orders = min(4, len(candidate))
    logs = []
    for order in range(1, orders + 1):
        have = Counter(tuple(candidate[i : i + order]) for i in range(len(candidate) - order + 1))
        want = Counter(tuple(target[i : i + order]) for i in range(len(target) - order + 1))
        clipped = sum(min(count, want[gram]) for gram, count in have.items())
        if clipped == 0:
            return 0.0
        logs.append(math.log(clipped / sum(have.values())))
    if not logs:
        return 0.0
    brevity = min(0.0, 1 - len(target) / len(candidate))
    return math.exp(brevity + sum(logs) / orders)


def rouge_tokens(text):
    return re.findall("[a-z0-9]+", text.lower())


def f1(overlap, caption, reference):
    return 2 * overlap / (caption + reference) if overlap else 0.0


def rouge_n_by_formula(caption, reference, n):
    have, want = (
        Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        for words in (rouge_tokens(caption), rouge_tokens(reference))
    )
    return f1((have & want).total(), have.total(), want.total())


def rouge_l_by_formula(caption, reference):
    a, b = rouge_tokens(caption), rouge_tokens(reference)
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
            )
    return f1(table[-1][-1], len(a), len(b))


def test_published_definitions_of_one_pair():
    scores = one(CAPTION, REFERENCE)
    assert scores["bleu"] == pytest.approx(0.3928, abs=5e-5)
    assert one(CAPTION, REFERENCE, "13a")["bleu"] == pytest.approx(0.4103, abs=5e-5)
    assert scores["rouge1"] == pytest.approx(0.741, abs=5e-4)
    assert scores["rouge2"] == pytest.approx(0.560, abs=5e-4)
    assert scores["rougeL"] == pytest.approx(0.741, abs=5e-4)


@settings(deadline=None)
@given(pairs)
def test_against_the_formulas(pairs):
    captions, references = zip(*pairs, strict=True)
    scores = score_texts(captions, references, "none")
    for row, pair in enumerate(pairs):
        assert scores["bleu"][row] == pytest.approx(bleu_by_formula(*pair), abs=1e-9)
        assert scores["rouge1"][row] == pytest.approx(rouge_n_by_formula(*pair, 1), abs=1e-9)
        assert scores["rouge2"][row] == pytest.approx(rouge_n_by_formula(*pair, 2), abs=1e-9)
        assert scores["rougeL"][row] == pytest.approx(rouge_l_by_formula(*pair), abs=1e-9)


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from(["none", "13a"]))
def test_any_text_is_scored_between_0_and_1(caption, reference, tokenize):
    forward, backward = one(caption, reference, tokenize), one(reference, caption, tokenize)
    assert all(0 <= value <= 1 for value in forward.values())
    # F1 does not know which of the two is the reference; BLEU does.
    for name in ("rouge1", "rouge2", "rougeL"):
        assert forward[name] == pytest.approx(backward[name])


@settings(deadline=None)
@given(st.lists(tokens.filter(str.isascii), min_size=2, max_size=12).map(" ".join))
def test_a_text_equals_itself(text):
    scores = one(text, text)
    assert scores["bleu"] == pytest.approx(1)
    words = len(rouge_tokens(text))
    assert scores["rouge1"] == scores["rougeL"] == (1 if words else 0)
    assert scores["rouge2"] == (1 if words > 1 else 0)


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_empty_texts_score_zero(empty):
    for pair in ((empty, REFERENCE), (REFERENCE, empty), (empty, empty)):
        assert set(one(*pair).values()) == {0.0}


def test_short_captions():
    assert one("red shoe", "red shoe")["bleu"] == pytest.approx(1)
    assert one("red", "red shoe")["bleu"] == pytest.approx(math.exp(-1))
    # As NLTK without smoothing: no 4-gram in common, no score.
    assert one("a red shoe with laces", "a blue shoe with laces")["bleu"] == 0


def test_rouge_does_not_see_other_alphabets():
    assert one("é", "é") == {"bleu": pytest.approx(1), "rouge1": 0, "rouge2": 0, "rougeL": 0}


@settings(deadline=None)
@given(pairs, st.randoms(use_true_random=False))
def test_repeats_and_order_change_nothing(pairs, random):
    rows = pairs * 3
    random.shuffle(rows)
    together = score_texts(*zip(*rows, strict=True), "none")
    for name in TEXT_METRICS:
        assert together[name].shape == (len(rows),) and together[name].dtype == np.float64
        for row, pair in enumerate(rows):
            assert together[name][row] == one(*pair)[name]


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        score_texts(["a", "b"], ["a"], "none")


def test_nothing_to_score():
    assert all(len(values) == 0 for values in score_texts([], [], "none").values())
