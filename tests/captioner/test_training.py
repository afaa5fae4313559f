"""The loss of a step, whatever batches, processes and precision it is computed in."""

from __future__ import annotations

import pytest
import torch
from micro_blip2 import IMAGE_SIZE, LORA, QUERIES, WORDS, miniature

from compositional_prompts.captioner.model.caption_tokens import (
    tokenize_captions,
    tokenize_repeated,
)
from compositional_prompts.captioner.model.forward import (
    IGNORED,
    caption_logits,
    score_places,
    scored_logits,
)
from compositional_prompts.captioner.model.lora import add_adapter
from compositional_prompts.captioner.training.caption_batches import CaptionLoss
from compositional_prompts.compute.training.training_run import Share


@pytest.mark.parametrize("family", ["opt", "t5"])
@pytest.mark.parametrize("captions", [WORDS, WORDS[:1] * 2], ids=["padded", "of one length"])
def test_scored_logits_are_those_of_labelled_positions(family, captions) -> None:
    captioner = miniature(family)
    queries = torch.randn(len(captions), QUERIES, 32, generator=torch.Generator().manual_seed(3))
    tokens = tokenize_captions(captioner, captions, 90)
    with torch.no_grad():
        logits, labels = caption_logits(captioner.model, queries, tokens)
        places = score_places(captioner.model, tokens)
        scored = scored_logits(captioner.model, queries, places)
    kept = labels != IGNORED
    assert torch.equal(places.labels, labels[kept])
    torch.testing.assert_close(scored, logits[kept])
    assert (places.mask is None) == bool(tokens.mask.all())


def test_repeated_captions_are_tokenized_once() -> None:
    captioner = miniature("opt")
    captions = [WORDS[row % 2] for row in range(9)] + [WORDS[2]]
    repeated = tokenize_repeated(captioner, captions, 90)
    plain = tokenize_captions(captioner, captions, 90)
    assert len(repeated.distinct) == 3
    assert len(repeated) == len(captions)
    assert torch.equal(repeated.lengths, plain.mask.sum(1))
    rows = torch.tensor([8, 1, 0, 1])
    assert torch.equal(repeated.select(rows).ids, plain.select(rows).ids)
    assert torch.equal(repeated.select(rows).mask, plain.select(rows).mask)


def test_the_loss_is_a_sum_and_smoothed_in_training_only() -> None:
    captioner = miniature("opt")
    queries = torch.randn(3, QUERIES, 32, generator=torch.Generator().manual_seed(4))
    tokens = tokenize_captions(captioner, WORDS, 90)
    places = score_places(captioner.model, tokens)
    arguments = (queries, places.ids, places.mask, places.scored, places.labels)
    module = CaptionLoss(captioner, label_smoothing=0.2)
    with torch.no_grad():
        logits, labels = caption_logits(captioner.model, queries, tokens)
        log_probs = logits.log_softmax(-1)[labels != IGNORED]
        right = log_probs[torch.arange(len(places.labels)), places.labels]
        plain, correct = module.eval()(*arguments)
    torch.testing.assert_close(plain, -right.sum())
    assert int(correct) == int((log_probs.argmax(-1) == places.labels).sum())
    # Szegedy et al., 2016: a share of the probability goes to all tokens alike.
    for part in captioner.model.language_model.modules():
        if hasattr(part, "dropout"):
            part.dropout = 0.0
    with torch.no_grad():
        smoothed, _ = module.train()(*arguments)
    torch.testing.assert_close(smoothed, -(0.8 * right + 0.2 * log_probs.mean(-1)).sum())


def test_the_frozen_half_stays_in_evaluation_mode() -> None:
    captioner = miniature("opt")
    add_adapter(
        captioner,
        LORA.model_copy(update={"target_modules": ["query", "q_proj"]}),
        cached=False,
    )
    module = CaptionLoss(captioner, label_smoothing=0.0).train()
    model = captioner.model
    assert module.training
    assert model.language_model.model.decoder.layers[0].training
    training = [
        name
        for part in (model.vision_model, model.qformer)
        for name, child in part.named_modules()
        if child.training
    ]
    assert training
    assert all("lora_dropout" in name for name in training)
    module.eval()
    assert not any(child.training for child in model.modules())


def test_gradients_reach_an_adapter_of_the_q_former() -> None:
    captioner = miniature("opt")
    adapted = add_adapter(
        captioner,
        LORA.model_copy(update={"target_modules": ["query"], "dropout": 0.0}),
        cached=False,
    )
    module = CaptionLoss(captioner, label_smoothing=0.0).train()
    places = score_places(captioner.model, tokenize_captions(captioner, WORDS, 90))
    pixels = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(5))
    loss, _ = module(pixels, places.ids, places.mask, places.scored, places.labels)
    loss.backward()
    trained = {n: p.grad for n, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all(grad.abs().sum() > 0 for name, grad in trained.items() if "lora_B" in name)


def test_shares_cover_a_batch_and_nobody_goes_without() -> None:
    batch = torch.tensor([7, 3, 9])
    shares = [Share.of(batch, process, 2) for process in range(2)]
    assert torch.cat([share.rows for share in shares]).sort().values.tolist() == [3, 7, 9]
    assert all(share.counted for share in shares)
    spare = Share.of(batch, 4, 5)
    assert spare.rows.tolist() == [7]
    assert not spare.counted


def test_bfloat16_and_float16_compute_the_same_loss_to_their_digits() -> None:
    queries = torch.randn(3, QUERIES, 32, generator=torch.Generator().manual_seed(6))
    losses = {}
    for precision in ("float32", "bfloat16", "float16"):
        captioner = miniature("opt")
        if precision != "float32":
            captioner.model.to(getattr(torch, precision))
        captioner = type(captioner)(captioner.model, captioner.processor, precision)
        adapted = add_adapter(captioner, LORA)
        assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
        places = score_places(captioner.model, tokenize_captions(captioner, WORDS, 90))
        module = CaptionLoss(captioner, label_smoothing=0.0).eval()
        loss, _ = module(queries, places.ids, places.mask, places.scored, places.labels)
        assert loss.dtype == torch.float32
        losses[precision] = float(loss)
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=2e-2)
    assert losses["float16"] == pytest.approx(losses["float32"], rel=3e-3)
    assert len(set(losses.values())) == 3
