"""The list of photos of a compositional data set, and the pairs of its splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from compositional_prompts.catalog.splitting.split_tables import SPLIT_NAMES
from compositional_prompts.datasets.compositional.split_files import CompositionalError
from compositional_prompts.prompt.pair import Pair

SPLIT: Final = "compositional-split-natural"
METADATA: Final = f"metadata_{SPLIT}.t7"
PAIR_FILES: Final = {name: f"{SPLIT}/{name}_pairs.txt" for name in SPLIT_NAMES}

NOT_KNOWN: Final = "NA"
"""What stands in the list of photos for an attribute or a set that there is none of."""


class Entry(NamedTuple):
    """One photo of the list, as it stands there.

    Attributes:
        number: its place in the list, from 0 on.
        original: ``_image``, the path in the original data set.
        listed_by: the splits whose pair files list its pair, where its own set does not: the photo
            cannot take part.
    """

    number: int
    image: str
    original: str | None
    attribute: str
    object: str
    split: str
    listed_by: tuple[str, ...] = ()

    @property
    def pair(self) -> Pair:
        return self.attribute, self.object


class PairLists(NamedTuple):
    """The pairs of each split.

    Attributes:
        by_split: as the files list them, or as the photos of each set have them.
        derived: whether there were no files.
    """

    by_split: Mapping[str, frozenset[Pair]]
    derived: bool = False

    def closed_world(self) -> dict[Pair, str]:
        """Every pair and its split: train where training sees it."""
        return {pair: name for name in reversed(SPLIT_NAMES) for pair in self.by_split[name]}

    def check(self, source: str) -> None:
        """
        Raises:
            CompositionalError: training has no pair, or validation and test have an unseen one in
                common.
        """
        train, val, test = (self.by_split[name] for name in SPLIT_NAMES)
        if not train:
            what = "has no photo" if self.derived else "lists no pair"
            raise CompositionalError(f"{source}: {self._place('train')} {what}.")
        both = sorted((val & test) - train)
        if both:
            raise CompositionalError(
                f"{source}: the pair {' '.join(both[0])} is unseen in training and listed both in "
                f"{self._place('val')} and in {self._place('test')}: validation would give it away."
            )

    def _place(self, split: str) -> str:
        return f"the set {split} of {METADATA}" if self.derived else PAIR_FILES[split]


def read_pairs(source: str, text: str, separator: str | None = None) -> Iterator[Pair]:
    """The pairs of a file, a line each.

    Args:
        source: its name, for messages.
        text: of the file.
        separator: what may stand between attribute and object where names have blanks in them; a
            line without it is parted at its blank.

    Raises:
        CompositionalError: a line is no pair.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        parted = line.split(separator if separator and separator in line else None)
        words = [word.strip() for word in parted]
        if len(words) != 2 or not all(words):
            between = f"{separator!r} or a blank" if separator else "a blank"
            raise CompositionalError(
                f"{source}, line {number}: {line.strip()!r} is not an attribute and an object "
                f"with {between} between."
            )
        yield words[0], words[1]


def read_entries(document: Any, source: str) -> list[Entry]:
    """The list of photos.

    Args:
        document: what the ``.t7`` holds.
        source: its name, for messages.

    Raises:
        CompositionalError: it is no list of photos; names the entry.
    """
    if not isinstance(document, list):
        raise CompositionalError(f"{source}: a {type(document).__name__}, expected a list.")
    return [_entry(item, source, number) for number, item in enumerate(document)]


def derive_pairs(entries: Sequence[Entry]) -> PairLists:
    """The pairs of each split by its photos."""
    found: dict[str, set[Pair]] = {name: set() for name in SPLIT_NAMES}
    for entry in entries:
        if entry.attribute != NOT_KNOWN and entry.split in found:
            found[entry.split].add(entry.pair)
    return PairLists({name: frozenset(pairs) for name, pairs in found.items()}, derived=True)


def select_entries(
    entries: Sequence[Entry], source: str, lists: PairLists
) -> tuple[list[Entry], dict[str, int]]:
    """The entries to take, and how many take no part, by reason.

    Those that only other splits list are among them, and say so.

    Raises:
        CompositionalError: a set is none of the splits, or two entries have one image.
    """
    listed = frozenset().union(*lists.by_split.values())
    dropped = dict.fromkeys(("missing_label", "unlisted_pair", "no_split"), 0)
    taken: list[Entry] = []
    by_image: dict[str, Entry] = {}
    for entry in entries:
        if entry.attribute == NOT_KNOWN:
            dropped["missing_label"] += 1
        elif entry.pair not in listed:
            dropped["unlisted_pair"] += 1
        elif entry.split == NOT_KNOWN:
            dropped["no_split"] += 1
        else:
            _check_split(entry, source)
            other = _listed_by_others(entry, lists)
            taken.append(entry._replace(listed_by=other))
            if not other:
                _check_once(entry, by_image.setdefault(entry.image, entry), source)
    return taken, dropped


def _entry(item: Any, source: str, number: int) -> Entry:
    place = f"{source}: entry {number}"
    if not isinstance(item, dict):
        raise CompositionalError(f"{place}: a {type(item).__name__}, expected a dictionary.")
    values: dict[str, str] = {}
    for key in ("image", "attr", "obj", "set", "_image"):
        value = item.get(key)
        if key == "_image" and value is None:
            continue
        # Other values are not shown: they may be nested, and endless.
        if not isinstance(value, str):
            raise CompositionalError(f"{place}: {key!r} is a {type(value).__name__}, not a string.")
        values[key] = value
    for key in ("image", "_image"):
        path = values.get(key, ".")
        if path.startswith("/") or ".." in path.split("/") or not path:
            raise CompositionalError(f"{place}: {key} {values[key]!r} is no path in the data set.")
    return Entry(
        number, values["image"], values.get("_image"), values["attr"], values["obj"], values["set"]
    )


def _check_split(entry: Entry, source: str) -> None:
    if entry.split not in SPLIT_NAMES:
        raise CompositionalError(
            f"{source}: entry {entry.number} ({entry.image!r}): set is {entry.split!r}, expected "
            f"{', '.join(SPLIT_NAMES)} or {NOT_KNOWN}."
        )


def _listed_by_others(entry: Entry, lists: PairLists) -> tuple[str, ...]:
    if entry.pair in lists.by_split["train"] or entry.pair in lists.by_split[entry.split]:
        return ()
    return tuple(name for name in SPLIT_NAMES if entry.pair in lists.by_split[name])


def _check_once(entry: Entry, first: Entry, source: str) -> None:
    if first.number != entry.number:
        raise CompositionalError(
            f"{source}: entry {first.number} (set {first.split}, {' '.join(first.pair)}) and entry "
            f"{entry.number} (set {entry.split}, {' '.join(entry.pair)}) have the same image "
            f"{entry.image!r}; a photo has one label and is in one set: keep one of the two."
        )
