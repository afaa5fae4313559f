"""The grammar of captions: its file, and the automaton of its tokens."""

from __future__ import annotations

import pytest

from compositional_prompts.captioner.grammar import GRAMMAR_FILE, read_grammar, write_grammar

SHOES = [
    ["A photo of "],
    ["Canvas_Sandals", "Faux Fur_Boots"],
    [" with "],
    ["red", "é"],
    [" color"],
]


def test_written_and_read_again(tmp_path) -> None:
    write_grammar(tuple(tuple(texts) for texts in SHOES), tmp_path)
    assert read_grammar(tmp_path) == SHOES


def test_no_file_is_no_grammar(tmp_path) -> None:
    assert read_grammar(tmp_path) is None


@pytest.mark.parametrize("segments", [[], [["a"], []]])
def test_a_grammar_without_captions_is_refused(tmp_path, segments) -> None:
    with pytest.raises(ValueError, match="has no"):
        write_grammar(segments, tmp_path)
    assert read_grammar(tmp_path) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"segments": [1]}', '{"segments": [["a", 2]]}', '{"segments": []}']
)
def test_a_file_that_is_no_grammar_is_named(tmp_path, content) -> None:
    (tmp_path / GRAMMAR_FILE).write_text(content)
    with pytest.raises(ValueError, match=GRAMMAR_FILE):
        read_grammar(tmp_path)
