"""The words of a prompt as a shop would print them: ``full grain leather boat shoes in white``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from compositional_prompts.prompt.pair import spoken
from compositional_prompts.prompt.text_form import label_form

PAIR = ("attribute", "object")
_PIECES = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)|(.)", re.DOTALL)
_PLACE = re.compile(r"\{([^{}]*)\}")


class ReadableTemplateError(ValueError):
    """A template of readable texts cannot be read, or names what no prompt has."""


def template_places(template: str) -> set[str]:
    """The places that a template names, and a check of all that needs no groups.

    ``{attribute}``, ``{object}`` and ``{group}`` stand for words. What stands in square brackets is
    left out where a word in it is unspecified.

    Raises:
        ReadableTemplateError: a brace or a bracket lacks its other half or stands inside another
            bracket, a bracket holds no place, or neither attribute nor object is named.
    """
    places: set[str] = set()
    for optional, text in _pieces(template):
        found = _PLACE.findall(text)
        if re.search(r"[{}]", _PLACE.sub("", text)):
            raise ReadableTemplateError(f"a brace is not closed, or not opened, in {template!r}.")
        if optional and not found:
            raise ReadableTemplateError(
                f"[{text}] of {template!r} holds no place such as {{object}}: there is no word "
                "without which it would be left out; write it without the brackets."
            )
        places.update(found)
    if not places & set(PAIR):
        raise ReadableTemplateError(
            f"{template!r} names neither {{attribute}} nor {{object}}: a text may be left empty."
        )
    return places


def check_places(template: str, groups: Sequence[str]) -> None:
    """Check that a template names nothing that prompts of these attribute groups lack.

    Raises:
        ReadableTemplateError: naming what it knows nothing of, or as :func:`template_places`.
    """
    unknown = sorted(template_places(template) - {*PAIR, *groups})
    if unknown:
        raise ReadableTemplateError(
            f"{template!r} names {{{unknown[0]}}}, which is no place of the prompt; there are "
            f"{', '.join(f'{{{place}}}' for place in (*PAIR, *groups))}."
        )


class ReadableText:
    """Readable texts of prompts, of the words in their places."""

    def __init__(
        self, groups: Sequence[str], template: str | None, names: Mapping[str, str]
    ) -> None:
        """Make it.

        Args:
            groups: the attribute groups, in the order of the prompt.
            template: as :func:`template_places` has it; None for attribute and object, followed
                by the groups in the words of the prompt: ``canvas sandals with white color and
                fabric material``.
            names: what is written for a label or a word, in any case, where it is not the label
                itself in lower case with spaces for its dots and underscores.

        Raises:
            ReadableTemplateError: as :func:`check_places`.
        """
        if template is not None:
            check_places(template, groups)
        self._groups = tuple(groups)
        self._pieces = None if template is None else _pieces(template)
        self._names = {label_form(label): text for label, text in names.items()}

    def write(self, words: Mapping[str, str | None]) -> str:
        """The text of ``attribute``, ``object`` and a word or None of every group.

        Where labels are objects alone there is no attribute, and nothing stands in its place.
        """
        named = {place: None if word is None else self._name(word) for place, word in words.items()}
        if self._pieces is None:
            return _tidy(self._sentence(named))
        written = (_PLACE.sub(lambda place: named.get(place[1]) or "", text)
            for optional, text in self._pieces
            if not (optional and any(named.get(place) is None for place in _PLACE.findall(text)))
        )  # fmt: skip
        return _tidy("".join(written))

    def _name(self, label: str) -> str:
        return self._names.get(label_form(label)) or spoken(label).replace("_", " ")

    def _sentence(self, named: Mapping[str, str | None]) -> str:
        pair = " ".join(filter(None, [named.get("attribute"), named["object"]]))
        phrases = [
            f"{named[group]} {group.replace('_', ' ')}" for group in self._groups if named[group]
        ]
        if not phrases:
            return pair
        *others, last = phrases
        return f"{pair} with {' and '.join(filter(None, [', '.join(others), last]))}"


def _pieces(template: str) -> list[tuple[bool, str]]:
    """The parts of a template, and of each whether it may be left out."""
    pieces = []
    for found in _PIECES.finditer(template):
        if found[3] is not None:
            raise ReadableTemplateError(
                f"a square bracket is not closed, not opened, or inside another, in {template!r}."
            )
        optional = found[1] is not None
        pieces.append((optional, found[1] if optional else found[2]))
    return pieces


def _tidy(text: str) -> str:
    """Without the double spaces, and spaces before commas, that words leave which are missing."""
    return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split())).strip(" ,;:")
