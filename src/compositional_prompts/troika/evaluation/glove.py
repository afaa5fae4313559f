"""Word vectors from a text file of GloVe, word2vec or fastText, of which few words are wanted.

A line is a word and its numbers, separated by single spaces. The file is streamed and compared as
bytes: only the lines of wanted words are parsed, so gigabytes of vectors cost one reading, and
words in a broken encoding that nobody asks for do no harm.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LONGEST_LINE = 2**20
"""Bytes; vectors of thousands of numbers are far shorter, so a longer line is no line of text."""

ARCHIVES = {b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
"""First bytes of the forms in which such files are published."""


class GloveError(ValueError):
    """The file is not what a text file of word vectors looks like."""


def label_vectors(path: Path, labels: Sequence[str]) -> NDArray[np.float64]:
    """The mean vector of the words of every label, float64 ``[labels, dimension]``.

    Raises:
        FileNotFoundError: there is no such file.
        GloveError: as :func:`read_word_vectors`; or words are not in the file: all are named.
    """
    words = {
        label: [word for word in re.split(r"[.\-_\s]+", label.lower()) if word] for label in labels
    }
    vectors = read_word_vectors(path, {word for label in labels for word in words[label]})
    missing = [
        f"{word!r} ({label})" for label in words for word in words[label] if word not in vectors
    ]
    missing += [f"any word of {label!r}" for label in words if not words[label]]
    if missing:
        raise GloveError(
            f"{path} (troika_predict.feasibility.glove) lacks {', '.join(missing)}: add the words "
            f"to the file, rename the labels, or set vectors: clip."
        )
    return np.stack([np.mean([vectors[word] for word in words[label]], axis=0) for label in labels])


def read_word_vectors(path: Path, words: Collection[str]) -> dict[str, NDArray[np.float64]]:
    """The vectors of those of ``words`` that the file holds.

    The first line of the word2vec format (number of words, dimension) is recognised. An entry of
    several words (glove.840B has ``. . .`` and ``at name@domain.com``) is none of the words asked
    for, whatever it begins with.

    Args:
        path: the file, unpacked.
        words: single words, compared letter by letter.

    Returns:
        float64 ``[dimension]`` by word; words that the file lacks are left out.

    Raises:
        FileNotFoundError: there is no such file.
        GloveError: it is an archive or binary, a line is cut short, a number of a wanted word is
            none, or a wanted word is there twice with different vectors. File and line are named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: name an unpacked text file of word vectors.")
    wanted = {word.encode(): word for word in words}
    found: dict[str, NDArray[np.float64]] = {}
    lines: dict[str, int] = {}
    with path.open("rb") as file:
        dimension, header = _dimension(file.readline(LONGEST_LINE), path)
        file.seek(header)
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
            line_number = number + (header > 0)
            spaces = line.rstrip().count(b" ")
            if spaces < dimension:
                raise GloveError(
                    f"{path}, line {line_number}: expected a word and {dimension} numbers, as in "
                    f"the first line, found {spaces + 1} fields in {_shown(line)}. If it is the "
                    f"last line, the download was cut short."
                )
            word = wanted.get(line[: line.find(b" ")])
            if word is None or spaces > dimension:
                continue
            vector = _numbers(line, path, line_number)
            if word in found and not np.array_equal(found[word], vector):
                raise GloveError(
                    f"{path} has different vectors of {word!r} in lines {lines[word]} and "
                    f"{line_number}: remove one."
                )
            found[word], lines[word] = vector, line_number
    return found


def _shown(line: bytes) -> str:
    return repr(line[:40].decode(errors="replace"))


def _dimension(first: bytes, path: Path) -> tuple[int, int]:
    """Numbers of a vector, and the length of a header, bytes, or 0."""
    for magic, name in ARCHIVES.items():
        if first.startswith(magic):
            raise GloveError(f"{path} is a {name} archive: unpack it and name the text file.")
    fields = first.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        return int(fields[1]), len(first)
    try:
        for field in fields[1:]:
            float(field)
    except ValueError:
        fields = []
    if len(fields) < 2:
        raise GloveError(
            f"{path}, line 1: expected a word and its numbers, separated by spaces, found "
            f"{_shown(first)}."
        )
    return len(fields) - 1, 0


def _numbers(line: bytes, path: Path, line_number: int) -> NDArray[np.float64]:
    try:
        vector = np.array([float(field) for field in line.rstrip().split(b" ")[1:]])
    except ValueError as error:
        raise GloveError(f"{path}, line {line_number}: {error} in {_shown(line)}.") from error
    if not np.isfinite(vector).all():
        raise GloveError(f"{path}, line {line_number}: a number of {_shown(line)} is not finite.")
    return vector
