"""Pretraining the micro BLIP-2: its parts, and the whole on a tiny corpus."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from compositional_prompts.captioner.blip2_pretraining import (
    END,
    PAD,
    copy_vision_tower,
    pretrain_blip2,
    save_micro_captioner,
    train_tokenizer,
    written_forms,
)
from compositional_prompts.captioner.decoding.caption_generation import generate_captions
from compositional_prompts.captioner.model.blip2_model import Captioner, load_captioner
from compositional_prompts.captioner.model.caption_tokens import random_batches
from compositional_prompts.captioner.model.forward import query_features
from compositional_prompts.clip.clip_pretraining import (
    MICRO_CONFIG,
    encode_images,
    micro_clip,
    normalised,
)
from compositional_prompts.compute.side_by_side import SideBySide
from compositional_prompts.compute.training.checkpoints import Checkpoints

CPU = torch.device("cpu")
ALONE = SideBySide(1)
SIZE = MICRO_CONFIG["vision_cfg"]["image_size"]
CAPTIONS = ("a red boot", "a blue sandal, open toe")


@pytest.fixture(scope="module")
def clip() -> Any:
    """A micro CLIP whose every weight is random, biases and norms too."""
    torch.manual_seed(6)
    model: Any = micro_clip().eval()
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.normal_(std=0.15)
    return model


def pixels(images: int, seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 3, SIZE, SIZE, generator=generator)


def pretrained(
    clip: Any,
    images: Tensor,
    seed: int = 1,
    epochs: int = 1,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Captioner:
    captions = [CAPTIONS[row % 2] for row in range(len(images))]
    return pretrain_blip2(
        clip,
        encode_images(clip, images, CPU, ALONE).tokens,
        captions,
        epochs=epochs,
        batch_size=8,
        learning_rate=2e-3,
        matrix_learning_rate=None,
        seed=seed,
        device=CPU,
        threads=ALONE,
        checkpoints=Checkpoints(None, 0),
        precision=precision,
    )


def two_kinds(images: int, seed: int) -> Tensor:
    """uint8 images, red ones and blue ones in turn, as :data:`CAPTIONS` say."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (images, 3, SIZE, SIZE), dtype=np.uint8)
    pixels[0::2, 0] += 180
    pixels[1::2, 2] += 180
    return torch.from_numpy(pixels)


@pytest.fixture(scope="module")
def captioner(clip: Any) -> Captioner:
    """One that has seen enough to caption what :func:`two_kinds` draws."""
    return pretrained(clip, two_kinds(64, seed=8), epochs=12)


def said(captioner: Captioner, images: Tensor, beams: int = 1) -> list[str]:
    with torch.inference_mode():
        queries = query_features(captioner.model, normalised(images))
        captions: list[str] = generate_captions(
            captioner, queries, num_beams=beams, max_new_tokens=20
        )
    return captions


def test_the_vision_tower_gives_the_features_of_clip(clip: Any, captioner: Captioner) -> None:
    copy_vision_tower(clip, captioner.model)
    visual = clip.visual
    images = pixels(3)
    with torch.inference_mode():
        tokens = captioner.model.vision_model(pixel_values=images).last_hidden_state
        visual.output_tokens = True
        try:
            pooled, patches = visual(images)
        finally:
            visual.output_tokens = False
        expected = pooled, patches
        found = tokens[:, 0] @ visual.proj, tokens[:, 1:]
    assert patches.std() > 0.01
    for theirs, ours in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_frozen_tower_stays_as_it_was_copied(clip: Any) -> None:
    model = pretrained(clip, two_kinds(16, seed=9)).model
    torch.testing.assert_close(
        model.vision_model.embeddings.patch_embedding.weight, clip.visual.conv1.weight
    )
    assert torch.count_nonzero(model.vision_model.embeddings.patch_embedding.bias) == 0


def test_the_same_seed_trains_the_same_captioner(clip: Any) -> None:
    images = two_kinds(16, seed=10)
    first, second, other = (
        pretrained(clip, images, seed=seed).model.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["language_projection.weight"], other["language_projection.weight"])


def test_it_learns_to_caption(captioner: Captioner) -> None:
    assert not captioner.model.training
    captions = said(captioner, two_kinds(8, seed=12))
    named = zip(["red", "blue"] * 4, captions, strict=True)
    right = sum(1 for color, caption in named if color in caption.lower())
    assert right >= 7, captions


def test_saved_and_loaded_it_says_the_same(captioner: Captioner, tmp_path: Path) -> None:
    save_micro_captioner(captioner, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not list(tmp_path.glob("*.bin"))
    loaded = load_captioner(tmp_path, CPU)
    saved = captioner.model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.model.state_dict().items())
    images = two_kinds(4, seed=13)
    captions = said(captioner, images, beams=2)
    assert said(loaded, images, beams=2) == captions
    assert all(captions)


def test_batches_are_random_and_hold_every_caption_once() -> None:
    first, again, other = (
        random_batches(1000, 32, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert [len(batch) for batch in first] == [32] * 31 + [8]
    assert sorted(torch.cat(first).tolist()) == list(range(1000))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(torch.cat(first), torch.cat(other))
    # Each batch has of all: were rows sorted by anything, a batch's mean would tell.
    means = torch.stack([batch.double().mean() for batch in first[:-1]])
    assert means.std() < 2 * 1000 / 12**0.5 / 32**0.5
    assert not sum(len(batch) for batch in random_batches(0, 4, torch.Generator()))


def test_the_processor_prepares_images_as_pretraining_does(captioner: Captioner) -> None:
    raw = two_kinds(1, seed=17)
    image = Image.fromarray(raw[0].permute(1, 2, 0).numpy())
    torch.testing.assert_close(captioner.preprocess(image), normalised(raw)[0], rtol=0, atol=1e-5)


def test_the_tokenizer_gives_back_every_text() -> None:
    tokenizer = train_tokenizer(["a red boot", "A photo of Canvas_Sandals"])
    texts = ["a red boot", "A photo of Canvas_Shoes.Oxfords", "  odd   spaces ", "Ünïcode ✓ \n", ""]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    end, pad = (tokenizer.convert_tokens_to_ids(token) for token in (END, PAD))
    assert end != pad
    assert tokenizer("a red boot")["input_ids"][0] == end == tokenizer.bos_token_id


def test_captions_are_written_as_the_web_writes_them() -> None:
    rng = np.random.default_rng(14)
    forms = Counter(written_forms("white boots, open: toe", rng) for _ in range(4000))
    assert set(forms) == {
        "white boots, open: toe",
        "White boots, open: toe",
        "White Boots Open Toe",
        "White_Boots_Open_Toe",
        "White.Boots.Open.Toe",
    }
    assert forms["white boots, open: toe"] > 2000
    assert min(forms.values()) > 100


def test_an_empty_caption_stays_empty() -> None:
    rng = np.random.default_rng(15)
    assert {written_forms("", rng) for _ in range(50)} == {""}


def test_in_bfloat16_weights_stay_float32_and_close(clip: Any) -> None:
    images = two_kinds(16, seed=3)
    exact, rounded = (
        dict(pretrained(clip, images, precision=precision).model.named_parameters())
        for precision in ("float32", "bfloat16")
    )
    assert {tensor.dtype for tensor in rounded.values()} == {torch.float32}
    apart = torch.cat([(exact[name] - rounded[name]).abs().flatten() for name in exact])
    # AdamW makes full steps of 0.002 of the smallest gradients too: few may point elsewhere.
    assert 0 < float(apart.mean()) < 2e-4
