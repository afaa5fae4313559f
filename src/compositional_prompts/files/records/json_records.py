"""The records of a JSON file, one at a time, so that memory does not grow with the file.

Either a record a line (JSON Lines), or lists of records: a document that is one, or an object whose
members some of are.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple, NoReturn

from compositional_prompts.files.records.delimited import other_kind

LONGEST_RECORD: Final = 2**24
"""Characters."""

_READ_AT_ONCE: Final = 2**16
_BLANK: Final = " \t\r\n"


class JsonError(ValueError):
    """A file is no JSON of records; names file and line."""


class JsonRecord(NamedTuple):
    """A record of a file.

    Attributes:
        member: of the document, which is the list that it stands in; None where the document is.
        number: its place in the list, or its line, from 1 on.
        value: what it says.
        start: the byte of the file that it begins at.
        size: its bytes.
    """

    member: str | None
    number: int
    value: dict[str, Any]
    start: int
    size: int


def json_lines(file: BinaryIO, source: str) -> Iterator[JsonRecord]:
    """The records of JSON Lines; blank lines are none.

    Args:
        file: read from its start on, and by nothing else meanwhile.
        source: its name, for messages.

    Raises:
        JsonError: a line is no JSON object in UTF-8.
    """
    start = _begin(file, source)
    number = 0
    file.seek(start)
    while line := file.readline(LONGEST_RECORD + 1):
        number += 1
        if len(line) > LONGEST_RECORD:
            raise JsonError(f"{source}, line {number}: longer than {LONGEST_RECORD} bytes.")
        if line.strip():
            value = _object(line, f"{source}, line {number}")
            yield JsonRecord(None, number, value, start, len(line))
        start += len(line)


def json_lists(file: BinaryIO, source: str) -> Iterator[JsonRecord]:
    """The records of a document's list, or of all lists that are its members.

    What else its members are is passed over.

    Args:
        file: read from its start on, and by nothing else meanwhile.
        source: its name, for messages.

    Raises:
        JsonError: the file is no JSON in UTF-8, or a list holds something else than objects.
    """
    scanner = _Scanner(file, source, _begin(file, source))
    if scanner.next_sign() == "[":
        yield from _records(scanner, None)
    else:
        scanner.expect("{")
        while scanner.next_sign() != "}":
            member = scanner.value()
            if not isinstance(member, str):
                scanner.fail("expected the name of a member")
            scanner.expect(":")
            if scanner.next_sign() == "[":
                yield from _records(scanner, member)
            else:
                scanner.value()
            scanner.separate("}")
        scanner.expect("}")
    if scanner.next_sign():
        scanner.fail("the document ends before this")


def json_at(file: BinaryIO, source: str, start: int, size: int) -> dict[str, Any]:
    """The record that ``size`` bytes from ``start`` on held when it was read.

    Raises:
        JsonError: there is another thing now.
    """
    file.seek(start)
    try:
        return _object(file.read(size), source)
    except JsonError as error:
        raise JsonError(
            f"{source}: the file was changed while it was read; run the stage again."
        ) from error


def _records(scanner: _Scanner, member: str | None) -> Iterator[JsonRecord]:
    scanner.expect("[")
    number = 0
    while scanner.next_sign() != "]":
        number += 1
        start = scanner.byte
        value = scanner.value()
        # Lists of other things (the words of a vocabulary) are nothing to us, but in a list alone.
        if isinstance(value, dict):
            yield JsonRecord(member, number, value, start, scanner.byte - start)
        elif member is None:
            scanner.fail(f"entry {number} is no object")
        scanner.separate("]")
    scanner.expect("]")


class _Scanner:
    """Values of a JSON text, of which memory holds little more than the one at hand."""

    def __init__(self, file: BinaryIO, source: str, start: int) -> None:
        self.byte = start
        self._file = file
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._ended = False
        self._json = json.JSONDecoder()
        file.seek(start)

    def next_sign(self) -> str:
        """The next character that is not blank; nothing at the end."""
        while True:
            end = self._at
            while end < len(self._text) and self._text[end] in _BLANK:
                end += 1
            self.byte += end - self._at
            self._at = end
            if end < len(self._text):
                return self._text[end]
            if not self._fill(_READ_AT_ONCE):
                return ""

    def expect(self, sign: str) -> None:
        if self.next_sign() != sign:
            self.fail(f"expected {sign!r}")
        self._at += 1
        self.byte += 1

    def separate(self, end: str) -> None:
        """Pass over a comma, behind which there must be more, unless the end is here."""
        if self.next_sign() != end:
            self.expect(",")
            if self.next_sign() == end:
                self.fail("nothing follows the comma")

    def value(self) -> Any:
        self.next_sign()
        block = _READ_AT_ONCE
        while True:
            problem = None
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except RecursionError:
                self.fail("nested too deeply")
            except ValueError as error:
                problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            # A number that ends with the text read may go on.
            if problem is None and (end < len(self._text) or self._ended):
                self.byte += len(self._text[self._at : end].encode("utf-8", "surrogatepass"))
                self._at = end
                return value
            if len(self._text) - self._at > LONGEST_RECORD:
                self.fail(problem or f"longer than {LONGEST_RECORD} characters")
            if not self._fill(block) and problem is not None:
                self.fail(problem)
            block *= 2

    def fail(self, problem: str) -> NoReturn:
        """Raise :class:`JsonError` that names this place."""
        self._file.seek(0)
        line, left = 1, self.byte
        while left and (block := self._file.read(min(left, _READ_AT_ONCE))):
            line += block.count(b"\n")
            left -= len(block)
        raise JsonError(f"{self._source}, line {line}: not JSON of records: {problem}.")

    def _fill(self, size: int) -> bool:
        """Read on; whether there was more."""
        if self._ended:
            return False
        block = self._file.read(size)
        self._ended = not block
        try:
            more = self._decoder.decode(block, final=self._ended)
        except UnicodeDecodeError:
            self.fail("a byte behind this is not UTF-8; save the file as UTF-8")
        self._text = self._text[self._at :] + more
        self._at = 0
        return not self._ended


def _object(text: bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise JsonError(
            f"{place}: byte 0x{text[error.start]:02x} is not UTF-8; save the file as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        raise JsonError(f"{place}: not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise JsonError(f"{place}: a {type(value).__name__}, expected an object.")
    return value


def _begin(file: BinaryIO, source: str) -> int:
    """Where the text begins."""
    file.seek(0)
    begin = file.read(4)
    kind = other_kind(begin)
    if kind is not None:
        raise JsonError(f"{source}: the file is {kind}, expected JSON in UTF-8.")
    return len(codecs.BOM_UTF8) if begin.startswith(codecs.BOM_UTF8) else 0
