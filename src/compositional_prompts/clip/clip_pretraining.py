"""A micro CLIP trained from scratch, for machines that cannot reach the hub.

Same classes and files as the published models, only the configuration differs. Minutes on a
laptop do not teach a vision transformer by contrast alone, so three published short cuts are
taken: the patch embedding is a fixed whitening of image patches (Coates and Ng, 2012), the image
tower learns to name the words of the caption (Huang et al., 2024, "Classification Done Right for
Vision-Language Pre-Training"), half of the patches at a time (Li et al., 2023, FLIP); then the
text tower is trained by contrast against the locked image tower (Zhai et al., 2022, LiT).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from compositional_prompts.clip.altered_photos import altered_pixels
from compositional_prompts.clip.lean_open_clip import (
    merge_preprocess_dict,
    open_clip,
    set_model_preprocess_cfg,
)
from compositional_prompts.compute.devices import seed_everything
from compositional_prompts.compute.precision import autocast
from compositional_prompts.compute.progress import progress
from compositional_prompts.compute.side_by_side import SideBySide, in_parts, parts_of
from compositional_prompts.compute.training.checkpoints import Checkpoints
from compositional_prompts.compute.training.muon import ScheduledOptimizers
from compositional_prompts.compute.training.plain_training import PlainTraining
from compositional_prompts.pipeline.section import Precision

MICRO_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 96,
        # Small patches: what tells canvas from nylon is a few pixels wide.
        "patch_size": 8,
        "width": 128,
        "layers": 3,
        "head_width": 32,
        # BLIP-2's vision tower has no norm before its first block: without one here, the micro
        # BLIP-2 can take these weights over as they are.
        "no_ln_pre": True,
    },
    "text_cfg": {"context_length": 32, "width": 128, "heads": 4, "layers": 2},
}
"""The micro CLIP's ``model_cfg``; the text side keeps CLIP's own vocabulary of 49,408 tokens."""

MICRO_PREPROCESS: dict[str, Any] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    # Whole products, squeezed, rather than their middle: a centre crop would cut off toe and heel.
    "resize_mode": "squash",
}

PATCH_DROPOUT = 0.5
WARMUP_SHARE = 0.05
MAX_LOGIT_SCALE = math.log(100)  # as CLIP: larger scales are unstable
WHITENING_IMAGES = 1500
WHITENED_AT_ONCE = 50  # images whose patches are held in memory
WHITENING_RIDGE = (
    0.05  # relative to the largest standard deviation; keeps noise from being blown up
)
PATCH_SCALE = 0.5  # standard deviation of a patch embedding
BACKGROUND = 0.85  # brighter patches are empty background and would dominate the statistics
WORD_PRIOR = 4.0  # log-odds against a word at the start: captions hold few of the vocabulary's
TEXT_BATCHES = 2  # the locked phase is cheap: batches so many times as large, for more contrast
ENCODE_BATCH = 32  # larger batches are slower: their activations no longer fit into the cache


def cosine_with_warmup(step: int, steps: int) -> float:
    """Multiplier of the learning rate: a linear warm-up, then a cosine to zero."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def micro_clip() -> nn.Module:
    """A randomly initialised micro CLIP with its preprocessing attached."""
    model: nn.Module = open_clip.CLIP(
        embed_dim=MICRO_CONFIG["embed_dim"],
        vision_cfg=MICRO_CONFIG["vision_cfg"],
        text_cfg=MICRO_CONFIG["text_cfg"],
    )
    settings = merge_preprocess_dict({"size": MICRO_CONFIG["vision_cfg"]["image_size"]}, {})
    set_model_preprocess_cfg(model, {**settings, **MICRO_PREPROCESS})
    return model


def micro_tokenizer() -> Any:
    """CLIP's byte-pair tokenizer at the micro CLIP's context length."""
    return open_clip.SimpleTokenizer(context_length=MICRO_CONFIG["text_cfg"]["context_length"])


def normalised(images: Tensor) -> Tensor:
    """uint8 ``[n, 3, H, W]`` to the micro models' pixel_values, float32 in -1..1."""
    return images.float().div_(127.5).sub_(1)


def whitening_filters(images: Tensor, patch_size: int, filters: int) -> Tensor:
    """Patch filters whose responses to ``images`` are uncorrelated and of equal strength.

    Args:
        images: uint8 ``[n, 3, H, W]``.
        patch_size: side of a patch, pixels.
        filters: how many principal components to keep, at most ``3 * patch_size**2``.

    Returns:
        float32 ``[filters, 3, patch_size, patch_size]``, strongest component first.
    """
    rows, total, products = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for part in images.split(WHITENED_AT_ONCE):
        patches = F.unfold(normalised(part), patch_size, stride=patch_size)
        seen = patches.transpose(1, 2).flatten(0, 1)
        seen = seen[(seen < BACKGROUND).any(1)].double()
        rows += len(seen)
        total = total + seen.sum(0)
        products = products + seen.T @ seen
    mean = total / rows
    covariance = products / rows - mean.outer(mean)
    variances, directions = torch.linalg.eigh(covariance)
    deviations = variances.flip(0)[:filters].clamp(min=0).sqrt()
    weights = (directions.flip(1)[:, :filters] / (deviations + WHITENING_RIDGE * deviations[0])).T
    responses = (weights @ covariance @ weights.T).diagonal().mean()
    weights = weights * (PATCH_SCALE / responses.sqrt())
    filter_bank: Tensor = weights.float().reshape(-1, 3, patch_size, patch_size)
    return filter_bank


def word_targets(tokens: Tensor) -> Tensor:
    """Which tokens each caption holds.

    Args:
        tokens: CLIP token ids ``[n, context_length]``, 0 where there is none.

    Returns:
        float32 ``[n, words]`` of zeros and ones, over the tokens that occur in any caption; begin
        and end of text, which all hold, are left out.
    """
    # Of the tokens that occur: the whole vocabulary would be 200 KB a caption.
    found, places = tokens.unique(return_inverse=True)
    present = torch.zeros(len(tokens), len(found))
    present.scatter_(1, places, 1.0)
    return present[:, (found > 0) & (present.mean(0) < 1)]


def word_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of naming captions' words, summed over words and captions.

    Args:
        logits: ``[n, words]``; :data:`WORD_PRIOR` is taken off, so that they may start at zero.
        targets: as :func:`word_targets` gives, ``[n, words]``.
    """
    return F.binary_cross_entropy_with_logits(logits - WORD_PRIOR, targets, reduction="sum")


def _batches(rows: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Row numbers of each batch, in random order; the rest of the last one is left out."""
    order: Tensor = torch.randperm(rows, generator=generator)
    return [*order.split(batch_size)[: rows // batch_size]]


def _train_image_tower(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    matrix_learning_rate: float | None,
    augmentation_seed: int | None,
    generator: torch.Generator,
    device: torch.device,
    precision: Precision,
    threads: SideBySide,
    checkpoints: Checkpoints,
) -> None:
    """Name the words of every caption from its image (binary cross-entropy a word)."""
    visual: Any = model.visual
    width = MICRO_CONFIG["embed_dim"]
    head = nn.Linear(width, targets.shape[1]).to(device)
    steps = epochs * (len(images) // batch_size)
    optimizers = ScheduledOptimizers(
        [*visual.parameters(), *head.parameters()],
        visual.transformer.resblocks,
        learning_rate=learning_rate,
        matrix_learning_rate=matrix_learning_rate,
        multiplier=partial(cosine_with_warmup, steps=steps),
        threads=threads,
    )
    patches = len(visual.positional_embedding) - 1
    named = nn.ModuleDict({"visual": visual, "head": head}).named_parameters()
    trained = {name: parameter for name, parameter in named if parameter.requires_grad}

    def loss(pixel_values: Tensor, kept: Tensor, said: Tensor) -> tuple[Tensor]:
        with autocast(device, precision):
            features = pooled_features(visual, pixel_values.to(device), kept.to(device))
        logits = head(F.layer_norm(features.float(), (width,)))
        return (word_loss(logits, said.to(device)),)

    def step(epoch: int, chosen: Tensor) -> float:
        batch = normalised(_shown(images, chosen, augmentation_seed, epoch))
        flipped = torch.rand(len(chosen), generator=generator) < 0.5
        batch[flipped] = batch[flipped].flip(-1)
        kept = _kept_patches(len(chosen), patches, generator)
        said = targets[chosen]
        parts = [(batch[part], kept[part], said[part]) for part in parts_of(len(chosen), device)]
        losses = in_parts(loss, parts, [], list(trained.values()), threads)
        whole = torch.stack([part for (part,) in losses]).sum() / len(chosen)
        optimizers.step(whole)
        return whole.item()

    training = PlainTraining("CLIP images", trained, optimizers, generator, device, checkpoints)
    training.run(epochs, partial(_batches, len(images), batch_size, generator), step)


def _kept_patches(images: int, patches: int, generator: torch.Generator) -> Tensor:
    """Random patches of each image that are not dropped, int64 ``[images, kept]`` (FLIP)."""
    kept = patches - round(PATCH_DROPOUT * patches)
    return torch.rand(images, patches, generator=generator).topk(kept).indices


def _embedded(visual: Any, pixel_values: Tensor, kept: Tensor | None = None) -> Tensor:
    """The class token and the patches, or those that are ``kept``: ``[n, 1 + k, width]``."""
    patches = visual.conv1(pixel_values).flatten(2).mT + visual.positional_embedding[1:]
    if kept is not None:
        patches = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[2]))
    begin = (visual.class_embedding + visual.positional_embedding[0]).to(patches.dtype)
    tokens: Tensor = visual.ln_pre(torch.cat([begin.expand(len(patches), 1, -1), patches], dim=1))
    return tokens


def pooled_features(visual: Any, pixel_values: Tensor, kept: Tensor) -> Tensor:
    """What the image tower of a micro CLIP makes of images of which it sees some patches.

    Of the last block only the class token is computed, since nothing else of it is read.

    Args:
        visual: the tower.
        pixel_values: float32 ``[n, 3, H, W]``.
        kept: int64 ``[n, k]``, which patches it sees, counted by rows.

    Returns:
        ``[n, embed_dim]``, not normalised, to differentiate.
    """
    tokens = _embedded(visual, pixel_values, kept)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    read = last.ln_1(tokens)
    pooled = tokens[:, :1] + last.attn(read[:, :1], read, read, need_weights=False)[0]
    pooled = pooled + last.mlp(last.ln_2(pooled))
    features: Tensor = visual.ln_post(pooled[:, 0]) @ visual.proj
    return features


def _shown(images: Tensor, chosen: Tensor, augmentation_seed: int | None, epoch: int) -> Tensor:
    if augmentation_seed is None:
        return images[chosen]
    altered = altered_pixels(images.numpy(), chosen.tolist(), seed=augmentation_seed, epoch=epoch)
    return torch.from_numpy(altered)


def encode_texts(model: nn.Module, tokens: Tensor) -> Tensor:
    """Texts as a micro CLIP encodes them, without computing the places behind the longest.

    A text is read from its end-of-text token, which sees nothing behind it: the result is that of
    the whole context length.

    Args:
        model: a micro CLIP.
        tokens: CLIP token ids ``[n, context_length]``, 0 behind each text.

    Returns:
        float32 ``[n, embed_dim]``, of unit length, to differentiate.
    """
    longest = int((tokens != 0).sum(1).max())
    clip: Any = model
    cut = {
        "positional_embedding": clip.positional_embedding[:longest],
        "attn_mask": clip.attn_mask[:longest, :longest],
    }
    texts: Tensor = functional_call(model, cut, kwargs={"text": tokens[:, :longest]})[1]
    return texts


@contextmanager
def _embedding_of(model: nn.Module, tokens: Tensor) -> Iterator[Tensor]:
    """Let ``model`` embed the tokens that occur only, and give ``tokens`` numbered among them.

    An optimizer goes through every row of an embedding: of 49,408 tokens captions hold some
    hundreds. The others keep their vectors.
    """
    clip: Any = model
    whole = clip.token_embedding
    found, numbered = tokens.unique(return_inverse=True)
    rows = found.to(whole.weight.device)
    clip.token_embedding = nn.Embedding.from_pretrained(whole.weight.detach()[rows], freeze=False)
    # Sorted: padding stays 0, and end of text, where the tower reads a text, the largest.
    assert found[0] == 0
    yield numbered
    with torch.no_grad():
        whole.weight[rows] = clip.token_embedding.weight
    clip.token_embedding = whole


def _train_text_tower(
    model: nn.Module,
    image_features: Tensor,
    tokens: Tensor,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    threads: SideBySide,
    checkpoints: Checkpoints,
) -> None:
    """Contrast captions against locked images; only the images' projection learns with them."""
    clip: Any = model
    visual = clip.visual
    visual.requires_grad_(False)
    device = image_features.device
    mixing = nn.Linear(image_features.shape[1], image_features.shape[1], bias=False).to(device)
    nn.init.eye_(mixing.weight)
    steps = epochs * (len(tokens) // batch_size)
    optimizers = ScheduledOptimizers(
        [*model.parameters(), *mixing.parameters()],
        [],
        learning_rate=learning_rate,
        matrix_learning_rate=None,
        multiplier=partial(cosine_with_warmup, steps=steps),
        threads=threads,
    )
    contrastive = open_clip.ClipLoss()
    named = nn.ModuleDict({"clip": model, "mixing": mixing}).named_parameters()
    trained = {name: parameter for name, parameter in named if parameter.requires_grad}

    def step(epoch: int, chosen: Tensor) -> float:
        images = F.normalize(mixing(image_features[chosen]), dim=-1)
        texts = encode_texts(model, tokens[chosen].to(device))
        loss = contrastive(images, texts, clip.logit_scale.exp())
        optimizers.step(loss)
        with torch.no_grad():
            clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        return float(loss.detach())

    training = PlainTraining("CLIP texts", trained, optimizers, generator, device, checkpoints)
    training.run(epochs, partial(_batches, len(tokens), batch_size, generator), step)
    with torch.no_grad():
        visual.proj.copy_(visual.proj @ mixing.weight.T)


@dataclass(frozen=True)
class ImageFeatures:
    """What an image tower makes of images, on the CPU.

    Attributes:
        pooled: what CLIP compares with texts, float32 ``[n, embed_dim]``, not normalised.
        tokens: what BLIP-2 looks at, the class token first, float16 ``[n, tokens, width]``.
    """

    pooled: Tensor
    tokens: Tensor


def encode_images(
    model: nn.Module,
    images: Tensor,
    device: torch.device,
    threads: SideBySide,
    precision: Precision = "float32",
    *,
    augmentation_seed: int | None = None,
) -> ImageFeatures:
    """Run the image tower of a micro CLIP once over images, for all that is trained against it.

    Args:
        model: a micro CLIP in evaluation mode; it is moved to ``device``.
        images: uint8 ``[n, 3, 96, 96]``.
        device: where to compute.
        threads: what computes, some images each.
        precision: of the tower's products.
        augmentation_seed: what :func:`~.altered_photos.altered_pixels` makes of the images by this
            seed is encoded, once, in the place of each; None encodes them as they are.
    """
    vision = MICRO_CONFIG["vision_cfg"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    pooled = torch.empty(len(images), MICRO_CONFIG["embed_dim"])
    tokens = torch.empty(len(images), 1 + patches, vision["width"], dtype=torch.float16)
    visual: Any = model.to(device).visual

    @torch.inference_mode()
    def encode(rows: Tensor) -> None:
        shown = _shown(images, rows, augmentation_seed, epoch=0)
        with autocast(device, precision):
            seen = visual.transformer(_embedded(visual, normalised(shown).to(device)))
            seen = visual.ln_post(seen)
            pooled[rows] = (seen[:, 0] @ visual.proj).float().cpu()
        tokens[rows] = seen.to(tokens)

    for batch in progress(torch.arange(len(images)).split(2 * ENCODE_BATCH), "image features"):
        threads.results([partial(encode, rows) for rows in batch.split(ENCODE_BATCH)])
    return ImageFeatures(pooled, tokens)


def pretrain_image_tower(
    images: Tensor,
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
    augment: bool = False,
) -> nn.Module:
    """Train the image tower of a micro CLIP from scratch on image-caption pairs.

    Args:
        images: uint8 ``[n, 3, 96, 96]``.
        captions: ``n`` texts.
        epochs: passes over the pairs.
        batch_size: pairs a step; the rest of the last batch of an epoch is left out.
        learning_rate: peak of the schedule of AdamW.
        matrix_learning_rate: peak of the schedule of Muon, which has the blocks' matrices;
            None leaves them to AdamW.
        seed: of initialisation, order, flips, dropped patches and alterations.
        device: where to train.
        threads: what trains, a part of each batch each.
        checkpoints: where to go on from and what to write on the way.
        precision: of the forward pass; weights and loss are float32.
        augment: whether images are altered at random, anew in every epoch
            (:func:`~.altered_photos.randomly_altered`).

    Returns:
        A micro CLIP in evaluation mode, on the CPU, whose text tower is not trained yet.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ValueError: there are fewer pairs than one batch.
    """
    if len(captions) < batch_size:
        raise ValueError(
            f"Pretraining has {len(captions)} image-caption pairs, fewer than one batch of "
            f"{batch_size}: lower weights.pretrain.clip_batch or bring more images."
        )
    seed_everything(seed)
    trained = micro_clip()
    conv: Any = trained.visual.conv1  # type: ignore[union-attr]
    with torch.no_grad():
        conv.weight.copy_(
            whitening_filters(images[:WHITENING_IMAGES], conv.kernel_size[0], conv.out_channels)
        )
    conv.weight.requires_grad_(False)
    _train_image_tower(
        trained.to(device).train(),
        images,
        word_targets(micro_tokenizer()(list(captions))),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        matrix_learning_rate=matrix_learning_rate,
        augmentation_seed=seed if augment else None,
        generator=torch.Generator().manual_seed(seed),
        device=device,
        precision=precision,
        threads=threads,
        checkpoints=checkpoints,
    )
    return trained.requires_grad_(True).eval().cpu()


def pretrain_text_tower(
    model: nn.Module,
    image_features: Tensor,
    captions: Sequence[str],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
    threads: SideBySide,
    checkpoints: Checkpoints,
) -> nn.Module:
    """Train the text tower of a micro CLIP against its locked image tower.

    Args:
        model: as :func:`pretrain_image_tower` gives; it is trained itself.
        image_features: the images' ``pooled`` features, float32 ``[n, embed_dim]``.
        captions: ``n`` texts.
        epochs: passes over the pairs.
        batch_size: as the image tower's; a step has twice as many.
        learning_rate: peak of the schedule of AdamW.
        seed: of the order.
        device: where to train.
        threads: what steps; a batch is contrasted whole.
        checkpoints: where to go on from and what to write on the way.

    Returns:
        ``model`` in evaluation mode, on the CPU.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    seed_everything(seed)
    with _embedding_of(model.to(device), micro_tokenizer()(list(captions))) as tokens:
        _train_text_tower(
            model,
            image_features.to(device),
            tokens,
            epochs=epochs,
            batch_size=min(TEXT_BATCHES * batch_size, len(captions)),
            learning_rate=learning_rate,
            generator=torch.Generator().manual_seed(seed),
            threads=threads,
            checkpoints=checkpoints,
        )
    return model.requires_grad_(True).eval().cpu()
