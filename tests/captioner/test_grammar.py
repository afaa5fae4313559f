"""The grammar of captions: its file, and the automaton of its tokens."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from micro_blip2 import WORDS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from compositional_prompts.captioner.blip2_pretraining import train_tokenizer
from compositional_prompts.captioner.decoding import token_automaton
from compositional_prompts.captioner.decoding.grammar_file import (
    GRAMMAR_FILE,
    read_grammar,
    write_grammar,
)
from compositional_prompts.captioner.decoding.token_automaton import (
    ENDED,
    GrammarError,
    TokenAutomaton,
    compile_grammar,
)

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


TEXTS = [*WORDS, "navy blue canvas boots, low heel", "Faux Fur_Boots with a color and a material"]


def metaspace_tokenizer() -> Any:
    """A unigram model over words that begin with their space, as T5's SentencePiece."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


TOKENIZERS = {"byte-level": train_tokenizer(TEXTS), "metaspace": metaspace_tokenizer()}


def all_texts(automaton: TokenAutomaton) -> list[list[int]]:
    """The token sequences that the automaton accepts, ends included."""
    found = []
    pending = [(automaton.start.tolist(), automaton.start_state)]
    while pending:
        tokens, state = pending.pop()
        if state == ENDED:
            found.append(tokens)
            continue
        for edge in automaton.valid[state].nonzero()[:, 0].tolist():
            run = int(automaton.runs[state, edge])
            added = automaton.run_tokens[run, : automaton.run_lengths[run]].tolist()
            assert added[0] == int(automaton.tokens[state, edge])
            pending.append(([*tokens, *added], int(automaton.run_targets[run])))
    return sorted(found)


def tokenized(segments, tokenizer) -> list[list[int]]:
    captions = {"".join(parts) for parts in itertools.product(*segments)}
    ids = tokenizer(sorted(captions), add_special_tokens=False)["input_ids"]
    return sorted([*row, tokenizer.eos_token_id] for row in ids)


phrase = st.lists(
    st.sampled_from(["white", "navy", "blue", "canvas", "boots", "a", "color", "Faux_Fur"]),
    min_size=1,
    max_size=3,
).map(" ".join)


@st.composite
def grammars(draw: st.DrawFn) -> list[list[str]]:
    segments = [[draw(phrase)]]
    for _ in range(draw(st.integers(0, 4))):
        # A space ends the segment before, or begins this one.
        space = draw(st.booleans())
        if space:
            segments[-1] = [text + " " for text in segments[-1]]
        alternatives = draw(st.lists(phrase, min_size=1, max_size=4))
        segments.append([text if space else f" {text}" for text in alternatives])
    return segments


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(segments=grammars())
@settings(max_examples=60)
def test_the_automaton_accepts_the_tokens_of_the_captions_and_no_others(kind, segments) -> None:
    tokenizer = TOKENIZERS[kind]
    automaton = compile_grammar(segments, tokenizer, tokenizer.eos_token_id)
    expected = tokenized(segments, tokenizer)
    assert all_texts(automaton) == expected
    assert automaton.longest == max(map(len, expected))
    # Whatever is forced is in a run: a state leaves a choice.
    assert bool((automaton.valid.sum(1) > 1).all())


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_what_begins_alike_and_what_ends_early(kind) -> None:
    tokenizer = TOKENIZERS[kind]
    segments = [["a "], ["navy", "navy blue", "navy blue boots"], ["", " boots"]]
    automaton = compile_grammar(segments, tokenizer, tokenizer.eos_token_id)
    # "navy blue boots" can be written in two ways, and is one caption.
    assert all_texts(automaton) == tokenized(segments, tokenizer)


def test_a_single_caption_leaves_no_choice() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    automaton = compile_grammar([["white "], ["boots"]], tokenizer, tokenizer.eos_token_id)
    assert automaton.start_state == ENDED
    assert [automaton.start.tolist()] == tokenized([["white boots"]], tokenizer)
    assert automaton.longest == len(automaton.start)


def test_segments_that_split_a_token_are_named() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    with pytest.raises(GrammarError, match="'canvas boots' has the tokens"):
        compile_grammar([["canv"], ["as boots"]], tokenizer, tokenizer.eos_token_id)


def test_characters_that_a_tokenizer_lacks_are_named() -> None:
    tokenizer = TOKENIZERS["metaspace"]
    with pytest.raises(GrammarError, match=r"'a \{undefined\} color' is read back"):
        compile_grammar(
            [["a "], ["white", "{undefined}"], [" color"]], tokenizer, tokenizer.eos_token_id
        )
    # Bytes write everything.
    compile_grammar([["a "], ["{é}", "x"]], TOKENIZERS["byte-level"], 2)


def test_of_many_captions_every_alternative_is_checked(monkeypatch) -> None:
    monkeypatch.setattr(token_automaton, "CHECKED_CAPTIONS", 3)
    tokenizer = TOKENIZERS["metaspace"]
    words = [["white", "navy", "blue", "canvas"], [" boots", " sandals", " canvas"]]
    compile_grammar(words, tokenizer, tokenizer.eos_token_id)
    for segment in range(2):
        broken = [list(alternatives) for alternatives in words]
        broken[segment].append(" {x}")
        with pytest.raises(GrammarError, match=r"\{x\}"):
            compile_grammar(broken, tokenizer, tokenizer.eos_token_id)
