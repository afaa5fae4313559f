"""One thing that was looked at, and whether it is well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["OK", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """A line of ``compositional-prompts doctor``; what is not OK ends with what puts it right."""

    level: Level
    text: str

    def __str__(self) -> str:
        first, *others = self.text.splitlines()
        return "\n".join([f"{self.level:<8} {first}", *(f"{'':<8} {line}" for line in others)])


def ok(text: str) -> Finding:
    return Finding("OK", text)


def warning(text: str) -> Finding:
    return Finding("warning", text)


def error(text: str) -> Finding:
    return Finding("error", text)
