"""The words of a prompt as a shop would print them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.prompt.readable_text import (
    ReadableTemplateError,
    ReadableText,
    check_places,
    template_places,
)

GROUPS = ("color", "material")
BOAT_SHOES = {
    "attribute": "Full.grain.leather",
    "object": "Boat.Shoes",
    "color": "white",
    "material": None,
}


@pytest.mark.parametrize(
    ("template", "words", "text"),
    [
        (
            "{attribute} {object}[ in {color}][, {material}]",
            {},
            "full grain leather boat shoes in white",
        ),
        (
            "{attribute} {object}[ in {color}][, {material}]",
            {"color": None, "material": "rubber"},
            "full grain leather boat shoes, rubber",
        ),
        ("[{material} {color} ]{object}", {}, "boat shoes"),
        ("{color} {object} , {material}!", {"color": None}, "boat shoes,!"),
        ("{material}, {object}", {}, "boat shoes"),
        (None, {}, "full grain leather boat shoes with white color"),
        (None, {"color": None}, "full grain leather boat shoes"),
        (
            None,
            {"material": "rubber"},
            "full grain leather boat shoes with white color and rubber material",
        ),
        ("{object}", {"object": "{color} [x] Faux_Fur"}, "{color} [x] faux fur"),
    ],
)
def test_words_are_written(template, words, text) -> None:
    assert ReadableText(GROUPS, template, {}).write(BOAT_SHOES | words) == text


def test_groups_are_joined_as_in_the_prompt() -> None:
    groups = ("color", "heel_height", "closure")
    words = {"attribute": "Suede", "object": "Boots", "color": "red"}
    readable = ReadableText(groups, None, {})
    assert readable.write(words | {"heel_height": "low", "closure": "zip"}) == (
        "suede boots with red color, low heel height and zip closure"
    )
    assert readable.write(words | {"heel_height": None, "closure": "zip"}) == (
        "suede boots with red color and zip closure"
    )


def test_a_name_stands_for_label_and_word() -> None:
    names = {"boat shoes": "Deck Shoes", "White": "chalk"}
    readable = ReadableText(GROUPS, "{object}[ in {color}]", names)
    assert readable.write(BOAT_SHOES) == "Deck Shoes in chalk"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{object} {colour}", r"names \{colour\}.*there are \{attribute\}, \{object\}, \{color\}"),
        ("{object", "brace is not closed"),
        ("object}", "brace is not closed, or not opened"),
        ("{object}[ in {color}", "bracket is not closed"),
        ("{object} in {color}]", "bracket is not closed, not opened"),
        ("{object}[ in [{color}]]", "inside another"),
        ("{object}[ in stock]", "holds no place"),
        ("in {color}", "neither {attribute} nor {object}"),
        ("", "neither"),
    ],
)
def test_a_template_that_cannot_be_written_is_refused(template, message) -> None:
    with pytest.raises(ReadableTemplateError, match=message):
        check_places(template, GROUPS)
    with pytest.raises(ReadableTemplateError, match=message):
        ReadableText(GROUPS, template, {})


@given(st.text(alphabet="{}[], abcdefghijlmnotur", max_size=40))
def test_any_template_is_read_or_refused(template) -> None:
    try:
        places = template_places(template)
    except ReadableTemplateError:
        return
    readable = ReadableText(tuple(sorted(places)), template, {})
    words = dict.fromkeys({*places, "attribute", "object"}, "Some.Word")
    assert "some word" in readable.write(words)
