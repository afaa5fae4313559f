"""Text for a terminal: names and captions of others must not move its cursor or turn its lines."""

from __future__ import annotations

import logging
import sys
from typing import IO, Final

_BIDI: Final = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Unicode's controls of the direction of writing (UAX #9): with them ``exe.jpg`` reads otherwise
than it is written."""

_CONTROLS: Final = (*range(0x20), *range(0x7F, 0xA0), *_BIDI, 0x2028, 0x2029)
_ESCAPES: Final = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS
}
_KEPT_LAYOUT: Final = {code: text for code, text in _ESCAPES.items() if chr(code) not in "\n\t"}
_JSON_ESCAPES: Final = {code: f"\\u{code:04x}" for code in _CONTROLS if code >= 0x7F}


def encodable(text: str) -> str:
    """Text with escapes for what a path that is not UTF-8 leaves in it."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Text that may stand in one line: every control character is written as an escape."""
    return encodable(text.translate(_ESCAPES))


def escaped(text: str) -> str:
    """As :func:`one_line`, of text that has lines and tabs of its own."""
    return encodable(text.translate(_KEPT_LAYOUT))


def escaped_json(document: str) -> str:
    """JSON with its controls as escapes: a program reads the same from it.

    What of a path is not UTF-8 is written as Python reads it back.
    """
    return encodable(document.translate(_JSON_ESCAPES))


def say(text: object, *, file: IO[str] | None = None) -> None:
    """Print a text, :func:`escaped`, at once."""
    print(escaped(str(text)), file=file or sys.stdout, flush=True)


class TerminalFormatter(logging.Formatter):
    """Formats what is logged, :func:`escaped`."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))
