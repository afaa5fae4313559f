"""A micro BLIP-2 trained from scratch, for machines that cannot reach the hub.

As the published one (Li et al., 2023, section 3) it stands on a frozen vision tower taken from a
CLIP; Q-Former, projection and an OPT language model are trained together to caption images. What
the published one's first stage is for, queries that hold what a text says of an image, is done
here by naming the words of the caption from the queries, as the micro CLIP's image tower does.
Same classes and files as Salesforce/blip2-opt-2.7b, only the configuration differs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    GenerationConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from compositional_prompts.captioner.micro_shape import MICRO_POSITIONS, MICRO_QUERIES
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.model.caption_tokens import random_batches, tokenize_captions
from compositional_prompts.captioner.model.forward import (
    ScoredTokens,
    attend_queries,
    score_places,
    scored_logits,
)
from compositional_prompts.clip.clip_pretraining import (
    MICRO_CONFIG,
    MICRO_PREPROCESS,
    cosine_with_warmup,
    micro_tokenizer,
    word_loss,
    word_targets,
)
from compositional_prompts.compute.devices import seed_everything
from compositional_prompts.compute.precision import autocast
from compositional_prompts.compute.side_by_side import SideBySide, in_parts, parts_of
from compositional_prompts.compute.training.checkpoints import Checkpoints
from compositional_prompts.compute.training.muon import ScheduledOptimizers
from compositional_prompts.compute.training.plain_training import PlainTraining
from compositional_prompts.pipeline.section import Precision

VOCABULARY_SIZE = 1000
MAX_CAPTION_TOKENS = 64
BEGIN, PAD, END, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
WORD_WEIGHT = 0.1  # a caption's words together weigh about as much as one token of the text


def written_forms(caption: str, rng: np.random.Generator) -> str:
    """A caption as the web may write it: mostly as it is, sometimes in title case, as a list of
    labels or as a file name, so that the language model knows capitals, dots and underscores as a
    published one does.
    """
    form = rng.random()
    if form < 0.8:
        return caption
    words = re.sub(r"[,:]", "", caption).split()
    if form < 0.85:
        return caption.capitalize()
    if form < 0.9:
        return " ".join(word.capitalize() for word in words)
    if form < 0.95:
        return "_".join(word.capitalize() for word in words)
    return ".".join(word.capitalize() for word in words)


def train_tokenizer(captions: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with OPT's special tokens (``</s>`` begins and ends a text)."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[BEGIN, PAD, END, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=PAD, unk_token=UNKNOWN
    )


def untrained_captioner(
    tokenizer: PreTrainedTokenizerFast,
    *,
    width: int = 128,
    layers: int = 4,
    queries: int = MICRO_QUERIES,
    vocabulary: int | None = None,
) -> Captioner:
    """A BLIP-2 with OPT of the micro model's shape, as transformers initialises it.

    Args:
        tokenizer: as :func:`train_tokenizer` gives; the image token is added to it.
        width: of every part, a multiple of 32; the micro CLIP's is 128.
        layers: of the language model.
        queries: query tokens.
        vocabulary: rows of the embedding; by default the tokenizer's.
    """
    vision = MICRO_CONFIG["vision_cfg"]
    # The processor adds the image token; the vocabulary must have it before the model is built.
    processor = Blip2Processor(_image_processor(), tokenizer, num_query_tokens=queries)
    rows = vocabulary or len(tokenizer)
    shape: dict[str, Any] = {
        "hidden_size": width,
        "num_attention_heads": width // vision["head_width"],
    }
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            **shape,
            intermediate_size=4 * width,
            num_hidden_layers=vision["layers"],
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            hidden_act="gelu",
            layer_norm_eps=1e-5,
            qkv_bias=True,
        ),
        qformer_config=Blip2QFormerConfig(
            **shape,
            vocab_size=rows,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            cross_attention_frequency=1,
            encoder_hidden_size=width,
            # As the language model: passes are too few to learn anything by heart.
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
        ),
        text_config=OPTConfig(
            **shape,
            vocab_size=rows,
            word_embed_proj_dim=width,
            ffn_dim=4 * width,
            num_hidden_layers=layers,
            max_position_embeddings=MICRO_POSITIONS,
            dropout=0.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        num_query_tokens=queries,
        image_token_index=tokenizer.get_vocab()["<image>"],
    )
    model: Any = Blip2ForConditionalGeneration(config)
    model.generation_config = GenerationConfig.from_model_config(model.config.text_config)
    return Captioner(model=model, processor=processor)


def _image_processor() -> BlipImageProcessor:
    size = MICRO_CONFIG["vision_cfg"]["image_size"]
    return BlipImageProcessor(
        size={"height": size, "width": size},
        image_mean=MICRO_PREPROCESS["mean"],
        image_std=MICRO_PREPROCESS["std"],
    )


def copy_vision_tower(clip: nn.Module, blip2: Blip2ForConditionalGeneration) -> None:
    """Copy an open_clip vision transformer without ``ln_pre`` into BLIP-2's vision tower.

    Afterwards both compute the same token features.
    """
    visual: Any = clip.visual
    tower = blip2.vision_model
    state = {
        "embeddings.class_embedding": visual.class_embedding[None, None],
        "embeddings.position_embedding": visual.positional_embedding[None],
        "embeddings.patch_embedding.weight": visual.conv1.weight,
        # open_clip's patch embedding has no bias, BLIP-2's has.
        "embeddings.patch_embedding.bias": torch.zeros(len(visual.conv1.weight)),
        "post_layernorm.weight": visual.ln_post.weight,
        "post_layernorm.bias": visual.ln_post.bias,
    }
    for number, block in enumerate(visual.transformer.resblocks):
        layer = f"encoder.layers.{number}"
        state |= {
            f"{layer}.self_attn.qkv.weight": block.attn.in_proj_weight,
            f"{layer}.self_attn.qkv.bias": block.attn.in_proj_bias,
        }
        parts = {
            "self_attn.projection": block.attn.out_proj,
            "layer_norm1": block.ln_1,
            "layer_norm2": block.ln_2,
            "mlp.fc1": block.mlp.c_fc,
            "mlp.fc2": block.mlp.c_proj,
        }
        for name, module in parts.items():
            state |= {f"{layer}.{name}.{key}": value for key, value in module.named_parameters()}
    tower.load_state_dict({key: value.detach() for key, value in state.items()})


def pretrain_blip2(
    clip: nn.Module,
    image_embeds: Tensor,
    captions: Sequence[str],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    matrix_learning_rate: float | None,
    seed: int,
    device: torch.device,
    threads: SideBySide,
    checkpoints: Checkpoints,
    precision: Precision = "float32",
) -> Captioner:
    """Train a micro BLIP-2 on image-caption pairs over the frozen vision tower of ``clip``.

    Args:
        clip: a micro CLIP, as :func:`~.clip_pretraining.pretrain_image_tower` gives.
        image_embeds: ``tokens`` of its :func:`~.clip_pretraining.encode_images`.
        captions: ``n`` texts; each is written in another form now and then.
        epochs: passes over the pairs.
        batch_size: pairs a step.
        learning_rate: peak of the schedule of AdamW.
        matrix_learning_rate: peak of the schedule of Muon, which has the blocks' matrices;
            None leaves them to AdamW.
        seed: of initialisation, order and written forms.
        device: where to train.
        threads: what trains, a part of each batch each.
        checkpoints: where to go on from and what to write on the way.
        precision: of the forward pass; weights and loss are float32.

    Returns:
        The captioner in evaluation mode, on the CPU.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    seed_everything(seed)
    rng = np.random.default_rng(seed)
    written = [[written_forms(caption, rng) for caption in captions] for _ in range(epochs)]
    tokenizer = train_tokenizer([text for texts in written for text in texts])
    captioner = untrained_captioner(tokenizer)
    model: Any = captioner.model
    nn.init.normal_(model.query_tokens, std=0.02)
    copy_vision_tower(clip, model)
    model.to(device)

    model.requires_grad_(False).eval()
    for module in (model.qformer, model.language_projection, model.language_model):
        module.requires_grad_(True).train()
    model.query_tokens.requires_grad_(True)
    words = word_targets(micro_tokenizer()(list(captions)))
    head = nn.Linear(model.config.qformer_config.hidden_size, words.shape[1]).to(device)
    steps_per_epoch = -(-len(captions) // batch_size)
    optimizers = ScheduledOptimizers(
        [*model.parameters(), *head.parameters()],
        [model.qformer.encoder, model.language_model.model.decoder.layers],
        learning_rate=learning_rate,
        matrix_learning_rate=matrix_learning_rate,
        multiplier=partial(cosine_with_warmup, steps=epochs * steps_per_epoch),
        threads=threads,
    )

    named = nn.ModuleDict({"model": model, "head": head}).named_parameters()
    trained = {name: parameter for name, parameter in named if parameter.requires_grad}

    def losses(
        embeds: Tensor,
        said: Tensor,
        ids: Tensor,
        mask: Tensor | None,
        scored: Tensor | None,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Of captions, summed over tokens, and of their words, summed over words and captions."""
        with autocast(device, precision):
            queries = attend_queries(model, embeds.to(device).float())
            logits = scored_logits(model, queries, ScoredTokens(ids, mask, scored, labels))
        captioned = F.cross_entropy(logits.float(), labels, reduction="sum")
        return captioned, word_loss(head(queries.float().mean(1)), said.to(device))

    tokens = [tokenize_captions(captioner, texts, MAX_CAPTION_TOKENS) for texts in written]
    generator = torch.Generator().manual_seed(seed)

    def step(epoch: int, chosen: Tensor) -> float:
        rows = [chosen[part] for part in parts_of(len(chosen), device)]
        places = [score_places(model, tokens[epoch - 1].select(part)).to(device) for part in rows]
        parts = [
            (image_embeds[part], words[part], of.ids, of.mask, of.scored, of.labels)
            for part, of in zip(rows, places, strict=True)
        ]
        found = in_parts(losses, parts, [], list(trained.values()), threads)
        captioned, said = (torch.stack(one).sum() for one in zip(*found, strict=True))
        captioned = captioned / sum(len(of.labels) for of in places)
        optimizers.step(captioned + WORD_WEIGHT * said / len(chosen))
        return captioned.item()

    training = PlainTraining("BLIP-2", trained, optimizers, generator, device, checkpoints)
    training.run(epochs, partial(random_batches, len(captions), batch_size, generator), step)
    model.requires_grad_(False).eval().cpu()
    return captioner


def save_micro_captioner(captioner: Captioner, directory: Path) -> None:
    """Write model, tokenizer and processor in transformers' layout into ``directory``."""
    if not sys.stderr.isatty():
        disable_progress_bar()  # a log would keep every step of it
    captioner.model.save_pretrained(directory, safe_serialization=True)
    captioner.processor.save_pretrained(directory)
