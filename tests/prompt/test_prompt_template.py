"""The enhanced prompt's wording, and reading it back."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compositional_prompts.prompt.pair import (
    NO_ATTRIBUTE,
    label_name,
    objects_alone,
    original_prompt,
    spoken_prompt,
)
from compositional_prompts.prompt.template import (
    Prompt,
    PromptError,
    PromptTemplate,
    names_objects_alone,
)

COLOR_AND_MATERIAL = PromptTemplate(["color", "material"])

# A small alphabet with every piece of the sentence in it makes collisions likely.
pieces = st.sampled_from(
    ["a", "and", "with", "color", "material", "an", "unspecified", "{undefined}", "color,", ",",
     "navy", "blue", "lace-up", "A", "photo", "of", "_", "é", "<b>"]
)  # fmt: skip
words = st.lists(pieces, min_size=1, max_size=4).map(" ".join)
group_names = st.sampled_from(["color", "material", "closure", "heel_height", "and", "a"])
names = st.text(min_size=1, max_size=8) | words


@st.composite
def templates_and_prompts(draw: st.DrawFn) -> tuple[PromptTemplate, Prompt]:
    groups = draw(st.lists(group_names, min_size=1, max_size=5, unique=True))
    vocabulary = {group: draw(st.lists(words, min_size=1, max_size=3)) for group in groups}
    attribute = draw(names)
    template = PromptTemplate(
        groups, draw(st.sampled_from(["unspecified", "undefined"])), attributes=[attribute]
    )
    for group in groups:
        for word in tuple(vocabulary[group]):
            try:
                template.check_words({name: [] for name in groups} | {group: [word]})
            except PromptError:
                vocabulary[group].remove(word)
    chosen = {group: draw(st.sampled_from([None, *vocabulary[group]])) for group in groups}
    return template, Prompt(attribute, draw(names), chosen)


@pytest.mark.parametrize(
    ("groups", "words", "fallback", "expected"),
    [
        (["color"], {"color": "navy blue"}, "unspecified", "with navy blue color"),
        (
            ["color", "material"],
            {"color": "white", "material": "rubber"},
            "unspecified",
            "with white color and rubber material",
        ),
        (
            ["color", "material"],
            {"color": None, "material": "rubber"},
            "unspecified",
            "with an unspecified color and rubber material",
        ),
        (
            ["material", "color"],
            {"color": None, "material": "rubber"},
            "undefined",
            "with rubber material and {undefined} color",
        ),
        (
            ["color", "material", "heel_height"],
            {"color": "red", "material": None, "heel_height": "low"},
            "unspecified",
            "with red color, an unspecified material and low heel height",
        ),
    ],
)
def test_wording(groups, words, fallback, expected):
    template = PromptTemplate(groups, fallback)
    text = template.format("Canvas", "Sandals", words)
    assert text == f"A photo of Canvas_Sandals {expected}"
    assert template.parse(text) == Prompt("Canvas", "Sandals", words)


@given(templates_and_prompts())
def test_what_is_written_is_read_back(case):
    template, prompt = case
    text = template.format(prompt.attribute, prompt.object, prompt.words)
    assert template.parse(text) == prompt
    assert template.parse(f"\n {text} ") == prompt
    assert template.read_slots(text) == {
        "attribute": prompt.attribute,
        "object": prompt.object,
        **prompt.words,
    }


@given(templates_and_prompts(), st.text(max_size=60) | words)
def test_whatever_parses_is_written_as_it_was_read(case, text):
    template, _ = case
    for caption in (text, f"A photo of {text}", f"A photo of a_b with {text} color and c material"):
        read = template.parse(caption)
        if read is not None and None not in read.words.values():
            assert template.format(read.attribute, read.object, read.words) == caption.strip()


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "white canvas sandals with a rubber sole",
        "A photo of Canvas_Sandals",
        "A photo of Canvas_Sandals with white color",
        "A photo of Canvas_Sandals with white color and rubber",
        "A photo of Canvas_Sandals with white color and rubber material and",
        "A photo of Canvas_Sandals with white color and rubber material.",
        "A photo of Canvas_Sandals with rubber material and white color",
        "A photo of Canvas_Sandals with  color and rubber material",
        "A photo of Canvas_Sandals with white color and  material",
        "A photo of Canvas Sandals with white color and rubber material",
        "A photo of _Sandals with white color and rubber material",
        "A photo of Canvas_ with white color and rubber material",
        "a photo of Canvas_Sandals with white color and rubber material",
        "A photo of Canvas_Sandals with white color and rubber material\nand more",
    ],
)
def test_other_captions_are_not_well_formed(caption):
    assert COLOR_AND_MATERIAL.parse(caption) is None
    assert COLOR_AND_MATERIAL.read_slots(caption) is None


def test_both_fallbacks_are_understood_whichever_is_written():
    for fallback in ("unspecified", "undefined"):
        template = PromptTemplate(["color"], fallback)
        for wording in ("an unspecified", "{undefined}"):
            read = template.parse(f"A photo of A_B with {wording} color")
            assert read is not None and read.words == {"color": None}


def test_words_outside_any_vocabulary_are_read():
    read = COLOR_AND_MATERIAL.parse(
        "A photo of A_B_C with purplish color and bark and wood material"
    )
    assert read == Prompt("A", "B_C", {"color": "purplish", "material": "bark and wood"})


def test_known_attributes_with_an_underscore_are_not_cut():
    template = PromptTemplate(["color"], attributes=["Faux", "Faux_Fur", "Faux_Fur_Soft"])
    for attribute in ("Faux", "Faux_Fur", "Faux_Fur_Soft"):
        text = template.format(attribute, "Boots_Ankle", {"color": "red"})
        assert template.parse(text) == Prompt(attribute, "Boots_Ankle", {"color": "red"})


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("", "is empty"),
        (" red", "outer or doubled spaces"),
        ("navy  blue", "outer or doubled spaces"),
        ("navy\nblue", "outer or doubled spaces"),
        ("an unspecified", "a word that is missing"),
        ("{undefined}", "a word that is missing"),
        ("white with red", "sentence around it"),
        ("with red", "sentence around it"),
        ("red color and white", "sentence around it"),
        ("red color and", "sentence around it"),
    ],
)
def test_words_that_cannot_be_read_back_are_refused(word, reason):
    with pytest.raises(PromptError, match=reason) as error:
        COLOR_AND_MATERIAL.check_words({"color": ["white", word], "material": ["rubber"]})
    assert "'color'" in str(error.value) and repr(word) in str(error.value)


def test_words_that_only_look_dangerous_are_accepted():
    COLOR_AND_MATERIAL.check_words(
        {"color": ["two color", "black and white", "color"], "material": ["color and material"]}
    )


@pytest.mark.parametrize(
    "groups", [[], [""], [" color"], ["a\nb"], ["with"], ["go_with"], ["color", "color"]]
)
def test_groups_that_cannot_name_a_phrase_are_refused(groups):
    with pytest.raises(PromptError):
        PromptTemplate(groups)


def test_an_empty_name_is_refused():
    with pytest.raises(PromptError, match="must not be empty"):
        COLOR_AND_MATERIAL.format("Canvas", "", {"color": "red", "material": "rubber"})


def test_alternatives_are_all_the_prompts_there_can_be():
    template = PromptTemplate(["color", "heel_height"])
    segments = template.alternatives(
        [("Canvas", "Sandals"), ("Suede", "Boots"), ("Canvas", "Sandals")],
        {"color": ["red", "navy blue"], "heel_height": ["low"]},
    )
    assert segments == [
        ["A photo of "],
        ["Canvas", "Suede"],
        ["_"],
        ["Sandals", "Boots"],
        [" with "],
        ["red", "navy blue", "an unspecified", "{undefined}"],
        [" color and "],
        ["low", "an unspecified", "{undefined}"],
        [" heel height"],
    ]


UNDERSCORE = (
    PromptTemplate(["color"]),
    Prompt("0", "0", {"color": None}),
)


@example(UNDERSCORE, [("_", "0")])
@given(templates_and_prompts(), st.lists(st.tuples(names, names), max_size=2))
def test_every_choice_among_alternatives_is_a_prompt(case, pairs):
    template, prompt = case
    words = {group: [word] if word else [] for group, word in prompt.words.items()}
    segments = template.alternatives([(prompt.attribute, prompt.object), *pairs], words)
    captions = ["".join(parts) for parts in itertools.product(*segments)]
    assert template.format(prompt.attribute, prompt.object, prompt.words) in captions
    # Whoever reads knows the attributes, or one with an underscore would be cut there.
    attributes = [prompt.attribute, *(attribute for attribute, _ in pairs)]
    reader = PromptTemplate(template.groups, attributes=attributes)
    for caption in captions[:: max(1, len(captions) // 50)]:
        read = reader.parse(caption)
        assert read is not None
        assert all(word is None or word in words[group] for group, word in read.words.items())


def test_alternatives_without_a_pair_or_with_words_that_cannot_be_read_are_refused():
    words = {"color": ["red"], "material": []}
    with pytest.raises(PromptError, match="at least one pair"):
        COLOR_AND_MATERIAL.alternatives([], words)
    with pytest.raises(PromptError, match="must not be empty"):
        COLOR_AND_MATERIAL.alternatives([("Canvas", "")], words)
    with pytest.raises(PromptError, match="reword"):
        COLOR_AND_MATERIAL.alternatives([("A", "B")], words | {"color": ["red with"]})


def test_objects_alone_are_named_and_read_back_without_an_attribute() -> None:
    template = PromptTemplate(["color"], objects_alone=True)
    prompt = template.format(NO_ATTRIBUTE, "Ankle.Boots", {"color": "red"})
    assert prompt == "A photo of Ankle.Boots with red color"
    assert template.parse(prompt) == Prompt(NO_ATTRIBUTE, "Ankle.Boots", {"color": "red"})
    assert template.read_slots(prompt) == {"object": "Ankle.Boots", "color": "red"}
    segments = template.alternatives([(NO_ATTRIBUTE, "Boots"), (NO_ATTRIBUTE, "Hat")],
                                     {"color": ["red"]})  # fmt: skip
    assert names_objects_alone(segments)
    for parts in itertools.product(*segments):
        assert template.parse("".join(parts)) is not None
    pair = COLOR_AND_MATERIAL.alternatives([("Canvas", "Boots")], {"color": [], "material": []})
    assert not names_objects_alone(pair)


def test_neither_kind_of_prompt_is_read_as_the_other() -> None:
    alone, pairs = (PromptTemplate(["color"], objects_alone=one) for one in (True, False))
    of_object, of_pair = "A photo of Boots with red color", "A photo of Suede_Boots with red color"
    assert alone.parse(of_pair) is None
    assert pairs.parse(of_object) is None
    with pytest.raises(PromptError, match="without an attribute"):
        alone.format("Suede", "Boots", {"color": None})
    with pytest.raises(PromptError, match="must not be empty"):
        pairs.format(NO_ATTRIBUTE, "Boots", {"color": None})


def test_labels_are_named_by_what_they_have() -> None:
    assert original_prompt(NO_ATTRIBUTE, "Sandals") == "A photo of Sandals"
    assert spoken_prompt(NO_ATTRIBUTE, "Ankle.Boots") == "a photo of ankle boots"
    assert label_name(None, "Sandals") == "Sandals"
    assert label_name("Canvas", "Sandals") == "Canvas_Sandals"
    assert label_name(None, None) is None
    assert objects_alone([None, NO_ATTRIBUTE])
    assert not objects_alone(["Canvas"])
    with pytest.raises(ValueError, match="all or none"):
        objects_alone([None, "Canvas"])
