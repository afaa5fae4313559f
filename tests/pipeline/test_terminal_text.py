"""What comes from outside moves no cursor and turns no line of a terminal."""

import ast
import json
import logging
import unicodedata
from pathlib import Path

import pytest

import compositional_prompts
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.stage import log_as
from compositional_prompts.pipeline.terminal_text import escaped, escaped_json, one_line, say

PACKAGE = Path(compositional_prompts.__file__).parent
HOSTILE = "a\x1b[2J\r\x9b\x7f\u202egpj.exe\u2066b\u2029\udcff"
SHOWN = r"a\x1b[2J\x0d\x9b\x7f\u202egpj.exe\u2066b\u2029\udcff"
TURNING = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")


def test_controls_are_written_as_escapes() -> None:
    assert escaped(HOSTILE) == one_line(HOSTILE) == SHOWN
    assert escaped("a\n\tb") == "a\n\tb" and one_line("a\n\tb") == r"a\x0a\x09b"


def test_no_control_of_lines_or_of_their_direction_is_left() -> None:
    for code in range(0x11000):
        letter = chr(code)
        turns = unicodedata.bidirectional(letter) in TURNING
        if turns or unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs"):
            assert one_line(letter).isascii() and one_line(letter).isprintable(), hex(code)
    # Joiners, which Persian, Hindi and emojis need.
    for text in ("\u0645\u06cc\u200c\u062e", "caf\u00e9", "\U0001f468\u200d\U0001f373"):
        assert one_line(text) == text


def test_json_is_the_same_to_a_program() -> None:
    written = escaped_json(json.dumps({"path": HOSTILE}, ensure_ascii=False))
    assert written.isascii() and written.isprintable()
    assert json.loads(written) == {"path": HOSTILE}


def test_what_is_printed_logged_and_told_of_an_error_is_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise FileNotFoundError(2, "No such file", HOSTILE)

    say(HOSTILE)
    assert capsys.readouterr().out == f"{SHOWN}\n"
    try:
        log_as("a stage")
        logging.getLogger("compositional_prompts.some").warning("%s is missing", HOSTILE)
        assert capsys.readouterr().err == f"a stage: {SHOWN} is missing\n"
    finally:
        logging.basicConfig(force=True)
    monkeypatch.setattr("sys.argv", ["a stage"])
    with pytest.raises(SystemExit) as ended:
        run_script(fail)
    assert str(ended.value.code).isprintable()


def test_nothing_else_prints_what_it_was_given() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                room = path.parent.name
                assert room == "pipeline", f"{path}, line {node.lineno}: say, of terminal_text"
