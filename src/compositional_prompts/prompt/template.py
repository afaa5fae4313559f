"""The wording of the enhanced prompt, written and read by the same class.

``A photo of {Attribute}_{Object} with {color} color and {material} material``: the pair that
Troika named, then one phrase for each attribute group, in the order of the vocabulary. Of a data
set whose labels are objects alone it is ``A photo of {Object} with ...``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from compositional_prompts.prompt.pair import (
    NO_ATTRIBUTE,
    PREFIX,
    SEPARATOR,
    Pair,
    original_prompt,
)

WITH = " with "
FALLBACKS: Mapping[Literal["unspecified", "undefined"], str] = {
    "unspecified": "an unspecified",
    "undefined": "{undefined}",
}
"""What stands where a group has no word: ``an unspecified color`` or ``{undefined} color``.
The braces of the second are part of the text, as in the report."""


class PromptError(ValueError):
    """A name or word cannot stand in the prompt, because it could not be read back from it."""


@dataclass(frozen=True)
class Prompt:
    """What an enhanced prompt says; a group's word is None where it is unspecified.

    The attribute is :data:`NO_ATTRIBUTE` where labels are objects alone.
    """

    attribute: str
    object: str
    words: Mapping[str, str | None]


class PromptTemplate:
    """The enhanced prompt for given attribute groups: :meth:`format`, and :meth:`parse` to read it.

    The phrases of the groups follow ``with``: one alone (``with red color``), two joined by
    ``and`` (``with red color and suede material``), more of them with commas before the last
    (``with red color, suede material and zip closure``). A group's name is read with spaces for
    its underscores (``heel_height``: ``with low heel height``). Only the fallback has an article.
    """

    def __init__(
        self,
        groups: Sequence[str],
        fallback: Literal["unspecified", "undefined"] = "unspecified",
        attributes: Iterable[str] = (),
        *,
        objects_alone: bool = False,
    ) -> None:
        """Make the template.

        Args:
            groups: names of the attribute groups, in the order of the prompt; at least one.
            fallback: the wording for a group without a word; both are understood when reading.
            attributes: the attributes that may occur. They matter only where one holds an
                underscore: the longest of them that fits is taken as the attribute of a pair;
                otherwise the first underscore ends it.
            objects_alone: prompts name an object and no attribute.

        Raises:
            PromptError: no group is given, or one cannot be read back, or is given twice.
        """
        if not groups:
            raise PromptError("the enhanced prompt needs at least one attribute group, found none.")
        for group in groups:
            if not group or group != " ".join(group.split()):
                raise PromptError(
                    f"attribute group {group!r} must be a name without outer or doubled spaces."
                )
            if "with" in group.replace("_", " ").split():
                raise PromptError(
                    f"attribute group {group!r} must not hold the word 'with', "
                    "after which the prompt names the groups; rename it."
                )
            if groups.count(group) > 1:
                raise PromptError(f"attribute group {group!r} is given twice.")
        labels = [group.replace("_", " ") for group in groups]
        joints = [", "] * (len(groups) - 2) + [" and "] if len(groups) > 1 else []
        self.groups = tuple(groups)
        self.fallback = FALLBACKS[fallback]
        self.objects_alone = objects_alone
        # A line end closes the last phrase, so that every phrase is one word and one fixed end.
        self._ends = [
            f" {label}{joint}" for label, joint in zip(labels, [*joints, "\n"], strict=True)
        ]
        self._attributes = sorted((name for name in attributes if SEPARATOR in name), key=len)[::-1]

    def check_words(self, words: Mapping[str, Sequence[str]]) -> None:
        """Check that every word of the vocabulary can be read back from a prompt.

        Args:
            words: the words of each group.

        Raises:
            PromptError: naming the first word that cannot, with what is in its way.
        """
        for group, end in zip(self.groups, self._ends, strict=True):
            for word in words[group]:
                if not word or word != " ".join(word.split()):
                    problem = "is empty, or has outer or doubled spaces"
                elif word in FALLBACKS.values():
                    problem = "is the wording for a word that is missing"
                elif WITH in f" {word}{end} " or (word + end).index(end) != len(word):
                    problem = "would be read as part of the sentence around it"
                else:
                    continue
                raise PromptError(
                    f"attribute group {group!r}: the word {word!r} {problem}; reword it."
                )

    def format(self, attribute: str, object_: str, words: Mapping[str, str | None]) -> str:
        """Write the prompt; ``words`` has a word, or None where unspecified, for every group.

        Raises:
            PromptError: ``attribute`` or ``object_`` is empty, or there is an attribute where
                objects are named alone.
        """
        self._check_pair(attribute, object_)
        phrases = (
            (words[group] or self.fallback) + end
            for group, end in zip(self.groups, self._ends, strict=True)
        )
        return f"{original_prompt(attribute, object_)}{WITH}{''.join(phrases)}".removesuffix("\n")

    def alternatives(
        self, pairs: Iterable[Pair], words: Mapping[str, Sequence[str]]
    ) -> list[list[str]]:
        """Every prompt there can be, as the texts that may stand in each of its places.

        Any attribute may go with any object: held to the pairs, a writer that begins with a wrong
        attribute is not free to name the right object any more.

        Args:
            pairs: attribute and object of the pairs that may be named; repeats count once.
            words: the words of each group; both wordings for a missing word are added.

        Returns:
            Segments: one alternative of each, joined in order, is a prompt that :meth:`parse`
            reads, and every prompt of these attributes, objects and words is among them.

        Raises:
            PromptError: there is no pair, a name is empty, or a word cannot be read back.
        """
        self.check_words(words)
        names = dict.fromkeys(pairs)
        if not names:
            raise PromptError("the enhanced prompt needs at least one pair, found none.")
        for attribute, object_ in names:
            self._check_pair(attribute, object_)
        attributes, objects = (list(dict.fromkeys(part)) for part in zip(*names, strict=True))
        named = [objects] if self.objects_alone else [attributes, [SEPARATOR], objects]
        segments = [[PREFIX], *named, [WITH]]
        for group, end in zip(self.groups, self._ends, strict=True):
            segments += [[*dict.fromkeys(words[group]), *FALLBACKS.values()], [end]]
        segments[-1] = [segments[-1][0].removesuffix("\n")]
        return segments

    def parse(self, text: str) -> Prompt | None:
        """Read a caption, or return None where it does not follow the template.

        The wording is compared exactly, letter case included, apart from white space around it.
        Any words may stand in the places of the template, in the vocabulary or not.
        """
        pair, joint, rest = (text.strip() + "\n").rpartition(WITH)
        if not joint or not pair.startswith(PREFIX):
            return None
        attribute, object_ = self._split_pair(pair.removeprefix(PREFIX))
        if not object_ or (attribute == NO_ATTRIBUTE) != self.objects_alone:
            return None
        words: dict[str, str | None] = {}
        for group, end in zip(self.groups, self._ends, strict=True):
            word, found, rest = rest.partition(end)
            if not found or not word.strip():
                return None
            words[group] = None if word in FALLBACKS.values() else word
        return None if rest else Prompt(attribute, object_, words)

    def read_slots(self, text: str) -> dict[str, str | None] | None:
        """As :meth:`parse`, but every word by its place: attribute, object, then each group.

        Where objects are named alone, there is no place of an attribute.
        """
        prompt = self.parse(text)
        if prompt is None:
            return None
        named = {} if self.objects_alone else {"attribute": prompt.attribute}
        return {**named, "object": prompt.object, **prompt.words}

    def _check_pair(self, attribute: str, object_: str) -> None:
        if self.objects_alone:
            if attribute != NO_ATTRIBUTE or not object_:
                raise PromptError(
                    "an object without an attribute is needed, where labels are objects alone, "
                    f"found {attribute!r} and {object_!r}."
                )
        elif not attribute or not object_:
            raise PromptError(
                f"attribute and object must not be empty, found {attribute!r} and {object_!r}."
            )

    def _split_pair(self, pair: str) -> tuple[str, str]:
        if self.objects_alone:
            # An underscore would be that of a pair, which no such prompt has.
            return NO_ATTRIBUTE, "" if SEPARATOR in pair else pair
        for attribute in self._attributes:
            if pair.startswith(attribute + SEPARATOR):
                return attribute, pair.removeprefix(attribute + SEPARATOR)
        attribute, _, object_ = pair.partition(SEPARATOR)
        return attribute, object_


def slot_reader(
    groups: Sequence[str], attributes: Iterable[str] | None
) -> Callable[[str], dict[str, str | None] | None]:
    """What reads the words in the places of a text, as :meth:`PromptTemplate.read_slots`.

    Args:
        groups: as of :class:`PromptTemplate`.
        attributes: those that may occur; None where prompts name objects alone.
    """
    template = PromptTemplate(groups, attributes=attributes or (), objects_alone=attributes is None)
    return template.read_slots


def names_objects_alone(segments: Sequence[Sequence[str]]) -> bool:
    """Whether prompts of these :meth:`PromptTemplate.alternatives` name objects alone."""
    return [SEPARATOR] not in [list(alternatives) for alternatives in segments]
