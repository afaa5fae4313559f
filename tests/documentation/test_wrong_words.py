"""The table of docs/metrics.md of what one wrong word costs in each metric of texts."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from compositional_prompts.prompt.text_metrics import score_texts
from compositional_prompts.scoring.caption_metrics.cider import cider_d
from compositional_prompts.scoring.caption_metrics.meteor import meteor_stem

DOCUMENT = Path(__file__).parents[2] / "docs/metrics.md"
FORM = "A photo of {}_{} with {} color and {} material"
WORDS = (
    ("Canvas", "Suede", "Wool", "Nylon"),
    ("Sandals", "Boots", "Slippers", "Loafers"),
    ("black", "white", "red", "tan"),
    ("leather", "fabric", "rubber", "wood"),
)
RIGHT, WRONG = (tuple(words[place] for words in WORDS) for place in (0, 1))
PLACES = {
    "nothing": (),
    "attribute": (0,),
    "object": (1,),
    "color": (2,),
    "material": (3,),
    "all four": (0, 1, 2, 3),
}


def scored(places: tuple[int, ...]) -> dict[str, float]:
    """A prompt with wrong words in some places, among all others."""
    reference = FORM.format(*RIGHT)
    said = [WRONG[place] if place in places else RIGHT[place] for place in range(4)]
    caption = FORM.format(*said)
    others = [FORM.format(*words) for words in itertools.product(*WORDS) if words != RIGHT]
    texts = score_texts([caption], [reference], "none")
    return {
        **{name: float(values[0]) for name, values in texts.items()},
        "meteor_stem": float(meteor_stem([caption], [reference])[0]),
        "cider_d": float(cider_d([caption, *others], [reference, *others]).values[0]),
    }


def test_the_table_says_what_is_measured() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, *rows = re.findall(r"^\| (.+) \|$", text[text.index("| wrong |") :], re.MULTILINE)
    names = head.split(" | ")[1:]
    said = {row.split(" | ")[0]: row.split(" | ")[1:] for row in rows[: len(PLACES)]}
    assert list(said) == list(PLACES)
    for place, values in said.items():
        found = scored(PLACES[place])
        assert values == [f"{found[name]:.2f}" for name in names], place


def test_every_word_wrong_is_nothing_in_bleu_and_much_in_rouge() -> None:
    assert scored((0, 1, 2, 3))["bleu"] == 0
    reference = FORM.format("Canvas", "Shoes.Loafers", "black", "leather")
    scores = score_texts([FORM.format(*WRONG)], [reference], "none")
    assert scores["bleu"][0] == 0
    assert scores["rouge1"][0] == scores["rougeL"][0] == pytest.approx(0.61, abs=5e-3)


def test_bleu_punishes_the_same_mistake_by_its_place() -> None:
    assert 1 - scored((2,))["bleu"] == pytest.approx(0.34, abs=5e-3)
    assert 1 - scored((3,))["bleu"] == pytest.approx(0.22, abs=5e-3)
    assert scored((0, 1))["bleu"] == scored((0,))["bleu"] == scored((1,))["bleu"]
