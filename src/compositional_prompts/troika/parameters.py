"""Parameters of the stages ``troika_train`` and ``troika_predict``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from compositional_prompts.pipeline.section import (
    ItemsAtOnce,
    LearningRate,
    NonNegative,
    NonNegativeFloat,
    PartOfOne,
    Positive,
    Section,
    SeededSection,
    Tokens,
    Width,
)


class BranchWeights(Section):
    composition: NonNegativeFloat
    attribute: NonNegativeFloat
    object: NonNegativeFloat

    @model_validator(mode="after")
    def _some_weight(self) -> BranchWeights:
        if not self.composition + self.attribute + self.object:
            raise ValueError("the weights are all 0, and nothing would be learnt: set one above 0")
        return self


class ScoreWeights(Section):
    chosen_by: Literal["fixed", "validation"]
    composition: NonNegativeFloat
    primitives: NonNegativeFloat
    zero_shot: NonNegativeFloat

    @model_validator(mode="after")
    def _some_weight(self) -> ScoreWeights:
        if not self.composition + self.primitives + self.zero_shot:
            raise ValueError(
                "the weights are all 0, and every pair would score the same: set one above 0"
            )
        return self


def _with_words(text: str) -> str:
    if not text.split():
        raise ValueError("has no words: give it some, as 'a photo of'")
    return text


class TroikaTrain(SeededSection):
    section: ClassVar[str] = "troika_train"

    mode: Literal["train", "keep", "reference"]
    epochs: NonNegative
    batch_size: ItemsAtOnce
    learning_rate: LearningRate
    weight_decay: NonNegativeFloat
    lr_step: Positive
    lr_gamma: Annotated[float, Field(gt=0, le=1)]
    gradient_accumulation: Positive
    adapter_dim: Width
    adapter_dropout: PartOfOne
    context: Annotated[str, AfterValidator(_with_words)]
    context_length: Tokens
    attribute_dropout: PartOfOne
    disentangler_dropout: PartOfOne
    traction_layers: Annotated[int, Field(ge=1, le=64)]
    traction_dropout: PartOfOne
    loss_weights: BranchWeights
    score_weights: ScoreWeights
    precision: Literal["auto", "float32", "bfloat16"]
    augment: bool
    early_stopping: Positive | None

    @model_validator(mode="after")
    def _batches_for_batch_norm(self) -> TroikaTrain:
        if self.mode == "train" and self.epochs and self.batch_size < 2:
            raise ValueError(
                f"batch_size is {self.batch_size}, and batch norm needs at least 2 images in a "
                "batch: raise it, or set epochs to 0"
            )
        return self


def training_fault(train_images: int, val_images: int, params: TroikaTrain) -> str | None:
    """Why Troika cannot be trained with so many labelled images, or None."""
    if params.mode != "train" or not params.epochs:
        return None
    if not train_images:
        return (
            "There is no labelled training image (pair_split train): label some, or set "
            "troika_train.epochs: 0 to name pairs by zero-shot CLIP."
        )
    if train_images < 2:
        return (
            "There is one labelled training image (pair_split train), and batch norm needs at "
            "least 2: label more, or set troika_train.epochs: 0 to name pairs by zero-shot CLIP."
        )
    if params.early_stopping is not None and not val_images:
        return (
            "troika_train.early_stopping needs labelled validation images (pair_split val), and "
            "there are none: set it to null."
        )
    return None


class Feasibility(Section):
    vectors: Literal["clip", "glove"]
    glove: str | None
    thresholds: Annotated[int, Field(ge=1, le=100_000)]
    masking: Literal["exclude", "multiply"]

    @model_validator(mode="after")
    def _file_for_glove(self) -> Feasibility:
        if self.vectors == "glove" and self.glove is None:
            raise ValueError("vectors glove needs the file in glove, found null")
        return self


class TroikaPredict(Section):
    section: ClassVar[str] = "troika_predict"

    batch_size: ItemsAtOnce
    block_mib: Annotated[int, Field(ge=1, le=65_536)]
    top_k: Positive
    worlds: Annotated[list[Literal["closed", "open"]], Field(min_length=1)]
    protocol: Literal["exact", "sampled"]
    feasibility: Feasibility

    @model_validator(mode="after")
    def _valid(self) -> TroikaPredict:
        if len(set(self.worlds)) != len(self.worlds):
            raise ValueError(f"worlds names one twice: {self.worlds}")
        if self.feasibility.masking == "multiply" and self.protocol != "sampled":
            raise ValueError(
                "feasibility.masking multiply goes with protocol sampled only: it is there to "
                "compare with published numbers"
            )
        return self
