"""Randomly initialised BLIP-2 miniatures of both families of language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    GenerationConfig,
    OPTConfig,
    T5Config,
)

from compositional_prompts.captioner.blip2_pretraining import train_tokenizer
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.parameters import Lora

WORDS = [
    "a photo of white canvas sandals",
    "A photo of Canvas_Sandals with white color and rubber material",
    "black leather boots with an unspecified color",
]
IMAGE_SIZE = 16
QUERIES = 4
LORA = Lora(
    r=4,
    alpha=8,
    dropout=0.5,
    target_modules=None,
    bias="none",
    use_dora=False,
    use_rslora=False,
    rank_pattern=[],
    alpha_pattern=[],
)


def miniature(
    family: str = "opt", seed: int = 0, *, image_token: bool = True, free_rows: int = 0
) -> Captioner:
    """A captioner of about 100,000 random parameters.

    Args:
        family: ``opt`` or ``t5``.
        seed: of the weights.
        image_token: whether the embedding has a row for the image token and the configuration
            its id, as newer checkpoints do.
        free_rows: rows of the embedding beyond the vocabulary.
    """
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(WORDS)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    rows = len(tokenizer) + image_token + free_rows
    processor = Blip2Processor(BlipImageProcessor(size=size), tokenizer, num_query_tokens=QUERIES)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "opt":
        text: OPTConfig | T5Config = OPTConfig(
            vocab_size=rows,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=96,
            **special,
        )
    else:
        text = T5Config(
            vocab_size=rows,
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=tokenizer.pad_token_id,
            **special,
        )
    image_token_index = tokenizer.convert_tokens_to_ids("<image>") if image_token else None
    model = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=Blip2VisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=IMAGE_SIZE,
                patch_size=8,
            ),
            qformer_config=Blip2QFormerConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                encoder_hidden_size=32,
            ),
            text_config=text,
            num_query_tokens=QUERIES,
            image_token_index=image_token_index,
        )
    )
    # Weights of the default initialisation give nearly uniform outputs, which hide mistakes.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.15)
    model.generation_config = GenerationConfig.from_model_config(model.config.text_config)
    model.eval().requires_grad_(False)
    return Captioner(model=model, processor=processor)


def save(captioner: Captioner, directory: Path) -> None:
    """Write a miniature in transformers' layout."""
    captioner.model.save_pretrained(directory)
    captioner.processor.save_pretrained(directory)


def save_as_published(
    captioner: Captioner,
    directory: Path,
    *,
    image_token: bool = True,
    query_tokens: bool = True,
    shard_size: str = "5GB",
) -> None:
    """Write a miniature file by file as checkpoints of different years have them.

    Args:
        captioner: the miniature.
        directory: where to.
        image_token: whether the tokenizer has an image token.
        query_tokens: whether configuration and processor say how many queries there are.
        shard_size: above which the weights are written as shards with an index.
    """
    captioner.model.save_pretrained(directory, max_shard_size=shard_size)
    captioner.processor.image_processor.save_pretrained(directory)
    tokenizer: Any = captioner.tokenizer if image_token else train_tokenizer(WORDS)
    tokenizer.save_pretrained(directory)
    config_file = directory / "config.json"
    config = json.loads(config_file.read_text())
    if query_tokens:
        processor = {"processor_class": "Blip2Processor", "num_query_tokens": QUERIES}
        (directory / "processor_config.json").write_text(json.dumps(processor))
    else:
        config.pop("num_query_tokens", None)
    if config["image_token_index"] is None:
        del config["image_token_index"]
    config_file.write_text(json.dumps(config))
