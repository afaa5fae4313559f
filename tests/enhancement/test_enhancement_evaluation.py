"""Accuracy, coverage and confusion of the chosen words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.enhancement.word_accuracy import WordEvaluation
from compositional_prompts.results.bootstrap import Bootstrap

SHARES = (
    *("accuracy", "accuracy_in_vocabulary", "coverage", "majority_accuracy", "pixel_accuracy"),
    *("images_with_truth", "images"),
)
VOCABULARY = ["black", "white", "Navy Blue"]


def evaluate(chosen, truth, pixel, block=2):
    """Metrics and confusion, counted a block of images at a time; intervals stand elsewhere."""
    evaluation = WordEvaluation(VOCABULARY, pixel=pixel is not None)
    confusion = []
    for start in range(0, len(chosen), block):
        part = slice(start, start + block)
        confusion += evaluation.add(
            chosen[part], truth[part], None if pixel is None else pixel[part]
        )
    metrics = evaluation.metrics(Bootstrap(np.arange(len(chosen)), draws=20))
    shares = {name: value for name, value in metrics.items() if name in SHARES}
    return shares, confusion


def test_a_case_counted_by_hand():
    metrics, confusion = evaluate(
        chosen=["black", "white", None, "Navy Blue", "white", "black"],
        truth=[["Black "], ["black"], ["white"], ["navy blue"], ["mauve"], []],
        pixel=["black", "black", "white", "black", "white", "white"],
    )
    assert metrics == {
        "accuracy": 2 / 5,
        "accuracy_in_vocabulary": 2 / 4,
        "coverage": 5 / 6,
        "majority_accuracy": 2 / 5,
        "pixel_accuracy": 3 / 5,
        "images_with_truth": 5,
        "images": 6,
    }
    assert confusion == [
        ("black", "black"),
        ("black", "white"),
        ("white", "unspecified"),
        ("Navy Blue", "Navy Blue"),
        ("mauve", "white"),
    ]


def test_any_of_several_true_words_is_right():
    metrics, confusion = evaluate(
        chosen=["white", "black", None, "Navy Blue"],
        truth=[
            ["Black", "White"],
            ["mauve", " WHITE"],
            ["mauve", "teal"],
            ["teal", "black", "Teal"],
        ],
        pixel=["teal", "white", "black", "black"],
    )
    assert metrics == {
        "accuracy": 1 / 4,
        "accuracy_in_vocabulary": 1 / 3,
        "coverage": 3 / 4,
        "majority_accuracy": 2 / 4,
        "pixel_accuracy": 2 / 4,
        "images_with_truth": 4,
        "images": 4,
    }
    assert confusion == [
        ("white", "white"),
        ("white", "black"),
        ("mauve", "unspecified"),
        ("black", "Navy Blue"),
    ]


def test_nothing_is_known():
    metrics, confusion = evaluate(["black", None], [(), ()], None)
    assert metrics == {
        "accuracy": None,
        "accuracy_in_vocabulary": None,
        "coverage": 0.5,
        "majority_accuracy": None,
        "pixel_accuracy": None,
        "images_with_truth": 0,
        "images": 2,
    }
    assert confusion == []


def test_truth_outside_the_vocabulary_only():
    metrics, _ = evaluate(["black"], [["mauve"]], ["white"])
    assert (metrics["accuracy"], metrics["accuracy_in_vocabulary"]) == (0.0, None)
    assert (metrics["majority_accuracy"], metrics["pixel_accuracy"]) == (1.0, 0.0)


maybe = st.sampled_from([None, *VOCABULARY])
rows = st.lists(
    st.tuples(
        maybe,
        st.sampled_from([(), *((word,) for word in ("mauve", "teal", " BLACK", *VOCABULARY))]),
        maybe,
    ),
    min_size=1,
    max_size=30,
)


@given(rows)
def test_shares_agree_with_the_confusion(rows):
    chosen, truth, pixel = (list(column) for column in zip(*rows, strict=True))
    metrics, confusion = evaluate(chosen, truth, pixel, block=3)
    assert metrics["images_with_truth"] == len(confusion) <= metrics["images"] == len(rows)
    if not confusion:
        assert metrics["accuracy"] is metrics["majority_accuracy"] is metrics["pixel_accuracy"]
        return
    assert metrics["accuracy"] == pytest.approx(
        sum(true == said for true, said in confusion) / len(confusion)
    )
    truths = [true for true, _ in confusion]
    assert metrics["majority_accuracy"] == pytest.approx(
        max(truths.count(true) for true in truths) / len(truths)
    )
    inside = [true == said for true, said in confusion if true in VOCABULARY]
    assert metrics["accuracy_in_vocabulary"] == (
        pytest.approx(sum(inside) / len(inside)) if inside else None
    )


def test_intervals_are_those_of_products_and_leads_are_paired():
    random = np.random.default_rng()
    words = random.choice(VOCABULARY, 60).tolist()
    truth = [[word] if random.random() < 0.8 else [] for word in random.choice(VOCABULARY, 60)]
    pixel = random.choice(VOCABULARY, 60).tolist()
    evaluation = WordEvaluation(VOCABULARY, pixel=True)
    for start in range(0, 60, 7):
        part = slice(start, start + 7)
        evaluation.add(words[part], truth[part], pixel[part])
    bootstrap = Bootstrap(np.arange(60) % 12, draws=200)
    found = evaluation.metrics(bootstrap)
    known = np.array([bool(one) for one in truth])
    right, seen = (
        np.array([[word] == one for word, one in zip(said, truth, strict=True)])
        for said in (words, pixel)
    )
    names = [one[0] for one in truth if one]
    most = max(VOCABULARY, key=lambda word: (names.count(word), -names.index(word)))
    majority = np.array([one == [most] for one in truth])
    for name, values in (
        ("accuracy", right),
        ("majority_accuracy", majority),
        ("pixel_accuracy", seen),
    ):
        assert found[f"{name}_interval"] == bootstrap.mean(values, known).bounds, name
    for name, values in (("majority", majority), ("pixel", seen)):
        lead = bootstrap.difference(right, values, known)
        assert found["minus"][name] == {"accuracy": lead.value, "accuracy_interval": lead.bounds}
    assert found["products"] == found["products_with_truth"] == 12
