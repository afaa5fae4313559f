"""BLIP-2 checkpoints of every kind, loaded, against the model they were saved from; and its two
halves, driven with embeddings, against transformers' own forward.
"""

from __future__ import annotations

import importlib.util
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from micro_blip2 import IMAGE_SIZE, QUERIES, WORDS, miniature, save, save_as_published
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

from compositional_prompts.captioner.decoding.caption_generation import generate_captions
from compositional_prompts.captioner.model.blip2_model import (
    Captioner,
    complete,
    default_target_modules,
    load_captioner,
)
from compositional_prompts.captioner.model.caption_tokens import tokenize_captions
from compositional_prompts.captioner.model.forward import (
    IGNORED,
    caption_logits,
    caption_loss,
    query_features,
)
from compositional_prompts.captioner.model.weight_files import INDEX, WEIGHTS
from compositional_prompts.files.outputs import MissingOutputError
from compositional_prompts.pipeline.section import Precision

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


def check_same_captioner(loaded: Captioner, original: Captioner) -> None:
    """Both give the same query features, loss and greedy captions, to the last bit."""
    pixel_values = pixels(3, seed=5)
    results = []
    for captioner in (loaded, original):
        with torch.inference_mode():
            queries = query_features(captioner.model, pixel_values)
            tokens = tokenize_captions(captioner, WORDS, max_tokens=60)
            loss = caption_loss(*caption_logits(captioner.model, queries, tokens))
        captions = generate_captions(captioner, queries, num_beams=1, max_new_tokens=8)
        results.append((queries, loss, captions))
    (queries, loss, captions), wanted = results[0], results[1]
    assert torch.equal(queries, wanted[0])
    assert torch.equal(loss, wanted[1])
    assert captions == wanted[2]
    assert len(set(captions)) > 1


KINDS = list(product(("opt", "t5"), (True, False), (True, False), (0, 7)))
NAMES = [
    f"{family}-{'with' if token else 'no'} image token-{'with' if known else 'no'} query count-"
    f"{'padded' if free else 'full'} vocabulary"
    for family, token, known, free in KINDS
]


@pytest.mark.parametrize(("family", "image_token", "query_tokens", "free_rows"), KINDS, ids=NAMES)
def test_checkpoints_of_every_kind(
    family: str, image_token: bool, query_tokens: bool, free_rows: int, tmp_path: Path
) -> None:
    """Each loads as it was, and completed and saved it does the same in plain transformers."""
    original = miniature(family, image_token=image_token, free_rows=free_rows)
    published, exported = tmp_path / "published", tmp_path / "exported"
    save_as_published(original, published, image_token=image_token, query_tokens=query_tokens)
    written = json.loads((published / "config.json").read_text())
    assert ("num_query_tokens" in written) is query_tokens
    assert ("image_token_index" in written) is image_token

    captioner = load_captioner(published, CPU)
    assert captioner.model.config.num_query_tokens == QUERIES
    check_same_captioner(captioner, original)
    assert not captioner.model.training
    assert not any(parameter.requires_grad for parameter in captioner.model.parameters())

    rows = captioner.model.get_input_embeddings().num_embeddings
    complete(captioner)
    room = image_token or free_rows > 0
    assert captioner.model.get_input_embeddings().num_embeddings == rows + (not room)
    if room:
        check_same_captioner(captioner, original)
    save(captioner, exported)
    check_plain_transformers(exported, captioner)


def check_plain_transformers(exported: Path, captioner: Captioner) -> None:
    """Loss and greedy captions of transformers alone are those of our embedding-driven passes."""
    model = Blip2ForConditionalGeneration.from_pretrained(exported).eval()
    processor = Blip2Processor.from_pretrained(exported)
    noise = np.random.default_rng(3).integers(0, 256, (3, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    images = [Image.fromarray(image) for image in noise]
    # To a T5 the image alone is the input, and the caption its output.
    decoder_only = captioner.model.config.use_decoder_only_language_model
    texts = WORDS if decoder_only else [""] * len(WORDS)
    options: dict[str, Any] = {"return_tensors": "pt", "padding": True}
    if not decoder_only:
        options["add_special_tokens"] = False

    tokens = tokenize_captions(captioner, WORDS, max_tokens=60)
    labels = tokens.ids.masked_fill(tokens.mask == 0, IGNORED)
    ended = [text + processor.tokenizer.eos_token for text in texts] if decoder_only else texts
    inputs = processor(images=images, text=ended, **options)
    if decoder_only:
        assert torch.equal(
            inputs["input_ids"][:, QUERIES:][tokens.mask == 1], tokens.ids[tokens.mask == 1]
        )
        unscored = torch.full((len(WORDS), QUERIES + 1), IGNORED)  # images and begin of text
        labels = torch.cat([unscored, labels[:, 1:]], dim=1)
    pixel_values = torch.stack([captioner.preprocess(image) for image in images])
    assert torch.equal(inputs["pixel_values"], pixel_values)
    with torch.inference_mode():
        queries = query_features(captioner.model, pixel_values)
        ours = caption_loss(*caption_logits(captioner.model, queries, tokens))
        theirs = model(**inputs, labels=labels).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)

    inputs = processor(images=images, text=[""] * len(images), **options)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=8)
    captions = processor.batch_decode(ids, skip_special_tokens=True)
    wanted = generate_captions(captioner, queries, num_beams=1, max_new_tokens=8)
    assert [caption.strip() for caption in captions] == wanted


def test_a_new_row_of_the_embedding_is_the_mean_of_the_others() -> None:
    for family in ("opt", "t5"):
        captioner = miniature(family, image_token=False)
        tables = (captioner.model.get_input_embeddings(), captioner.model.get_output_embeddings())
        before = [table.weight.clone() for table in tables]
        complete(captioner)
        tables = (captioner.model.get_input_embeddings(), captioner.model.get_output_embeddings())
        for old, table in zip(before, tables, strict=True):
            assert torch.equal(table.weight[:-1], old)
            torch.testing.assert_close(table.weight[-1], old.mean(0))
        assert captioner.model.config.text_config.vocab_size == len(before[0]) + 1


def test_an_image_token_of_another_id_gives_way_to_the_tokenizers() -> None:
    captioner = miniature("opt", free_rows=7)
    captioner.model.config.image_token_index = 3
    complete(captioner)
    token = captioner.tokenizer.convert_tokens_to_ids("<image>")
    assert captioner.model.config.image_token_index == token


def test_generation_ends_where_captions_do(tmp_path: Path) -> None:
    captioner = miniature("opt")
    captioner.model.generation_config.eos_token_id = [9, 2]
    complete(captioner)
    save(captioner, tmp_path)
    plain = Blip2ForConditionalGeneration.from_pretrained(tmp_path)
    assert plain.language_model.generation_config.eos_token_id == 9
    assert load_captioner(tmp_path, CPU).end_of_caption == 9


@pytest.mark.parametrize("change", [{"half": "language"}, {"precision": "int4"}])
def test_only_a_whole_model_can_be_completed(change: dict[str, Any]) -> None:
    whole = miniature("opt")
    with pytest.raises(ValueError, match=next(iter(change.values()))):
        complete(Captioner(whole.model, whole.processor, **change))


def test_a_generation_config_may_be_missing(tmp_path: Path) -> None:
    original = miniature("opt")
    save_as_published(original, tmp_path)
    (tmp_path / "generation_config.json").unlink()
    captioner = load_captioner(tmp_path, CPU)
    assert captioner.end_of_caption == original.end_of_caption
    check_same_captioner(captioner, original)


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_shards_are_loaded(family: str, tmp_path: Path) -> None:
    original = miniature(family)
    save_as_published(original, tmp_path, shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    check_same_captioner(load_captioner(tmp_path, CPU), original)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_as_published(miniature("opt"), tmp_path, shard_size="100KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{shard.name} is missing.+1 missing"):
        load_captioner(tmp_path, CPU)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}'])
def test_a_broken_index_is_named(text: str, tmp_path: Path) -> None:
    save_as_published(miniature("opt"), tmp_path, shard_size="100KB")
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match=INDEX):
        load_captioner(tmp_path, CPU)


@pytest.mark.parametrize("size", [0, 5, 2000])
def test_damaged_weights_are_named(size: int, tmp_path: Path) -> None:
    save_as_published(miniature("opt"), tmp_path)
    weights = tmp_path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"{WEIGHTS} is damaged \(no whole safetensors file"):
        load_captioner(tmp_path, CPU)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("query_tokens", "no tensor 'query_tokens'"),
        ("qformer.layernorm.bias", r"lacks 1 tensors.+'qformer\.layernorm\.bias'"),
    ],
)
def test_a_missing_tensor_is_named(tensor: str, message: str, tmp_path: Path) -> None:
    save_as_published(miniature("opt"), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors[tensor]
    save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=message):
        load_captioner(tmp_path, CPU)


def test_pickles_are_refused(tmp_path: Path) -> None:
    save_as_published(miniature("opt"), tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"found only pytorch_model\.bin, a pickle"):
        load_captioner(tmp_path, CPU)


def test_another_model_is_refused(tmp_path: Path) -> None:
    save_as_published(miniature("opt"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "instructblip"}))
    with pytest.raises(ValueError, match="'instructblip'"):
        load_captioner(tmp_path, CPU)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingOutputError, match=r"config\.json is missing"):
        load_captioner(tmp_path, CPU)
    save_as_published(miniature("opt"), tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"it needs safetensors weights .* found none"):
        load_captioner(tmp_path, CPU)


def test_images_are_prepared_as_the_checkpoint_says(tmp_path: Path) -> None:
    """Against Pillow's bicubic and written arithmetic, for settings of no published model."""
    save_as_published(miniature("opt"), tmp_path)
    mean, std, scale = [0.1, 0.2, 0.3], [0.5, 0.7, 0.9], 1 / 100
    BlipImageProcessor(
        size={"height": 20, "width": 12}, image_mean=mean, image_std=std, rescale_factor=scale
    ).save_pretrained(tmp_path)
    captioner = load_captioner(tmp_path, CPU)
    noise = np.random.default_rng(4).integers(0, 256, (31, 45, 3), np.uint8)
    image = Image.fromarray(noise)
    resized = np.asarray(image.resize((12, 20), Image.Resampling.BICUBIC), np.float64)
    wanted = ((resized * scale - mean) / std).transpose(2, 0, 1)
    pixel_values = captioner.preprocess(image)
    assert pixel_values.shape == (3, 20, 12)
    assert pixel_values.dtype == torch.float32
    # torchvision and Pillow may round a pixel to different sides: one of 256 levels.
    assert np.abs(pixel_values.numpy() - wanted).max() <= scale / min(std) + 1e-6


TOLERANCES: dict[Precision, float] = {"float16": 0.005, "bfloat16": 0.04}
"""Of query features, relative to their norm; bfloat16 has 8 bits, float16 has 11."""


@pytest.mark.parametrize("family", ["opt", "t5"])
@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_lower_precisions_stay_close(family: str, precision: Precision, tmp_path: Path) -> None:
    original = miniature(family)
    save(original, tmp_path)
    captioner = load_captioner(tmp_path, CPU, precision)
    tokens = tokenize_captions(captioner, WORDS, max_tokens=60)
    results = []
    for model in (captioner, original):
        with torch.inference_mode(), model.autocast():
            queries = query_features(model.model, pixels(3))
            loss = caption_loss(*caption_logits(model.model, queries, tokens))
        results.append((queries.float(), loss))
    (queries, loss), (wanted, wanted_loss) = results
    error = torch.linalg.norm(queries - wanted) / torch.linalg.norm(wanted)
    assert 0 < error < TOLERANCES[precision]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wanted_loss, rtol=0.01, atol=0)
    dtypes = {parameter.dtype for parameter in captioner.model.qformer.parameters()}
    kept = torch.float32 if precision == "float16" else torch.bfloat16
    assert dtypes == {kept}
    with captioner.autocast():
        captions = generate_captions(captioner, queries, num_beams=2, max_new_tokens=4)
    assert len(captions) == 3


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_a_half_is_loaded_without_the_other(family: str, tmp_path: Path) -> None:
    original = miniature(family)
    save_as_published(original, tmp_path, shard_size="50KB")
    total = sum(parameter.numel() for parameter in original.model.parameters())
    frozen = load_captioner(tmp_path, CPU, half="frozen")
    language = load_captioner(tmp_path, CPU, half="language")
    held = [sum(p.numel() for p in half.model.parameters()) for half in (frozen, language)]
    assert sum(held) == total + original.model.query_tokens.numel()
    assert not hasattr(frozen.model, "language_model")
    assert not hasattr(language.model, "vision_model")
    for half in (frozen, language):
        assert type(half.model) is Blip2ForConditionalGeneration
        assert half.device == CPU
        assert half.total_parameters == total
        assert half.end_of_caption == original.end_of_caption
    with torch.inference_mode():
        queries = query_features(frozen.model, pixels(2))
        assert torch.equal(queries, query_features(original.model, pixels(2)))
    tokens = tokenize_captions(language, WORDS[:2], max_tokens=60)
    with torch.inference_mode():
        losses = [
            caption_loss(*caption_logits(captioner.model, queries, tokens))
            for captioner in (language, original)
        ]
    assert torch.equal(*losses)
    captions = [
        generate_captions(captioner, queries, num_beams=2, max_new_tokens=6)
        for captioner in (language, original)
    ]
    assert captions[0] == captions[1]


def test_a_half_does_not_need_the_weights_of_the_other(tmp_path: Path) -> None:
    """They are not read: without them the half is there all the same."""
    original = miniature("opt")
    save_as_published(original, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    kept = {name: value for name, value in tensors.items() if not name.startswith("vision_model")}
    save_file(kept, tmp_path / WEIGHTS, {"format": "pt"})
    language = load_captioner(tmp_path, CPU, half="language")
    assert language.model.language_model is not None
    with pytest.raises(ValueError, match="vision_model"):
        load_captioner(tmp_path, CPU, half="frozen")


def test_the_adapted_modules_follow_the_language_model() -> None:
    for family, wanted in (("opt", ["q_proj", "v_proj"]), ("t5", ["q", "v"])):
        model = miniature(family).model
        assert default_target_modules(model) == wanted
        names = {name.rpartition(".")[2] for name, _ in model.language_model.named_modules()}
        assert set(wanted) <= names
    model.config.text_config.model_type = "llama"
    with pytest.raises(ValueError, match=r"finetune\.lora\.target_modules.+'llama'"):
        default_target_modules(model)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantization_needs_bitsandbytes(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(miniature("opt"), tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .+ -e '\.\[quantization\]'"):
        load_captioner(tmp_path, torch.device("cuda"), precision)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantization_needs_a_gpu(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(miniature("opt"), tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(RuntimeError, match=f"precision {precision} needs a CUDA GPU"):
        load_captioner(tmp_path, CPU, precision)
