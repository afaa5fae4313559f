"""RGB values of colour words."""

import pytest

from compositional_prompts.enhancement.colors.reference_colors import reference_colors
from compositional_prompts.enhancement.parameters import ReferenceColor


def test_common_names_are_found_in_the_order_of_the_vocabulary():
    found = reference_colors(["white", "Navy  Blue", "grey", "black"], [])
    assert found is not None
    assert {word: rgb.tolist() for word, rgb in found.items()} == {
        "white": [255, 255, 255],
        "Navy  Blue": [0, 17, 70],
        "grey": [146, 149, 145],
        "black": [0, 0, 0],
    }
    assert list(found) == ["white", "Navy  Blue", "grey", "black"]


def test_names_of_css_alone_are_found_too():
    found = reference_colors(["rebecca purple"], [])
    assert found is not None and found["rebecca purple"].tolist() == [102, 51, 153]


def test_a_parameter_goes_before_the_tables_and_adds_words():
    found = reference_colors(
        ["white", "kumquat", "red"],
        [
            ReferenceColor(word="White", rgb=[250, 250, 240]),
            ReferenceColor(word="red", rgb=[1] * 3),
        ],
    )
    assert found is not None
    assert {word: rgb.tolist() for word, rgb in found.items()} == {
        "white": [250, 250, 240],
        "red": [1, 1, 1],
    }


@pytest.mark.parametrize(
    "words",
    [
        ["leather", "fabric", "rubber", "synthetic"],  # leather is an XKCD colour
        ["lace-up", "zip", "buckle"],
        ["multi"],
        ["red", "multi"],
    ],
)
def test_a_group_of_other_things_is_not_one_of_colours(words):
    assert reference_colors(words, []) is None


def test_black_given_by_parameter_is_a_colour():
    found = reference_colors(["soot"], [ReferenceColor(word="soot", rgb=[0, 0, 0])])
    assert found is not None and found["soot"].tolist() == [0, 0, 0]
