"""What counts as one word, and which of its spellings is kept."""

import itertools
import unicodedata

import pytest

from compositional_prompts.prompt.text_form import (
    clean_text,
    label_form,
    most_common_spellings,
    require_distinct_words,
    word_form,
)


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("Canvas", "canvas"),
        ("navy blue", " Navy \u00a0 Blue\n"),
        ("caf\u00e9", "CAFE\u0301"),
        ("Stra\u00dfe", "STRASSE"),
        ("\ufeffred", "re\u200bd"),
        ("red\u202e", "red"),
        ("\u212b", "\u00e5"),
    ],
)
def test_what_a_reader_takes_for_one_word_is_one(word: str, other: str) -> None:
    assert word_form(word) == word_form(other)
    with pytest.raises(ValueError, match=r"^words are .* one word"):
        require_distinct_words(["suede", word, other], "words are")


@pytest.mark.parametrize(
    ("word", "other"), [("T-shirt", "T shirt"), ("cafe", "caf\u00e9"), ("red", "read"), ("", ".")]
)
def test_other_words_are_others(word: str, other: str) -> None:
    assert word_form(word) != word_form(other)
    require_distinct_words([word, other], "words are")


def test_a_form_is_a_form_of_itself() -> None:
    for code in itertools.chain(range(0x250), range(0x1E00, 0x2100), range(0xFB00, 0xFB10)):
        form = word_form(f"a{chr(code)}b")
        assert word_form(form) == form and unicodedata.is_normalized("NFC", form), hex(code)


def test_labels_have_dots_for_spaces() -> None:
    assert label_form("Faux.Leather") == label_form("faux leather") == label_form("Faux..leather")


def test_texts_are_kept_composed_and_with_single_spaces() -> None:
    assert clean_text(" Cafe\u0301 \t au  lait") == "Caf\u00e9 au lait"


def test_the_most_frequent_spelling_is_kept_whatever_the_order() -> None:
    counts = {"canvas": 2, "Canvas": 3, "CANVAS": 3, "Suede": 1, "cafe\u0301": 1, "": 1, " ": 1}
    expected = {"canvas": "CANVAS", "Canvas": "CANVAS", "CANVAS": "CANVAS", "Suede": "Suede"}
    expected |= {"cafe\u0301": "caf\u00e9", "": "", " ": ""}
    for order in itertools.permutations(counts):
        shuffled = {text: counts[text] for text in order}
        forms = {text: word_form(text) for text in order}
        assert most_common_spellings(shuffled, forms) == expected
    assert most_common_spellings({}, {}) == {}
