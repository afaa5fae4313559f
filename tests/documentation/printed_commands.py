"""The commands and examples that README and documents print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
COMMANDS = ("", "sh")
"""Languages of fenced blocks whose lines are commands."""

EXAMPLES = ("csv", "json", "mermaid", "python", "text", "yaml")
"""Languages of fenced blocks that are something else."""

PROGRAMS = (
    "accelerate", "compositional-prompts", "cp", "docker", "dvc", "git", "hf", "jupyter", "make",
    "pip", "pre-commit", "pytest", "python", "python3", "ray", "source", "uv",
)  # fmt: skip
"""What begins a command in running text, between backticks."""

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command: a line of a block or a part of it, or code in running text.

    Attributes:
        document: where it is printed.
        line: of the document, from 1.
        words: program and arguments as a shell hands them over, without variables and redirection.
        to_file: whether its output goes into a file.
        in_block: not in running text.
    """

    document: str
    line: int
    words: tuple[str, ...]
    to_file: bool = False
    in_block: bool = True

    @property
    def text(self) -> str:
        """The command in one spelling, whatever the blanks and quotes of the document."""
        return shlex.join(self.words)

    @property
    def program(self) -> str:
        return Path(self.words[0]).name

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(document: str, text: str) -> list[Block]:
    """The fenced blocks of a document, indented ones without their indentation."""
    found = []
    for match in _FENCE.finditer(text):
        indent, language, body = match.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        number = text.count("\n", 0, match.start()) + 2
        found.append(Block(document, number, language, "\n".join(lines) + "\n"))
    return found


def all_blocks() -> list[Block]:
    """The fenced blocks of README and documents."""
    return [block for name in DOCUMENTS for block in blocks(name, (ROOT / name).read_text())]


def commands(document: str, text: str) -> list[Command]:
    """What a document prints as commands, in its order."""
    found = [command for block in blocks(document, text) for command in _of_block(block)]
    # Blocks go, their lines stay, so that places stay true.
    prose = _FENCE.sub(lambda match: "\n" * match.group().count("\n"), text)
    for match in _CODE.finditer(prose):
        code = " ".join(match.group(1).split())
        program, _, arguments = code.partition(" ")
        if Path(program).name in PROGRAMS and arguments:
            line = prose.count("\n", 0, match.start()) + 1
            found += commands_of_line(document, line, code.removesuffix("..."), in_block=False)
    return sorted(found, key=lambda command: command.line)


def all_commands() -> list[Command]:
    """What README and documents print as commands."""
    return [found for name in DOCUMENTS for found in commands(name, (ROOT / name).read_text())]


def _of_block(block: Block) -> Iterator[Command]:
    if block.language not in COMMANDS:
        return
    number, joined = block.line, ""
    for line in block.text.splitlines():
        joined += line
        if joined.endswith("\\"):
            joined = joined[:-1]
            number += 1
            continue
        yield from commands_of_line(block.document, number, joined, in_block=True)
        number, joined = number + 1, ""


def commands_of_line(
    document: str, line: int, text: str, in_block: bool = True
) -> Iterator[Command]:
    """The simple commands of a line of shell.

    Args:
        document: where it stands.
        line: of the document, from 1.
        text: the line, with continuations joined.
        in_block: as of :class:`Command`.
    """
    words: list[str] = []
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    for word in [*lexer, ";"]:
        if word not in ("&&", ";", "|"):
            words.append(word)
        elif words:
            to_file = ">" in words
            kept = words[: words.index(">")] if to_file else words
            while re.fullmatch(r"[A-Z_]+=.*", kept[0]):
                kept = kept[1:]
            yield Command(document, line, tuple(kept), to_file, in_block)
            words = []
