"""Labels and true words that differ in nothing that is read: one spelling takes the others' place.

A shop writes ``Canvas``, ``canvas`` and ``canvas `` where it means one thing. As classes of their
own they would share the images, and no model that reads text could tell them apart.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.truth import CANNOT_TELL, SEPARATOR
from compositional_prompts.prompt.pair import Pair
from compositional_prompts.prompt.text_form import (
    clean_text,
    label_form,
    most_common_spellings,
    word_form,
)

_SHOWN: Final = 5
_LISTED: Final = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spellings:
    """How the texts of one kind were written.

    Attributes:
        counts: how many images have each, as the data set has it.
        kept: of each, the spelling that the catalog has.
    """

    counts: Mapping[str, int]
    kept: Mapping[str, str]

    @classmethod
    def of(cls, counts: Mapping[str, int], form: Callable[[str], str]) -> Spellings:
        """Those of texts that are compared by ``form``."""
        forms = {text: form(text) for text in counts}
        return cls(counts, most_common_spellings(counts, forms))

    @property
    def rewritten(self) -> dict[str, str]:
        """By text as it was written first, cleaned, what takes its place."""
        cleaned = {clean_text(text): kept for text, kept in self.kept.items()}
        return {text: kept for text, kept in cleaned.items() if text != kept}

    @property
    def joined(self) -> dict[str, dict[str, int]]:
        """By spelling kept, the others that were joined to it, with their numbers of images."""
        written: dict[str, list[str]] = {}
        for text, kept in self.kept.items():
            written.setdefault(kept, []).append(text)
        return {
            kept: {text: self.counts[text] for text in sorted(texts) if text != kept}
            for kept, texts in sorted(written.items())
            if len(texts) > 1
        }


@dataclass
class CountedTexts:
    """The labels and true words of the rows of a catalog, as the data set writes them.

    Memory holds each different one once.
    """

    pairs: Counter[Pair] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)
    words: dict[str, Counter[str]] = field(default_factory=dict)
    _cells: dict[str, list[str]] = field(default_factory=dict)

    def count(self, row: CatalogRow) -> CatalogRow:
        """Count a row; it, with its texts cleaned."""
        if row.object is not None and row.attribute is not None:
            self.pairs[row.attribute, row.object] += 1
        elif row.object is not None:
            self.alone[row.object] += 1
        for group, cell in row.truth.items():
            if cell:
                self.words.setdefault(group, Counter()).update(self._words(cell))
        return row._replace(
            attribute=None if row.attribute is None else clean_text(row.attribute),
            object=None if row.object is None else clean_text(row.object),
        )

    def _words(self, cell: str) -> list[str]:
        """The words of a cell, as written; cells repeat, as a rule."""
        found = self._cells.get(cell)
        if found is None:
            if len(self._cells) > 2**16:
                self._cells.clear()
            words = dict.fromkeys(word.strip() for word in cell.split(SEPARATOR))
            found = [word for word in words if word_form(word) not in ("", CANNOT_TELL)]
            self._cells[cell] = found
        return found

    def spelled(self) -> SpelledTexts:
        """What the catalog writes for them."""
        attributes: Counter[str] = Counter()
        objects = Counter(self.alone)
        for (attribute, object_), count in self.pairs.items():
            attributes[attribute] += count
            objects[object_] += count
        return SpelledTexts(
            Spellings.of(attributes, label_form),
            Spellings.of(objects, label_form),
            {group: Spellings.of(words, word_form) for group, words in self.words.items()},
        )


@dataclass(frozen=True)
class SpelledTexts:
    """What is written for the texts of a catalog; those of ``truth`` by group."""

    attributes: Spellings
    objects: Spellings
    truth: Mapping[str, Spellings]

    def pair(self, attribute: str, object_: str) -> Pair:
        """A pair as the catalog has it."""
        return self.attributes.kept[attribute], self.objects.kept[object_]

    @property
    def truth_rewritten(self) -> dict[str, dict[str, str]]:
        """By group, what takes the place of some of its words."""
        found = {group: words.rewritten for group, words in self.truth.items()}
        return {group: words for group, words in found.items() if words}

    def metrics(self) -> dict[str, Any]:
        """What was joined, where anything was: ``joined_spellings``.

        By kind of text (``attribute``, ``object``, and groups of truth under ``truth``) and by the
        spelling kept the others with their numbers of images; of a kind a hundred at most.
        """
        found: dict[str, Any] = {}
        for name, spellings in (("attribute", self.attributes), ("object", self.objects)):
            if joined := spellings.joined:
                found[name] = _listed(joined)
        truth = {group: words.joined for group, words in self.truth.items()}
        if any(truth.values()):
            found["truth"] = {group: _listed(words) for group, words in truth.items() if words}
        return {"joined_spellings": found} if found else {}

    def log(self) -> None:
        """Say what was joined."""
        kinds = {"attribute": self.attributes, "object": self.objects}
        kinds |= {f"word of {group!r}": words for group, words in self.truth.items()}
        for kind, spellings in kinds.items():
            joined = spellings.joined
            if joined:
                shown = "; ".join(
                    f"{kept!r} for " + ", ".join(f"{text!r} ({n})" for text, n in others.items())
                    for kept, others in list(joined.items())[:_SHOWN]
                )
                more = f" and {len(joined) - _SHOWN} more" if len(joined) > _SHOWN else ""
                log.warning(
                    "warning: spellings that differ in letter case, spaces or encoding alone are "
                    "one %s, written as most images have it: %s%s",
                    *(kind, shown, more),
                )


def _listed(joined: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {kept: dict(others) for kept, others in list(joined.items())[:_LISTED]}
