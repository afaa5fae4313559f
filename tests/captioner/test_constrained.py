"""Captions of a grammar: the best there are, and never another."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from micro_blip2 import QUERIES, miniature

from compositional_prompts.captioner.decoding.caption_generation import generate_captions
from compositional_prompts.captioner.decoding.token_automaton import compile_grammar
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.model.caption_tokens import tokenize_captions
from compositional_prompts.captioner.model.forward import IGNORED, caption_logits
from compositional_prompts.prompt.template import PromptTemplate

TEMPLATE = PromptTemplate(["color", "material"])
PAIRS = [("Canvas", "Sandals"), ("Canvas", "Boots"), ("Suede", "Sandals"), ("Faux Fur", "Boots")]
VOCABULARY = {"color": ["white", "navy", "navy blue"], "material": ["canvas", "rubber"]}
SEGMENTS = TEMPLATE.alternatives(PAIRS, VOCABULARY)


def random_queries(seed: int, images: int) -> torch.Tensor:
    return torch.randn(images, QUERIES, 32, generator=torch.Generator().manual_seed(seed))


def automaton_of(captioner: Captioner, segments):
    return compile_grammar(segments, captioner.tokenizer, captioner.end_of_caption)


@torch.inference_mode()
def likelihoods(captioner: Captioner, queries: torch.Tensor, captions, power: float):
    """Log-probability of every caption for every image over its length, ``[images, captions]``."""
    tokens = tokenize_captions(captioner, captions, 200)
    rows = []
    for image in queries:
        logits, labels = caption_logits(
            captioner.model, image.expand(len(captions), -1, -1), tokens
        )
        scored = labels != IGNORED
        taken = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0]
        rows.append((taken * scored).sum(1) / scored.sum(1) ** power)
    return torch.stack(rows)


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
def test_enough_beams_find_the_best_caption_there_is(length_penalty) -> None:
    captions = ["".join(parts) for parts in itertools.product(*SEGMENTS)]
    best = set()
    for seed in range(3):
        captioner = miniature("opt", seed)
        queries = random_queries(seed, 5)
        found = generate_captions(
            captioner,
            queries,
            num_beams=len(captions),
            max_new_tokens=90,
            length_penalty=length_penalty,
            grammar=automaton_of(captioner, SEGMENTS),
        )
        scores = likelihoods(captioner, queries, captions, length_penalty)
        assert found == [captions[index] for index in scores.argmax(1).tolist()]
        best |= set(found)
    assert len(best) > 1 or length_penalty == 2.0  # the longest caption of all


def test_more_beams_are_not_worse() -> None:
    captioner = miniature("opt", 3)
    queries = random_queries(3, 12)
    grammar = automaton_of(captioner, SEGMENTS)
    captions = ["".join(parts) for parts in itertools.product(*SEGMENTS)]
    scores = likelihoods(captioner, queries, captions, 1.0)
    reached = []
    for num_beams in (1, 3, 20):
        found = generate_captions(
            captioner, queries, num_beams=num_beams, max_new_tokens=90, grammar=grammar
        )
        chosen = torch.tensor([captions.index(caption) for caption in found])
        reached.append(float(scores.gather(1, chosen[:, None]).mean()))
    assert reached[0] < reached[2] and reached[1] <= reached[2]


@given(
    seed=st.integers(0, 3),
    num_beams=st.integers(1, 4),
    length_penalty=st.sampled_from([-1.0, 0.0, 1.0]),
    attributes=st.lists(st.sampled_from(["Canvas", "Faux Fur", "Ä_b"]), min_size=1, max_size=3),
    objects=st.lists(st.sampled_from(["Boots", "Sandals 2"]), min_size=1, max_size=2),
    colors=st.lists(st.sampled_from(["white", "navy", "navy blue", "a b c"]), max_size=3),
)
@settings(max_examples=25)
def test_every_caption_is_valid(
    seed, num_beams, length_penalty, attributes, objects, colors
) -> None:
    template = PromptTemplate(["color", "material"], attributes=attributes)
    words = {"color": colors, "material": ["rubber"]}
    pairs = list(zip(attributes, itertools.cycle(objects)))
    captioner = miniature("opt", seed)
    captions = generate_captions(
        captioner,
        random_queries(seed, 3),
        num_beams=num_beams,
        max_new_tokens=90,
        length_penalty=length_penalty,
        grammar=automaton_of(captioner, template.alternatives(pairs, words)),
    )
    for caption in captions:
        prompt = template.parse(caption)
        assert prompt is not None
        assert prompt.attribute in attributes
        assert prompt.object in objects
        for group, word in prompt.words.items():
            assert word is None or word in words[group]


@pytest.mark.parametrize(
    "segments",
    [
        [["white "], ["boots"]],  # no choice at all
        [["white", "white boots", "white boots a"]],  # some end within others
        [["a"], ["", " white"], ["", " boots"]],
    ],
)
def test_grammars_of_few_captions(segments) -> None:
    captioner = miniature("opt", 1)
    queries = random_queries(1, 6)
    captions = sorted({"".join(parts) for parts in itertools.product(*segments)})
    found = generate_captions(
        captioner,
        queries,
        num_beams=4,
        max_new_tokens=20,
        grammar=automaton_of(captioner, segments),
    )
    scores = likelihoods(captioner, queries, captions, 1.0)
    assert found == [captions[index] for index in scores.argmax(1).tolist()]


def test_batching_changes_no_caption() -> None:
    captioner = miniature("opt", 2)
    queries = random_queries(2, 8)
    options = {"num_beams": 3, "max_new_tokens": 90, "grammar": automaton_of(captioner, SEGMENTS)}
    together = generate_captions(captioner, queries, **options)
    alone = [generate_captions(captioner, image[None], **options)[0] for image in queries]
    assert alone == together


def test_steps_are_choices_not_tokens() -> None:
    captioner = miniature("opt", 0)
    passes = []
    captioner.model.language_model.register_forward_hook(lambda *_: passes.append(1))
    automaton = automaton_of(captioner, SEGMENTS)
    generate_captions(
        captioner, random_queries(0, 4), num_beams=3, max_new_tokens=90, grammar=automaton
    )
    assert len(passes) < automaton.longest / 3


def test_what_cannot_be_done_is_refused() -> None:
    t5 = miniature("t5")
    opt = miniature("opt")
    automaton = automaton_of(opt, SEGMENTS)
    with pytest.raises(ValueError, match=r"decoder-only.*found t5"):
        generate_captions(
            t5, random_queries(0, 1), num_beams=2, max_new_tokens=90, grammar=automaton
        )
    config: Any = opt.model.config
    config.text_config.max_position_embeddings = automaton.longest
    with pytest.raises(ValueError, match=r"positions.*set infer.grammar to false"):
        generate_captions(
            opt, random_queries(0, 1), num_beams=2, max_new_tokens=1, grammar=automaton
        )


def test_the_most_new_tokens_are_those_of_free_captions() -> None:
    captioner = miniature("opt")
    options = {"num_beams": 2, "grammar": automaton_of(captioner, SEGMENTS)}
    few, many = (
        generate_captions(captioner, random_queries(0, 3), max_new_tokens=tokens, **options)
        for tokens in (1, 90)
    )
    assert few == many
