"""Captions against transformers' own generation, token by token."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
from micro_blip2 import IMAGE_SIZE, QUERIES, miniature
from peft import LoraConfig, get_peft_model
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from compositional_prompts.captioner.decoding import caption_generation
from compositional_prompts.captioner.decoding.caption_generation import (
    generate_captions,
)
from compositional_prompts.captioner.decoding.replayed_decoder import ReplayedDecoder
from compositional_prompts.captioner.decoding.sampling import (
    choose_tokens,
    draw_uniforms,
    image_seed,
)
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.model.forward import query_features
from compositional_prompts.captioner.parameters import Sampling

IMAGES = 9


def random_queries(seed: int, images: int = IMAGES) -> torch.Tensor:
    return torch.randn(images, QUERIES, 32, generator=torch.Generator().manual_seed(seed))


def eager_to_end(captioner: Captioner, amount: float) -> Captioner:
    """Make the end of the caption more probable: otherwise random captions never end."""
    model: Any = captioner.model.language_model
    head = model.lm_head
    bias = torch.zeros(head.out_features)
    # T5's logits vary by 0.15, OPT's by 0.85.
    bias[captioner.end_of_caption] = amount * (1.0 if captioner.begin_of_text else 0.18)
    head.register_forward_hook(lambda module, inputs, output: output + bias)
    return captioner


@torch.inference_mode()
def theirs(
    captioner: Captioner, queries: torch.Tensor, max_new_tokens: int, **options
) -> list[str]:
    """What transformers generates, as the stage did it before it had a search of its own."""
    model: Any = captioner.model
    embeds = model.language_projection(queries)
    if captioner.begin_of_text:
        start = model.get_input_embeddings()(torch.tensor(captioner.begin_of_text))
        embeds = torch.cat([embeds, start.expand(len(embeds), -1, -1)], dim=1)
    tokens = model.language_model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=captioner.end_of_caption,
        pad_token_id=captioner.padding,
        **options,
    )
    return [
        text.strip() for text in captioner.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    ]


@pytest.mark.parametrize("family", ["opt", "t5"])
@pytest.mark.parametrize(
    ("num_beams", "length_penalty", "bias", "max_new_tokens"),
    [
        (1, 1.0, 2.0, 12),
        (2, 1.0, -50.0, 8),  # no caption ends
        (3, 0.0, 2.5, 30),
        (4, 1.0, 50.0, 10),  # all captions end at once
        (5, 1.0, 2.0, 40),
        (5, -1.0, 2.5, 12),
        (6, 2.0, 3.0, 25),
        (5, 1.0, 2.0, 1),
    ],
)
def test_the_captions_are_those_of_transformers(
    family, num_beams, length_penalty, bias, max_new_tokens
) -> None:
    lengths = set()
    for seed in range(3):
        captioner = eager_to_end(miniature(family, seed), bias)
        queries = random_queries(seed)
        options = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        beams = {"length_penalty": length_penalty, "early_stopping": True} if num_beams > 1 else {}
        expected = theirs(captioner, queries, **options, **beams)
        found = generate_captions(captioner, queries, **options, length_penalty=length_penalty)
        assert found == expected
        lengths |= {len(text) for text in expected}
    assert len(lengths) > 1 or bias == 50.0


@pytest.mark.parametrize("num_beams", [1, 5])
def test_steps_that_a_gpu_would_replay_find_the_same_texts(num_beams, monkeypatch) -> None:
    """All but the recording, which needs a GPU; images that end leave the batch on the way."""
    sizes = []

    class Watched(ReplayedDecoder):
        def select(self, rows) -> None:
            sizes.append(len(rows))
            super().select(rows)

    for seed in range(3):
        captioner = eager_to_end(miniature("opt", seed), 2.0)
        queries = random_queries(seed, images=16)
        options = {"num_beams": num_beams, "max_new_tokens": 30}
        expected = generate_captions(captioner, queries, **options)
        with monkeypatch.context() as patch:
            patch.setattr(
                caption_generation,
                "make_decoder",
                lambda c, q, beams, steps: Watched(c, q, beams, 30),
            )
            assert generate_captions(captioner, queries, **options) == expected
    assert sizes


def test_the_captions_are_those_of_transformers_with_an_adapter() -> None:
    captioner = eager_to_end(miniature("opt", 4), 2.0)
    queries = random_queries(4)
    plain = generate_captions(captioner, queries, num_beams=4, max_new_tokens=20)
    adapted = get_peft_model(
        captioner.model,
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    adapted.eval()
    found = generate_captions(captioner, queries, num_beams=4, max_new_tokens=20)
    expected = theirs(captioner, queries, 20, num_beams=4, early_stopping=True)
    assert found == expected
    assert found != plain


def test_half_precision_is_computed_in_half_precision() -> None:
    """Not the captions of float32, which rounding changes, but those of transformers, nearly."""
    captioner = eager_to_end(miniature("opt", 1), 2.0)
    model = captioner.model.to(torch.bfloat16)
    half = Captioner(model=model, processor=captioner.processor, precision="bfloat16")
    queries = random_queries(1, images=40)
    seen = []
    model.language_model.model.decoder.layers[0].self_attn.register_forward_hook(
        lambda module, inputs, output: seen.append(output[0].dtype)
    )
    found = generate_captions(half, queries, num_beams=3, max_new_tokens=10)
    assert set(seen) == {torch.bfloat16}
    with half.autocast():
        expected = theirs(half, queries.bfloat16(), 10, num_beams=3, early_stopping=True)
    same = sum(a == b for a, b in zip(found, expected, strict=True))
    assert same > 30


def test_photos_without_a_cache_are_captioned_alike(monkeypatch) -> None:
    """Also where they go through the vision tower in parts, the last one smaller."""
    monkeypatch.setattr(caption_generation, "TOWER_BATCH", 3)
    captioner = miniature("opt", 2)
    pixel_values = torch.randn(7, 3, IMAGE_SIZE, IMAGE_SIZE)
    options = {"num_beams": 3, "max_new_tokens": 8}
    with torch.inference_mode():
        queries = query_features(captioner.model, pixel_values)
    assert generate_captions(captioner, pixel_values, **options) == generate_captions(
        captioner, queries, **options
    )


def test_no_image_has_no_caption() -> None:
    captioner = miniature("opt")
    assert generate_captions(captioner, random_queries(0, 0), num_beams=2, max_new_tokens=4) == []


def test_more_tokens_than_positions_are_refused() -> None:
    captioner = miniature("opt")  # 96 positions, 4 queries, begin of text
    options = {"num_beams": 1}
    generate_captions(captioner, random_queries(0, 1), max_new_tokens=92, **options)
    with pytest.raises(ValueError, match=r"96 positions.*need 97.*by 1"):
        generate_captions(captioner, random_queries(0, 1), max_new_tokens=93, **options)


@pytest.mark.parametrize("family", ["opt", "t5"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 1, "sampling": Sampling(temperature=1.5, top_k=0, top_p=0.95), "seed": 3},
    ],
)
def test_batching_and_order_change_no_caption(family, options) -> None:
    captioner = eager_to_end(miniature(family, 5), 2.0)
    options = dict(options)
    queries = random_queries(5)
    seed = options.pop("seed", None)
    seeds = None if seed is None else [image_seed(seed, str(row)) for row in range(IMAGES)]

    def captions(order: list[int], batch_size: int) -> dict[int, str]:
        found: dict[int, str] = {}
        for start in range(0, IMAGES, batch_size):
            rows = order[start : start + batch_size]
            own = None if seeds is None else [seeds[row] for row in rows]
            texts = generate_captions(
                captioner, queries[rows], max_new_tokens=15, seeds=own, **options
            )
            found |= dict(zip(rows, texts, strict=True))
        return found

    alone = captions(list(range(IMAGES)), 1)
    for batch_size in (2, 5, 20):
        order = list(range(IMAGES))
        random.Random(batch_size).shuffle(order)
        assert captions(order, batch_size) == alone
    assert len(set(alone.values())) > 3


def test_another_seed_samples_other_captions() -> None:
    captioner = miniature("opt", 6)
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0)
    first, second = (
        generate_captions(
            captioner,
            random_queries(6),
            num_beams=1,
            max_new_tokens=8,
            sampling=sampling,
            seeds=[image_seed(seed, str(row)) for row in range(IMAGES)],
        )
        for seed in (1, 2)
    )
    assert first != second
    # The same image has its own numbers too.
    assert image_seed(1, "a") != image_seed(1, "b") != image_seed(2, "b")


def test_cached_features_of_any_dtype_are_read_in_any_precision() -> None:
    captioner = dataclasses.replace(miniature("opt", 7), precision="bfloat16")
    captioner.model.to(torch.bfloat16)
    queries = random_queries(7)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        options = {"num_beams": 2, "max_new_tokens": 4}
        assert len(generate_captions(captioner, queries.to(dtype), **options)) == IMAGES


def test_cold_sampling_is_greedy() -> None:
    captioner = eager_to_end(miniature("opt", 7), 2.0)
    queries = random_queries(7)
    options = {"num_beams": 1, "max_new_tokens": 12}
    for sampling in (
        Sampling(temperature=0.01, top_k=0, top_p=1.0),
        Sampling(temperature=1.0, top_k=1, top_p=1.0),
        Sampling(temperature=1.0, top_k=0, top_p=1e-6),
    ):
        sampled = generate_captions(
            captioner, queries, sampling=sampling, seeds=range(IMAGES), **options
        )
        assert sampled == generate_captions(captioner, queries, **options)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.0, 5, 1.0), (1.3, 0, 0.6), (0.8, 6, 0.7)],
)
def test_the_distribution_is_that_of_transformers(temperature, top_k, top_p) -> None:
    draws = 40_000
    logits = 1.5 * torch.randn(1, 12, generator=torch.Generator().manual_seed(8))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    expected = warpers(torch.empty(1, 0), logits.clone()).softmax(-1)[0]
    uniforms = draw_uniforms([9], draws)[0]
    chosen = choose_tokens(
        logits.log_softmax(-1).expand(draws, -1),
        uniforms,
        Sampling(temperature=temperature, top_k=top_k, top_p=top_p),
    )
    found = chosen.bincount(minlength=12) / draws
    assert set(chosen.tolist()) <= set(expected.nonzero()[:, 0].tolist())
    # Five standard deviations of the most uncertain share.
    torch.testing.assert_close(found, expected, rtol=0, atol=5 * 0.5 / draws**0.5)


@pytest.mark.parametrize("wrong", [{"num_beams": 2}, {"seeds": None}, {"seeds": [1]}])
def test_sampling_that_makes_no_sense_is_refused(wrong) -> None:
    options = {"num_beams": 1, "seeds": [1, 2], "max_new_tokens": 3} | wrong
    with pytest.raises(ValueError, match="a seed for every image"):
        generate_captions(
            miniature("opt"),
            random_queries(0, 2),
            sampling=Sampling(temperature=1.0, top_k=0, top_p=1.0),
            **options,
        )
