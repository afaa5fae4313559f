"""The parts of pretraining against independent computations, and the whole on a tiny corpus."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from compositional_prompts.captioner.blip2_pretraining import (
    copy_vision_tower,
    train_tokenizer,
    untrained_captioner,
)
from compositional_prompts.clip import clip_pretraining
from compositional_prompts.clip.altered_photos import altered_pixels
from compositional_prompts.clip.clip_pretraining import (
    BACKGROUND,
    MICRO_CONFIG,
    PATCH_SCALE,
    WHITENING_RIDGE,
    cosine_with_warmup,
    encode_images,
    encode_texts,
    micro_clip,
    micro_tokenizer,
    normalised,
    pooled_features,
    pretrain_image_tower,
    pretrain_text_tower,
    whitening_filters,
    word_targets,
)
from compositional_prompts.compute.side_by_side import SideBySide
from compositional_prompts.compute.training.checkpoints import Checkpoints

CPU = torch.device("cpu")
ALONE = SideBySide(1)
NONE = Checkpoints(None, 0)
SIZE = MICRO_CONFIG["vision_cfg"]["image_size"]
COLORS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 210)}


def smooth_images(count: int, seed: int) -> Tensor:
    """Images whose neighbouring pixels and channels go together, as those of photographs do."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    coarse[:, 1] = 0.7 * coarse[:, 0] + 0.3 * coarse[:, 1]
    noise = torch.randn(count, 3, 32, 32, generator=generator) * 8
    images = F.interpolate(coarse, size=32, mode="bilinear") * 200 + noise
    return images.clamp(0, 255).to(torch.uint8)


def patches_of(images: Tensor, size: int) -> NDArray[np.float64]:
    """Flattened patches that are not background, ``[patches, 3 * size**2]``, by plain slicing."""
    pixels = images.numpy().astype(np.float64) / 127.5 - 1
    side = pixels.shape[-1]
    rows = [
        pixels[image, :, top : top + size, left : left + size].ravel()
        for image in range(len(pixels))
        for top in range(0, side, size)
        for left in range(0, side, size)
    ]
    return np.array([row for row in rows if (row < BACKGROUND).any()])


def test_whitened_responses_are_uncorrelated_and_of_equal_strength() -> None:
    images = smooth_images(60, seed=1)
    filters = whitening_filters(images, patch_size=4, filters=20)
    assert filters.shape == (20, 3, 4, 4)
    assert filters.dtype == torch.float32
    patches = patches_of(images, 4)
    raw = np.cov(patches.T)
    covariance = np.cov((patches @ filters.flatten(1).double().numpy().T).T)
    deviations = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(deviations, deviations)
    assert np.abs(correlation - np.eye(20)).max() < 1e-3
    # The ridge alone makes weak components weaker: d / (d + ridge * largest) of full strength.
    spectrum = np.sqrt(np.linalg.eigvalsh(raw)[::-1][:20])
    expected = spectrum / (spectrum + WHITENING_RIDGE * spectrum[0])
    np.testing.assert_allclose(deviations / deviations[0], expected / expected[0], rtol=1e-3)
    assert np.sqrt(np.mean(deviations**2)) == pytest.approx(PATCH_SCALE, rel=1e-3)
    # And it is an achievement: before, one direction is many times as strong as another.
    assert spectrum[0] / spectrum[-1] > 3 * deviations[0] / deviations[-1]


def test_background_does_not_shape_the_filters() -> None:
    images = smooth_images(30, seed=2)
    white = torch.full((50, 3, 32, 32), 255, dtype=torch.uint8)
    alone = whitening_filters(images, patch_size=4, filters=6)
    among_white = whitening_filters(torch.cat([images, white]), patch_size=4, filters=6)
    torch.testing.assert_close(alone, among_white)


def test_word_targets_are_the_words_of_each_caption() -> None:
    captions = ["a red boot", "a blue boot, red lace", "a red red boot", "a pink boot"]
    tokens = micro_tokenizer()(captions)
    held = [set(row.tolist()) - {0} for row in tokens]
    everywhere = set.intersection(*held)
    words = sorted(set.union(*held) - everywhere)
    expected = [[float(word in row) for word in words] for row in held]
    assert word_targets(tokens).tolist() == expected
    assert {int(tokens[0, 0]), int(tokens[0].max())} <= everywhere  # begin and end of text


def test_pixels_are_normalised_as_the_loaded_model_does() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    before = images.clone()
    expected = (images.double() / 255 - 0.5) / 0.5
    torch.testing.assert_close(normalised(images).double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(images, before)


def test_the_learning_rate_rises_and_then_falls_to_zero() -> None:
    rates = [cosine_with_warmup(step, 200) for step in range(200)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(rates) == 1
    assert all(after <= before for before, after in pairwise(rates[10:]))
    assert rates[105] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
    assert 0 <= rates[-1] < 1e-3
    assert [cosine_with_warmup(step, 1) for step in (0, 1)] == [1.0, pytest.approx(1.0)]


def corpus(pairs: int, seed: int) -> tuple[Tensor, list[str]]:
    """Patches of one color on white, and captions that name it."""
    rng = np.random.default_rng(seed)
    images = np.full((pairs, 3, SIZE, SIZE), 255, dtype=np.uint8)
    captions = []
    for image in images:
        name = list(COLORS)[rng.integers(len(COLORS))]
        top, left = rng.integers(0, SIZE // 2, 2)
        noise = rng.normal(0, 12, (3, SIZE // 2, SIZE // 2))
        color = np.array(COLORS[name])[:, None, None] + noise
        image[:, top : top + SIZE // 2, left : left + SIZE // 2] = color.clip(0, 255)
        captions.append(f"a {name} {rng.choice(['boot', 'shoe'])}")
    return torch.from_numpy(images), captions


def pretrained(images: Tensor, captions: list[str], seed: int = 1, epochs: int = 1) -> Any:
    settings: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "seed": seed,
        "device": CPU,
        "threads": ALONE,
        "checkpoints": NONE,
    }
    model = pretrain_image_tower(images, captions, matrix_learning_rate=0.02, **settings)
    features = encode_images(model, images, CPU, ALONE)
    return pretrain_text_tower(model, features.pooled, captions, **settings)


def test_the_same_seed_trains_the_same_model() -> None:
    images, captions = corpus(32, seed=3)
    first, second, other = (
        pretrained(images, captions, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["visual.proj"], other["visual.proj"])
    assert set(first) == set(micro_clip().state_dict())


def test_it_learns_to_name_colors_it_was_told() -> None:
    images, captions = corpus(192, seed=4)
    model = pretrained(images, captions, epochs=4)
    assert not model.training
    unseen, told = corpus(60, seed=5)
    with torch.inference_mode():
        words = model.encode_text(micro_tokenizer()([f"a {name} shoe" for name in COLORS]))
        vectors = model.encode_image(normalised(unseen))
    best = (F.normalize(vectors, dim=-1) @ F.normalize(words, dim=-1).T).argmax(1)
    named = [list(COLORS)[index] for index in best.tolist()]
    right = sum(name in caption for name, caption in zip(named, told, strict=True))
    assert right / len(told) > 0.8


def test_images_are_encoded_as_clip_and_as_blip2_would_each_alone() -> None:
    torch.manual_seed(8)
    model: Any = micro_clip().eval()
    images, captions = corpus(70, seed=9)
    features = encode_images(model, images, CPU, ALONE)
    captioner: Any = untrained_captioner(train_tokenizer(captions)).model.eval()
    copy_vision_tower(model, captioner)
    with torch.inference_mode():
        pooled = model.encode_image(normalised(images))
        tokens = captioner.vision_model(pixel_values=normalised(images)).last_hidden_state
    assert features.pooled.dtype == torch.float32
    assert features.tokens.dtype == torch.float16
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-4, atol=1e-5)
    # Beyond the steps of float16, nothing.
    torch.testing.assert_close(features.tokens.float(), tokens, rtol=2**-10, atol=1e-4)


def test_an_image_tower_that_sees_some_patches_is_trained_as_open_clips_own() -> None:
    torch.manual_seed(16)
    model: Any = micro_clip().double()
    images, _ = corpus(5, seed=17)
    pixel_values = normalised(images).double()
    side = SIZE // MICRO_CONFIG["vision_cfg"]["patch_size"]
    kept = torch.stack([torch.randperm(side**2)[:40] for _ in images])

    class Dropped(torch.nn.Module):
        """In the place of open_clip's own, which chooses for itself."""

        def forward(self, tokens: Tensor) -> Tensor:
            patches = [row[1:][places] for row, places in zip(tokens, kept, strict=True)]
            return torch.cat([tokens[:, :1], torch.stack(patches)], dim=1)

    found = pooled_features(model.visual, pixel_values, kept)
    model.visual.patch_dropout = Dropped()
    expected = model.encode_image(pixel_values)
    torch.testing.assert_close(found, expected)
    target = torch.randn(expected.shape).double()
    parameters = list(model.visual.parameters())
    ours, theirs = (
        torch.autograd.grad((features * target).sum(), parameters) for features in (found, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_every_epoch_shows_every_image_altered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    images, captions = corpus(16, seed=13)
    shown: list[tuple[int, int, list[int]]] = []

    def unchanged(
        images: NDArray[np.uint8], places: list[int], *, seed: int, epoch: int
    ) -> NDArray[np.uint8]:
        shown.append((seed, epoch, sorted(places)))
        return images[places]

    monkeypatch.setattr(clip_pretraining, "altered_pixels", unchanged)
    settings: dict[str, Any] = {
        "epochs": 2, "batch_size": 16, "learning_rate": 2e-3, "matrix_learning_rate": 0.02,
        "seed": 5, "device": CPU, "threads": ALONE, "checkpoints": NONE,
    }  # fmt: skip
    augmented = pretrain_image_tower(images, captions, augment=True, **settings)
    assert shown == [(5, 1, list(range(16))), (5, 2, list(range(16)))]
    plain = pretrain_image_tower(images, captions, **settings).state_dict()
    assert len(shown) == 2
    # Nothing else differs: order, flips and dropped patches are drawn as without.
    assert all(torch.equal(value, plain[key]) for key, value in augmented.state_dict().items())


def test_altered_images_are_encoded_in_the_place_of_each() -> None:
    torch.manual_seed(14)
    model = micro_clip().eval()
    images, _ = corpus(40, seed=15)
    altered = altered_pixels(images.numpy(), range(40), seed=3, epoch=0)
    expected = encode_images(model, torch.from_numpy(altered), CPU, ALONE)
    found = encode_images(model, images, CPU, ALONE, augmentation_seed=3)
    assert torch.equal(found.pooled, expected.pooled)
    assert torch.equal(found.tokens, expected.tokens)
    assert not torch.equal(found.pooled, encode_images(model, images, CPU, ALONE).pooled)


def test_texts_are_cut_to_the_longest_without_a_change() -> None:
    torch.manual_seed(10)
    model: Any = micro_clip()
    tokens = micro_tokenizer()(["a red boot", "shoes, a " + "very " * 12 + "long text", ""])
    found = encode_texts(model, tokens)
    expected = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    target = torch.randn(expected.shape)
    parameters = [p for name, p in model.named_parameters() if not name.startswith("visual.")]
    ours, theirs = (
        torch.autograd.grad((texts * target).sum(), parameters, allow_unused=True)
        for texts in (found, expected)
    )
    assert sum(gradient is not None for gradient in ours) > 20
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_only_words_that_captions_hold_are_trained() -> None:
    _, captions = corpus(32, seed=11)
    settings: dict[str, Any] = {
        "epochs": 1, "batch_size": 16, "learning_rate": 2e-3, "seed": 1, "device": CPU,
        "threads": ALONE, "checkpoints": NONE,
    }  # fmt: skip
    torch.manual_seed(12)
    model: Any = micro_clip()
    before = model.token_embedding.weight.detach().clone()
    features = torch.randn(32, MICRO_CONFIG["embed_dim"])
    trained: Any = pretrain_text_tower(model, features, captions, **settings)
    changed = (trained.token_embedding.weight != before).any(1).nonzero()[:, 0]
    held = set(micro_tokenizer()(captions).unique().tolist()) - {0}
    assert set(changed.tolist()) - {0} == held
    assert trained.token_embedding.weight.shape == before.shape


def test_fewer_pairs_than_a_batch_are_an_error() -> None:
    images, captions = corpus(15, seed=6)
    with pytest.raises(ValueError, match=r"15 image-caption pairs.+lower weights\.pretrain"):
        pretrained(images, captions)


def test_in_bfloat16_the_image_tower_is_trained_and_read_to_its_digits() -> None:
    images, captions = corpus(32, seed=4)
    towers = {}
    for precision in ("float32", "bfloat16"):
        towers[precision] = pretrain_image_tower(
            images, captions, epochs=1, batch_size=16, learning_rate=1e-4,
            matrix_learning_rate=None, seed=2, device=CPU, precision=precision, threads=ALONE,
            checkpoints=NONE,
        )  # fmt: skip
    exact, rounded = (
        encode_images(towers["float32"], images, CPU, ALONE, p).pooled for p in towers
    )
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.03
    states = [tower.state_dict() for tower in towers.values()]
    assert {tensor.dtype for tensor in states[1].values()} <= {torch.float32, torch.int64}
    names = [name for name in states[0] if name.startswith("visual")]
    apart = torch.cat([(states[0][name] - states[1][name]).abs().flatten() for name in names])
    # AdamW makes full steps of the smallest gradients too: few may point elsewhere.
    assert 0 < float(apart.mean()) < 2e-5
