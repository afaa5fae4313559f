"""The forward pass against a float64 computation with plain loops, and what is frozen."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor
from troika.numpy_forward import (
    Architecture,
    Array,
    authors_names,
    branch_logits,
    float64,
    pair_scores,
)

from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.compute.side_by_side import SideBySide
from compositional_prompts.troika.model import network as troika_model
from compositional_prompts.troika.model.network import Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.model.traction import attention_heads
from compositional_prompts.troika.model.vision_adapters import UnsupportedClipError

VOCABULARY = Vocabulary.of(
    [
        ("Faux.Leather", "Shoes.Sneakers.and.Athletic.Shoes"),
        ("Faux.Leather", "Boots.Knee.High"),
        ("Canvas", "Boots.Knee.High"),
        ("Synthetic.Rubber.Of.Unusually.Many.Different.Words", "Slippers"),
    ],
    [True, True, False, True],
    ["train", "train", "test", "train"],
    "the test",
)
PAIRS = torch.from_numpy(VOCABULARY.pair_indices)


def tiny_clip(quick_gelu: bool = False, no_ln_pre: bool = False, **vision: object) -> Clip:
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=128,
        vision_cfg={
            "image_size": 16,
            "layers": 2,
            "width": 32,
            "patch_size": 8,
            "head_width": 16,
            "no_ln_pre": no_ln_pre,
            **vision,
        },
        text_cfg={"context_length": 16, "width": 24, "heads": 2, "layers": 2, "vocab_size": 49408},
        quick_gelu=quick_gelu,
    )
    for parameter in model.parameters():
        if parameter.dim() > 0:
            torch.nn.init.normal_(parameter, std=0.3)
    model.eval().requires_grad_(False)

    def preprocess(image: Image.Image) -> torch.Tensor:
        raise AssertionError("no image is read here")

    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    return Clip(model, preprocess, tokenizer, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def make_config(**changes: object) -> TroikaConfig:
    values: dict[str, object] = {
        "adapter_dim": 5,
        "adapter_dropout": 0.1,
        "context": "a photo of",
        "context_length": 8,
        "attribute_dropout": 0.3,
        "disentangler_dropout": 0.5,
        "traction_layers": 2,
        "traction_dropout": 0.1,
        "composition_score_weight": 1.0,
        "primitives_score_weight": 1.0,
        **changes,
    }
    return TroikaConfig(**values)  # type: ignore[arg-type]


def make_model(clip: Clip, seed: int = 1, **changes: object) -> Troika:
    """A model whose every trained tensor is random, so that no part of it is neutral."""
    model = Troika(clip, VOCABULARY, make_config(**changes))
    torch.manual_seed(seed)
    for name, tensor in model.trained_state().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point():
            with torch.no_grad():
                tensor.add_(torch.randn_like(tensor) * 0.3)
    return model.eval()


def recompute(model: Troika, images: Array, quick_gelu: bool) -> tuple[list[Array], Array]:
    """Logits of the three branches and the pair scores, by the other computation."""
    weights = float64(authors_names(model.state_dict(), model.config.context_length))
    how = Architecture(8, vision_heads=2, text_heads=2, traction_heads=2, quick_gelu=quick_gelu)
    pairs = VOCABULARY.pair_indices
    logits = branch_logits(images, pairs, len(VOCABULARY.attributes), weights, how)
    scores = pair_scores(
        logits,
        pairs,
        model.config.composition_score_weight,
        model.config.primitives_score_weight,
    )
    return logits, scores


@pytest.mark.parametrize(("quick_gelu", "no_ln_pre"), [(True, False), (False, True)])
def test_forward_pass_is_the_papers(quick_gelu: bool, no_ln_pre: bool) -> None:
    model = make_model(
        tiny_clip(quick_gelu, no_ln_pre),
        composition_score_weight=0.7,
        primitives_score_weight=1.6,
    ).double()
    pixel_values = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    expected, expected_scores = recompute(model, pixel_values.numpy(), quick_gelu)
    with torch.no_grad():
        logits = model(pixel_values, PAIRS)
        scores = model.pair_scores(logits, PAIRS)
    for found, wanted in zip(logits, expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)
    np.testing.assert_allclose(scores.numpy(), expected_scores, atol=1e-9)
    assert min(wanted.std() for wanted in expected) > 1e-3


def test_float32_is_close_to_float64() -> None:
    model = make_model(tiny_clip(quick_gelu=True))
    pixel_values = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        single = model(pixel_values, PAIRS)
        double = model.double()(pixel_values.double(), PAIRS)
    for found, wanted in zip(single, double, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=0)


def test_word_vectors_start_as_the_mean_of_at_most_six_tokens() -> None:
    clip = tiny_clip()
    prompts: Any = Troika(clip, VOCABULARY, make_config()).prompts
    bpe = open_clip.SimpleTokenizer()
    table = clip.model.get_parameter("token_embedding.weight")
    for name, vector in zip(VOCABULARY.attributes, prompts.attribute_vectors, strict=True):
        words = bpe.encode(name.replace(".", " ").lower())
        torch.testing.assert_close(vector.detach(), table[words[:6]].mean(0))
    assert max(len(bpe.encode(name.replace(".", " "))) for name in VOCABULARY.attributes) > 6
    context = table[bpe.encode("a photo of")]
    for branch in ("composition", "attribute", "object"):
        torch.testing.assert_close(getattr(prompts, f"{branch}_context").detach(), context)


def test_untrained_adapters_change_nothing() -> None:
    clip = tiny_clip(quick_gelu=True)
    model = Troika(clip, VOCABULARY, make_config()).eval()
    pixel_values = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        tokens = model.encode_image(pixel_values).tokens
        expected = model.clip.encode_image(pixel_values)
    torch.testing.assert_close(tokens[:, 0], expected, atol=1e-5, rtol=1e-5)


def test_text_features_may_be_computed_once_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tiny_clip())
    pixel_values = torch.randn(3, 3, 16, 16)
    expected = model(pixel_values, PAIRS)
    monkeypatch.setattr(troika_model, "BLOCK_BYTES", 1)
    with torch.inference_mode():
        texts = model.encode_text(PAIRS)
        found = model.branch_logits(model.encode_image(pixel_values), texts)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_parts_of_a_batch_are_the_whole_of_it(images: int) -> None:
    """Logits, gradients and the statistics of batch norm, in float64."""
    still = {"adapter_dropout": 0.0, "attribute_dropout": 0.0, "disentangler_dropout": 0.0}
    pixel_values = torch.randn(images, 3, 16, 16, dtype=torch.float64)
    found: list[tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]] = []
    with SideBySide(2) as threads:
        for parted in (False, True):
            model = make_model(tiny_clip(), traction_dropout=0.0, **still).double()
            model.train(images > 1)  # of one image batch norm has no statistics
            if parted:
                logits = model.forward_in_parts(pixel_values, PAIRS, threads)
            else:
                logits = model(pixel_values, PAIRS)
            weights = [torch.linspace(-1, 2, one.numel()).reshape(one.shape) for one in logits]
            sum((one * w).sum() for one, w in zip(logits, weights, strict=True)).backward()
            gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            found.append(([*logits], gradients, model.trained_state()))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(one, other)
    for name in found[0][1].keys() | found[1][1].keys():
        torch.testing.assert_close(found[1][1][name], found[0][1][name], rtol=1e-9, atol=1e-11)
    for name, tensor in found[0][2].items():
        torch.testing.assert_close(found[1][2][name], tensor)


def test_only_the_parts_of_troika_learn() -> None:
    clip = tiny_clip()
    model = make_model(clip).train()
    logits = model(torch.randn(4, 3, 16, 16), PAIRS)
    sum(branch.square().mean() for branch in logits).backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learning == {n for n, _ in model.named_parameters() if not n.startswith("clip.")}
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())
    assert model.training and not model.clip.training
    assert not any(part.training for part in model.clip.modules())


def test_dropout_is_drawn_in_training_only() -> None:
    model = make_model(tiny_clip())
    pixel_values = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model.encode_text(PAIRS)[0], model.encode_text(PAIRS)[0])
        first, again = model(pixel_values, PAIRS), model(pixel_values, PAIRS)
        assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
        model.train()
        assert not torch.equal(model.encode_text(PAIRS)[0], model.encode_text(PAIRS)[0])
        statistics = model.attribute_disentangler.norm.get_buffer("running_mean")
        before = statistics.clone()
        model(pixel_values, PAIRS)
        assert not torch.equal(before, statistics)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_length": 17}, "encodes at most 16 tokens"),
        ({"context_length": 6}, "troika_train.context_length is 6"),
        ({"context": "a photo of " * 7, "context_length": 16}, "takes 16 or more"),
        ({"context": " "}, "context has no words"),
    ],
)
def test_contexts_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Troika(tiny_clip(), VOCABULARY, make_config(**changes))


def test_what_stands_behind_the_end_mark_has_no_influence() -> None:
    shortest = make_model(tiny_clip(), context_length=7)
    longer = make_model(tiny_clip(), context_length=12)
    longer.load_state_dict(shortest.trained_state(), strict=False)
    for one, other in zip(shortest.encode_text(PAIRS), longer.encode_text(PAIRS), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_other_clips_are_refused() -> None:
    with pytest.raises(UnsupportedClipError, match="a class token"):
        Troika(tiny_clip(pool_type="avg"), VOCABULARY, make_config())
    clip = tiny_clip()
    wrong = Clip(torch.nn.Linear(1, 1), clip.preprocess, clip.tokenizer, 16, clip.mean, clip.std)
    with pytest.raises(UnsupportedClipError, match="found Linear"):
        Troika(wrong, VOCABULARY, make_config())


def test_heads_divide_the_width() -> None:
    assert [attention_heads(d) for d in (32, 64, 128, 512, 768, 224)] == [1, 1, 2, 8, 12, 2]
