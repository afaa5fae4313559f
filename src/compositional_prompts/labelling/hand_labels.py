"""Labels made by hand: the CSV files of a folder, several rounds and several people."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from compositional_prompts.catalog.truth import CANNOT_TELL, NONE_OF_THESE, SEPARATOR
from compositional_prompts.files.records.spreadsheet_cells import plain_text
from compositional_prompts.prompt.text_form import word_form

ID_COLUMNS: Final = ("image_id", "image_path")
"""What the column of photos may be called: the path is the id of the data set ``folder``."""

PRODUCT_COLUMN: Final = "product_id"
SUGGESTION: Final = "{}_suggestion"
PROBABILITY: Final = "{}_probability"
"""Columns of a group that a list of photos to label has for whoever reads it."""

_NOTES: Final = (".gitignore", ".gitkeep", "README.md")
_SHOWN: Final = 12


class LabelsError(ValueError):
    """Labels made by hand are not as they must be; names file and line."""


class Answer(NamedTuple):
    """What a person said of an image in a group.

    Attributes:
        words: true ones, spelled as in the vocabulary, or NONE_OF_THESE; empty where the person
            cannot tell.
        place: file and line.
    """

    words: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class HandLabels:
    """All answers of a folder.

    Attributes:
        answers: by group and image_id; a group of the vocabulary may have none.
        files: how many files they come from.
    """

    answers: Mapping[str, dict[str, Answer]]
    files: int = 0

    def __bool__(self) -> bool:
        return any(self.answers.values())

    @property
    def image_ids(self) -> list[str]:
        """Every image with an answer, once."""
        return list(dict.fromkeys(image for group in self.answers.values() for image in group))


@dataclass
class _Columns:
    """Where in a row the photo and the words of each group stand."""

    image: int
    groups: dict[str, int] = field(default_factory=dict)


def read_hand_labels(folder: Path, vocabulary: Mapping[str, Sequence[str]]) -> HandLabels:
    """Read every ``*.csv`` of a folder.

    UTF-8, with or without a byte-order mark; comma-separated, quoted where needed. A header with
    ``image_id`` or ``image_path``, perhaps ``product_id``, and a column for one or more groups;
    those that a list of photos to label has beside them are passed over. A cell holds a word of
    the group in any case, several with semicolons, NONE_OF_THESE or CANNOT_TELL; an empty one is
    no answer. Files may repeat an answer, and a word counts against CANNOT_TELL of another.

    Memory holds the answers, some 300 bytes each.

    Args:
        folder: such as ``labels/``.
        vocabulary: the words of every group.

    Raises:
        LabelsError: a file is no such CSV, a word or a column is not known, or two answers for one
            image differ; names file and line.
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} of labels made by hand: make it.")
    _check_vocabulary(vocabulary)
    spelled = {
        group: {word_form(word): word for word in words} for group, words in vocabulary.items()
    }
    answers: dict[str, dict[str, Answer]] = {group: {} for group in vocabulary}
    files = _csv_files(folder)
    for path in files:
        for group, image_id, answer in _answers(path, spelled):
            known = answers[group].setdefault(image_id, answer)
            if set(known.words) == set(answer.words) or not answer.words:
                continue
            if known.words:
                raise LabelsError(
                    f"{answer.place}: {image_id!r} is {_said(answer)} in {group!r}, and "
                    f"{_said(known)} in {known.place}: remove the wrong one."
                )
            answers[group][image_id] = answer
    return HandLabels(answers, len(files))


def _check_vocabulary(vocabulary: Mapping[str, Sequence[str]]) -> None:
    for group, words in vocabulary.items():
        for word in words:
            if word_form(word) in (NONE_OF_THESE, CANNOT_TELL):
                raise LabelsError(
                    f"clip_embed.attributes: the group {group!r} has the word {word!r}, which is "
                    "what people answer where no word fits; remove it."
                )


def _said(answer: Answer) -> str:
    return repr(SEPARATOR.join(answer.words) or CANNOT_TELL)


def _csv_files(folder: Path) -> list[Path]:
    """In the order of their names.

    Raises:
        LabelsError: there is another file or folder, which would be lost without a word.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() == ".csv":
            found.append(path)
        elif path.name not in _NOTES and not path.name.startswith("."):
            raise LabelsError(
                f"{path}: only CSV files count in {folder}; save it as CSV there, or move it away."
            )
    return found


def _answers(
    path: Path, spelled: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, str, Answer]]:
    """Group, image_id and what is said of them."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        columns = _columns([plain_text(name.strip()) for name in next(reader, [])], spelled, path)
        width = None
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            place = f"{path}, line {reader.line_num}"
            width = width or len(cells)
            if len(cells) != width or len(cells) <= max(columns.image, *columns.groups.values()):
                raise LabelsError(
                    f"{place}: {len(cells)} cells, other than the header or the rows before; quote "
                    "a value that holds a comma."
                )
            image_id = plain_text(cells[columns.image])
            if not image_id.strip():
                raise LabelsError(f"{place}: the photo is not named.")
            for group, column in columns.groups.items():
                if cells[column].strip():
                    words = _words(cells[column], group, spelled[group], place)
                    yield group, image_id, Answer(words, place)
    except csv.Error as error:
        raise LabelsError(f"{path}, line {reader.line_num}: not CSV: {error}.") from error


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise LabelsError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file "
            "as UTF-8."
        ) from error


def _columns(
    header: Sequence[str], spelled: Mapping[str, Mapping[str, str]], path: Path
) -> _Columns:
    notes = {note.format(group) for group in spelled for note in (SUGGESTION, PROBABILITY)}
    known = {*ID_COLUMNS, PRODUCT_COLUMN, *notes, *spelled}
    unknown = [name for name in header if name not in known]
    twice = [name for name in header if header.count(name) > 1]
    named = [name for name in header if name in ID_COLUMNS]
    groups = {name: place for place, name in enumerate(header) if name in spelled}
    problem = ""
    if unknown:
        problem = f"unknown column {unknown[0]!r}"
    elif twice:
        problem = f"column {twice[0]!r} stands there twice"
    elif len(named) != 1:
        problem = "one column must name the photos, 'image_id' or 'image_path'"
    elif not groups:
        problem = "no column of a group"
    if problem:
        raise LabelsError(
            f"{path}, line 1: {problem}; found {', '.join(header) or 'nothing'}; expected image_id "
            f"and any of the groups of clip_embed.attributes ({', '.join(spelled)}), separated by "
            "commas."
        )
    return _Columns(header.index(named[0]), groups)


def _words(cell: str, group: str, spelled: Mapping[str, str], place: str) -> tuple[str, ...]:
    keys = dict.fromkeys(
        key for word in plain_text(cell).split(SEPARATOR) if (key := word_form(word))
    )
    if list(keys) == [CANNOT_TELL]:
        return ()
    if list(keys) == [NONE_OF_THESE]:
        return (NONE_OF_THESE,)
    for key in keys:
        if key not in spelled:
            raise LabelsError(f"{place}: {_unknown(key, group, spelled)}")
    return tuple(spelled[key] for key in keys)


def _unknown(key: str, group: str, spelled: Mapping[str, str]) -> str:
    if key in (NONE_OF_THESE, CANNOT_TELL):
        return f"{key!r} stands alone in a cell, and here is more."
    close = difflib.get_close_matches(key, spelled, 1)
    meant = f" (closest {spelled[close[0]]!r})" if close else ""
    words = [*spelled.values()]
    listed = ", ".join(words[:_SHOWN]) + (" ..." if len(words) > _SHOWN else "")
    return (
        f"{key!r} is no word of the group {group!r}{meant}: expected {listed}, {NONE_OF_THESE!r} "
        f"or {CANNOT_TELL!r}; or add it to clip_embed.attributes."
    )
