"""LoRA fine-tuning of BLIP-2's language model on cached features and enhanced prompts."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import Blip2ForConditionalGeneration, get_linear_schedule_with_warmup

from compositional_prompts.captioner.features import FeatureStore
from compositional_prompts.captioner.forward import IGNORED, caption_logits, caption_loss
from compositional_prompts.captioner.loading import Captioner
from compositional_prompts.captioner.tokens import (
    CaptionTokens,
    bucketed_batches,
    tokenize_captions,
)
from compositional_prompts.devices import seed_everything
from compositional_prompts.outputs import atomic_directory, atomic_file
from compositional_prompts.params import Finetune, Lora
from compositional_prompts.stage import progress

logger = logging.getLogger(__name__)

LAST = "last"
"""Folder of the last epoch's adapter, inside the folder that holds the best one."""


@dataclass(frozen=True)
class EpochRecord:
    """One row of the learning curve; losses in nats a token, accuracies of teacher-forced tokens.

    Training figures are running means over the epoch, with dropout; validation is without.
    """

    epoch: int
    train_loss: float
    val_loss: float
    train_token_accuracy: float
    val_token_accuracy: float


@dataclass(frozen=True)
class CaptionPairs:
    """Images and their captions, aligned."""

    image_ids: Sequence[str]
    captions: Sequence[str]


@dataclass
class _Totals:
    """Sums over tokens, so that means do not depend on how captions fall into batches."""

    loss: float = 0.0
    correct: int = 0
    tokens: int = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        scored = labels != IGNORED
        count = int(scored.sum())
        self.loss += loss.item() * count
        self.correct += int((logits.argmax(-1) == labels)[scored].sum())
        self.tokens += count


def add_adapter(model: Blip2ForConditionalGeneration, lora: Lora) -> PeftModel:
    """Put a fresh LoRA adapter into ``model``; only its parameters require gradients.

    Raises:
        ValueError: no module has one of ``lora.target_modules``, or one lies outside the language
            model, whose input features are cached and would not follow it.
    """
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.target_modules),
            bias=lora.bias,
        ),
    )
    outside = [
        name
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad and ".language_model." not in name
    ]
    if outside:
        raise ValueError(
            f"finetune.lora would train {outside[0]!r}, which lies before the cached features: "
            "choose target_modules of the language model only."
        )
    return adapted


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Total and trainable parameters, adapter included, as PEFT counts them."""
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


@torch.inference_mode()
def _validate(
    captioner: Captioner,
    features: FeatureStore,
    pairs: CaptionPairs,
    tokens: CaptionTokens,
    batch_size: int,
) -> _Totals:
    captioner.model.eval()
    totals = _Totals()
    device = captioner.device
    for rows in torch.arange(len(tokens)).split(batch_size):
        queries = features.read([pairs.image_ids[row] for row in rows.tolist()]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits, labels = caption_logits(
                captioner.model, queries, tokens.select(rows).to(device)
            )
        totals.add(caption_loss(logits, labels), logits, labels)
    return totals


def finetune(
    captioner: Captioner,
    features: FeatureStore,
    train: CaptionPairs,
    val: CaptionPairs,
    params: Finetune,
    *,
    seed: int,
    adapter: Path,
    curve: Path,
) -> dict[str, Any]:
    """Train a LoRA adapter and write the best (by validation loss) and the last one.

    Args:
        captioner: the untrained model; its language model is adapted in place.
        features: cached query features of every image of ``train`` and ``val``.
        train: what to learn.
        val: what the best epoch is chosen on.
        params: hyper-parameters; the learning rate falls linearly to zero, a step at a time.
        seed: of the adapter, the order of the batches, and dropout.
        adapter: folder to write, in PEFT's layout; :data:`LAST` inside it holds the last epoch's.
        curve: CSV file to write, a row an epoch (the fields of :class:`EpochRecord`).

    Returns:
        Parameter counts, min, max and mean of the epochs' losses, epochs run, the best epoch.

    Raises:
        ValueError: there is nothing to train or validate on, a caption is too long, or the
            adapter would train what comes before the cached features.
    """
    for name, pairs in (("training", train), ("validation", val)):
        if not pairs.image_ids:
            raise ValueError(
                f"No {name} images to fine-tune with: bring more products, or change "
                "split.fractions."
            )
    seed_everything(seed)
    device = captioner.device
    train_tokens = tokenize_captions(captioner, train.captions, params.max_tokens)
    val_tokens = tokenize_captions(captioner, val.captions, params.max_tokens)
    adapted = add_adapter(captioner.model, params.lora).to(device)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=params.learning_rate, weight_decay=params.weight_decay
    )
    steps = params.epochs * -(-len(train_tokens) // params.batch_size)
    scheduler = get_linear_schedule_with_warmup(
        optimizer, round(params.warmup_ratio * steps), steps
    )
    generator = torch.Generator().manual_seed(seed)
    history: list[EpochRecord] = []
    best = 0
    with atomic_directory(adapter) as directory:
        for epoch in range(1, params.epochs + 1):
            # The Q-Former's output is cached in evaluation mode; only what follows it trains.
            captioner.model.language_model.train()
            totals = _Totals()
            batches = bucketed_batches(train_tokens.mask.sum(1), params.batch_size, generator)
            for rows in progress(batches, f"fine-tuning epoch {epoch}/{params.epochs}"):
                queries = features.read([train.image_ids[row] for row in rows.tolist()]).to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    logits, labels = caption_logits(
                        captioner.model, queries, train_tokens.select(rows).to(device)
                    )
                loss = caption_loss(logits, labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                scheduler.step()
                totals.add(loss.detach(), logits.detach(), labels)
            checked = _validate(captioner, features, val, val_tokens, params.batch_size)
            record = EpochRecord(
                epoch=epoch,
                train_loss=totals.loss / totals.tokens,
                val_loss=checked.loss / checked.tokens,
                train_token_accuracy=totals.correct / totals.tokens,
                val_token_accuracy=checked.correct / checked.tokens,
            )
            history.append(record)
            logger.info(
                "epoch %d of %d: training loss %.4f, validation loss %.4f, token accuracy %.4f",
                epoch,
                params.epochs,
                record.train_loss,
                record.val_loss,
                record.val_token_accuracy,
            )
            if not best or record.val_loss < history[best - 1].val_loss:
                best = epoch
                adapted.save_pretrained(str(directory), safe_serialization=True)
            if params.early_stopping is not None and epoch - best >= params.early_stopping:
                break
        adapted.save_pretrained(str(directory / LAST), safe_serialization=True)
        for card in directory.rglob("README.md"):
            card.unlink()  # PEFT's card is an empty form
    write_curve(history, curve)
    return {
        "parameters": count_parameters(adapted),
        "train_loss": _spread([record.train_loss for record in history]),
        "val_loss": _spread([record.val_loss for record in history]),
        "epochs": len(history),
        "best_epoch": best,
        "train_images": len(train_tokens),
        "val_images": len(val_tokens),
        "val_token_accuracy": history[best - 1].val_token_accuracy,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "max": max(values), "mean": sum(values) / len(values)}


def write_curve(history: Sequence[EpochRecord], path: Path) -> None:
    """Write the learning curve as CSV, values rounded to 4 decimals."""
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(EpochRecord)])
        writer.writeheader()
        for record in history:
            writer.writerow(
                {
                    key: round(value, 4) if isinstance(value, float) else value
                    for key, value in asdict(record).items()
                }
            )


def load_adapter(captioner: Captioner, adapter: Path) -> None:
    """Merge the adapter in ``adapter`` into the captioner's weights, in place.

    Raises:
        FileNotFoundError: there is no adapter in ``adapter``.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise FileNotFoundError(f"{adapter} holds no adapter: run `dvc repro finetune`.")
    adapted = PeftModel.from_pretrained(captioner.model, str(adapter))
    adapted.merge_and_unload()
    captioner.model.eval().requires_grad_(False)
