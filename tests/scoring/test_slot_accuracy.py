"""Which words of a caption are right, place by place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.scoring.slot_accuracy import mentions, plain_words, slot_hits


@pytest.mark.parametrize(
    ("caption", "word", "expected"),
    [
        ("white canvas sandals", "white", True),
        ("off-white sandals", "white", True),
        ("whitewashed sandals", "white", False),
        ("A photo of Faux.Leather_Boots.Ankle with", "faux leather", True),
        ("faux leather ankle boots", "Faux.Leather", True),
        ("faux leather ankle boots", "Boots.Ankle", False),
        ("navy  blue", "Navy Blue", True),
        ("blue navy", "Navy Blue", False),
        ("Straße", "STRASSE", True),
        ("", "white", False),
        ("anything", "...", False),
        ("", "", False),
    ],
)
def test_words_mentioned(caption, word, expected):
    assert mentions(caption, word) is expected


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_a_word_between_others_is_mentioned(before, word, after):
    assert mentions(f"{before} {word}.{after}", word) is bool(plain_words(word))


def slot_metrics(*arguments):
    """The shares that come of the hits."""
    return {
        name: (
            values[known].sum() / known.sum()
            if known is not None and known.any()
            else None
            if known is not None
            else values.mean()
        )
        for name, (values, known) in slot_hits(*arguments).columns.items()
    }


def test_a_case_counted_by_hand():
    captions = ["white one", "no form, black", "red one", "unspecified one", "black one"]
    slots = [{"color": "white"}, None, {"color": "red"}, {"color": None}, {"color": "Black"}]
    enhanced = ["white", "black", "blue", None, "black"]
    truth = [[" WHITE"], ["black"], [], ["white"], ["black"]]
    assert slot_metrics(captions, slots, "color", enhanced, truth) == {
        "accuracy_vs_enhanced": 2 / 5,
        "accuracy_vs_truth": 2 / 4,
        "mention_accuracy_vs_truth": 3 / 4,
    }


def test_any_of_several_true_words_is_right():
    captions = ["suede one", "leather one", "white suede one", "canvas"]
    slots = [{"material": "suede"}, {"material": "Leather"}, {"material": None}, None]
    truth = [["Leather", "Suede"]] * 4
    metrics = slot_metrics(captions, slots, "material", [None] * 4, truth)
    assert metrics["accuracy_vs_truth"] == 2 / 4
    assert metrics["mention_accuracy_vs_truth"] == 3 / 4


def test_a_label_is_one_word_whatever_is_in_it():
    metrics = slot_metrics(["a"], [{"attribute": "Red"}], "attribute", [None], [["Red;Blue"]])
    assert metrics["accuracy_vs_truth"] == 0.0


def test_nothing_is_known():
    assert slot_metrics(["a"], [{"color": "white"}], "color", [None], [()]) == {
        "accuracy_vs_enhanced": 0.0,
        "accuracy_vs_truth": None,
        "mention_accuracy_vs_truth": None,
    }
