"""Means of captioners, their intervals, and what the fine-tuned one has more."""

import numpy as np
import pytest

from compositional_prompts.results.bootstrap import Bootstrap
from compositional_prompts.scoring.caption_intervals import caption_means


def test_differences_are_those_of_the_means_and_paired() -> None:
    random = np.random.default_rng()
    products = np.repeat(np.arange(12), 5)
    known = random.random(60) < 0.8
    base = random.random(60)
    columns = {
        "base": {
            ("bleu", "mean"): (base, None),
            ("attributes", "color", "true"): (base < 0.5, known),
        },
        "finetuned": {
            ("bleu", "mean"): (base + 0.25, None),
            ("attributes", "color", "true"): (base < 0.7, known),
        },
    }
    found = caption_means(columns, products)
    assert list(found["finetuned"]) == ["products", "bleu", "attributes", "minus"]
    assert found["base"]["products"] == 12 and "minus" not in found["base"]
    more = found["finetuned"]["minus"]["base"]
    assert more["bleu"]["mean"] == pytest.approx(0.25)
    assert more["bleu"]["mean_interval"] == pytest.approx([0.25, 0.25])
    paired = Bootstrap(products).difference(base < 0.7, base < 0.5, known)
    assert more["attributes"]["color"]["true"] == paired.value
    assert more["attributes"]["color"]["true_interval"] == paired.bounds


def test_a_captioner_alone_is_compared_with_nothing() -> None:
    found = caption_means({"base": {("exact_match",): ([True, False], None)}}, np.array([0, 0]))
    assert found == {"base": {"products": 1, "exact_match": 0.5, "exact_match_interval": None}}
