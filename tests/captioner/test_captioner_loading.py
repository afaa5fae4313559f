"""The two halves of BLIP-2, driven with embeddings, against transformers' own forward."""

from __future__ import annotations

import pytest
import torch
from micro_blip2 import IMAGE_SIZE, QUERIES, WORDS, miniature, save

from compositional_prompts.captioner.forward import (
    IGNORED,
    caption_logits,
    caption_loss,
    query_features,
)
from compositional_prompts.captioner.loading import load_captioner
from compositional_prompts.captioner.tokens import tokenize_captions

CPU = torch.device("cpu")


def pixels(images: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)


def test_loss_equals_the_whole_models() -> None:
    captioner = miniature("opt")
    tokens = tokenize_captions(captioner, WORDS, max_tokens=60)
    pixel_values = pixels(3)
    with torch.inference_mode():
        logits, labels = caption_logits(
            captioner.model, query_features(captioner.model, pixel_values), tokens
        )
        ours = caption_loss(logits, labels)
        image_token = captioner.model.config.image_token_index
        placeholders = torch.full((3, QUERIES), image_token)
        ids = torch.cat([placeholders, tokens.ids], dim=1)
        attention = torch.cat([torch.ones_like(placeholders), tokens.mask], dim=1)
        wanted = ids.masked_fill(attention == 0, IGNORED)
        wanted[:, : QUERIES + 1] = IGNORED
        theirs = captioner.model(
            pixel_values=pixel_values, input_ids=ids, attention_mask=attention, labels=wanted
        ).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_t5_loss_equals_the_whole_models() -> None:
    captioner = miniature("t5")
    tokens = tokenize_captions(captioner, WORDS, max_tokens=60)
    pixel_values = pixels(3)
    with torch.inference_mode():
        logits, labels = caption_logits(
            captioner.model, query_features(captioner.model, pixel_values), tokens
        )
        ours = caption_loss(logits, labels)
        ids = torch.full((3, QUERIES), captioner.model.config.image_token_index)
        theirs = captioner.model(
            pixel_values=pixel_values,
            input_ids=ids,
            labels=tokens.ids.masked_fill(tokens.mask == 0, IGNORED),
        ).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_pads_and_images_are_not_scored() -> None:
    captioner = miniature("opt")
    tokens = tokenize_captions(captioner, WORDS, max_tokens=60)
    queries = query_features(captioner.model, pixels(3))
    logits, labels = caption_logits(captioner.model, queries, tokens)
    assert int((labels != IGNORED).sum()) == int(tokens.mask.sum()) - len(WORDS)
    changed = tokens.ids.clone()
    changed[tokens.mask == 0] = 7
    other = type(tokens)(changed, tokens.mask)
    again, _ = caption_logits(captioner.model, queries, other)
    scored = labels != IGNORED
    torch.testing.assert_close(logits[scored], again[scored])


def test_the_image_matters() -> None:
    captioner = miniature("opt")
    tokens = tokenize_captions(captioner, WORDS[:1], max_tokens=60)
    losses = [
        caption_loss(
            *caption_logits(
                captioner.model, query_features(captioner.model, pixels(1, seed)), tokens
            )
        )
        for seed in (1, 2)
    ]
    assert abs(float(losses[0] - losses[1])) > 1e-4


def test_captions_begin_and_end_as_generation_does() -> None:
    captioner = miniature("opt")
    tokens = tokenize_captions(captioner, WORDS, max_tokens=60)
    for row, caption in enumerate(WORDS):
        ids = tokens.ids[row][tokens.mask[row] == 1].tolist()
        assert [ids[0]] == captioner.begin_of_text
        assert ids[-1] == captioner.end_of_caption
        assert captioner.tokenizer.decode(ids[1:-1]) == caption


def test_rows_are_cut_to_their_longest() -> None:
    captioner = miniature("opt")
    tokens = tokenize_captions(captioner, WORDS, max_tokens=60)
    lengths = tokens.mask.sum(1)
    shortest = int(lengths.argmin())
    chosen = tokens.select(torch.tensor([shortest]))
    assert chosen.ids.shape == (1, int(lengths[shortest]))
    assert bool(chosen.mask.all())


def test_a_caption_too_long_is_named() -> None:
    captioner = miniature("opt")
    with pytest.raises(ValueError, match=r"finetune\.max_tokens = 5"):
        tokenize_captions(captioner, WORDS, max_tokens=5)


def test_saved_and_loaded_again(tmp_path) -> None:
    captioner = miniature("opt")
    save(captioner, tmp_path)
    loaded = load_captioner(tmp_path, CPU)
    pixel_values = pixels(2)
    with torch.inference_mode():
        torch.testing.assert_close(
            query_features(captioner.model, pixel_values),
            query_features(loaded.model, pixel_values),
        )
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training
    assert loaded.end_of_caption == captioner.end_of_caption


def test_a_missing_model_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="dvc repro weights"):
        load_captioner(tmp_path, CPU)
