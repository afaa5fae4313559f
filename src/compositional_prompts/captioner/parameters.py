"""Parameters of the stages ``blip2_features``, ``finetune`` and ``infer``."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from compositional_prompts.catalog.splitting.split_tables import (
    JUDGED_SPLIT,
    SCORED_SPLIT,
    SPLIT_NAMES,
)
from compositional_prompts.pipeline.section import (
    MOST_AT_ONCE,
    BatchSize,
    Fraction,
    ItemsAtOnce,
    LearningRate,
    NonNegative,
    NonNegativeFloat,
    PartOfOne,
    Positive,
    PrecisionChoice,
    Rate,
    Section,
    SeededSection,
    Tokens,
    Width,
    Words,
)


class Blip2Features(Section):
    section: ClassVar[str] = "blip2_features"

    cache: bool
    precision: PrecisionChoice
    dtype: Literal["float16", "bfloat16"]
    batch_size: BatchSize


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from error
    return text


Modules = Annotated[str, Field(min_length=1), AfterValidator(_expression)]
"""A regular expression of module names, or of their ends from a dot on."""


class RankPattern(Section):
    modules: Modules
    r: Width


class AlphaPattern(Section):
    modules: Modules
    alpha: Positive


class Lora(Section):
    r: Width
    alpha: Positive
    dropout: PartOfOne
    target_modules: Words | None
    bias: Literal["none", "all", "lora_only"]
    use_dora: bool
    use_rslora: bool
    rank_pattern: list[RankPattern]
    alpha_pattern: list[AlphaPattern]


Target: TypeAlias = Literal["enhanced", "title"]
"""What a captioner learns to write: enhanced prompts, or titles that people wrote."""


class Finetune(SeededSection):
    section: ClassVar[str] = "finetune"

    mode: Literal["train", "keep"]
    target: Target
    lora: Lora
    precision: PrecisionChoice
    epochs: Positive
    batch_size: ItemsAtOnce
    gradient_accumulation: Positive
    gradient_checkpointing: bool
    compile: bool
    learning_rate: LearningRate
    schedule: Literal["linear", "cosine", "constant"]
    warmup_ratio: Fraction
    weight_decay: NonNegativeFloat
    max_grad_norm: Rate | None
    label_smoothing: PartOfOne
    augment: bool
    max_tokens: Tokens
    train_images: Positive | None
    caption_every: Positive | None
    caption_images: Positive
    best_metric: Literal["val_loss", "val_token_accuracy", "val_bleu"]
    early_stopping: Positive | None

    @model_validator(mode="after")
    def _captions_for_bleu(self) -> Finetune:
        if self.best_metric == "val_bleu" and self.caption_every is None:
            raise ValueError("best_metric val_bleu needs caption_every, found null")
        return self


def augmentation_fault(cached: bool, augment: bool) -> str | None:
    """Why images cannot be augmented, where their features are cached."""
    if not (cached and augment):
        return None
    return (
        "finetune.augment changes images, and blip2_features.cache keeps features of unchanged "
        "ones, found true for both: set blip2_features.cache to false, or finetune.augment to "
        "false."
    )


class Sampling(Section):
    temperature: Annotated[float, Field(ge=0.01, le=100)]
    top_k: NonNegative
    top_p: Annotated[float, Field(gt=0, le=1)]


ALL_SPLITS = "all"


def _splits(value: Any) -> Any:
    named = [value] if isinstance(value, str) else value
    if value == ALL_SPLITS or (
        isinstance(named, list)
        and named
        and all(name in SPLIT_NAMES for name in named)
        and len(set(named)) == len(named)
    ):
        return value
    raise ValueError(
        f"must be {ALL_SPLITS}, one of {', '.join(SPLIT_NAMES)}, or a list of these, each once"
    )


MOST_BEAMS: Final = 100
"""Each is a text that a language model keeps the attention of: beyond some ten captions only get
worse (Koehn and Knowles, "Six challenges for neural machine translation", 2017)."""


class Infer(Section):
    section: ClassVar[str] = "infer"

    split: Annotated[str | list[str], PlainValidator(_splits)]
    images: Positive | None
    precision: PrecisionChoice
    batch_size: BatchSize
    num_beams: Annotated[int, Field(ge=1, le=MOST_BEAMS)]
    length_penalty: Annotated[float, Field(ge=-10, le=10)]
    sampling: Sampling | None
    grammar: bool
    max_new_tokens: Tokens

    @model_validator(mode="after")
    def _one_way(self) -> Infer:
        if self.sampling is not None and (self.num_beams > 1 or self.grammar):
            raise ValueError("sampling goes with num_beams 1 and without grammar")
        if self.batch_size != "auto" and self.batch_size * self.num_beams > MOST_AT_ONCE:
            raise ValueError(
                f"batch_size {self.batch_size} and num_beams {self.num_beams} make "
                f"{self.batch_size * self.num_beams} texts at once, expected {MOST_AT_ONCE} at "
                "most: lower one of them"
            )
        return self

    @property
    def captioned_splits(self) -> tuple[str, ...]:
        """What the fine-tuned model captions: always, too, what it is judged and scored on."""
        if self.split == ALL_SPLITS:
            return SPLIT_NAMES
        named = {*([self.split] if isinstance(self.split, str) else self.split)}
        named |= {JUDGED_SPLIT, SCORED_SPLIT}
        return tuple(name for name in SPLIT_NAMES if name in named)
