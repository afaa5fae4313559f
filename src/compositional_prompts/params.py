"""Typed parameters: one model a section of ``params.yaml``, strict about every key.

A stage reads its own section and ``base`` with :func:`read_params`; unknown, missing and mistyped
keys are refused by name before any work starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Precision = Literal["float32", "bfloat16", "float16", "int8", "int4"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Words = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


def _number_or_auto(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value == "auto" or (whole and value >= 1):
        return value
    raise ValueError("must be a whole number of at least 1, or auto")


BatchSize = Annotated[int | Literal["auto"], PlainValidator(_number_or_auto)]


class ParameterError(ValueError):
    """``params.yaml`` is not what the stage expects."""


class Section(BaseModel):
    """A group of parameters: immutable, no coercion between types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Base(Section):
    seed: NonNegative
    device: Literal["cpu", "cuda", "auto"]
    workers: Positive
    launcher: str
    checkpoint_seconds: NonNegative


class SampleDataset(Section):
    images: Positive


class FashionProductsDataset(Section):
    source: str
    revision: str | None
    filters: dict[str, Words]
    attribute: str
    object: str
    min_pair_images: Positive
    missing_labels: list[str]
    on_missing: Literal["drop", "keep"]
    limit: Positive | None


class FolderDataset(Section):
    path: str
    labels: str | None
    on_missing: Literal["drop", "keep"]


class ArchiveFile(Section):
    """A file of a data set's publisher; size in bytes."""

    url: str
    size: Positive | None
    sha256: Sha256 | None


class UtZapposDataset(Section):
    path: str | None
    images: ArchiveFile
    splits: ArchiveFile
    truth: ArchiveFile | None


class MitStatesDataset(Section):
    path: str | None
    images: ArchiveFile
    splits: ArchiveFile


class CgqaDataset(Section):
    path: str | None
    images: ArchiveFile


class Download(Section):
    dataset: Literal["sample", "fashion_products", "ut_zappos", "mit_states", "cgqa", "folder"]
    max_rejected: Fraction
    max_pixels: Positive
    shard_mib: Positive
    sample: SampleDataset
    fashion_products: FashionProductsDataset
    ut_zappos: UtZapposDataset
    mit_states: MitStatesDataset
    cgqa: CgqaDataset
    folder: FolderDataset


class SplitFractions(Section):
    train: Fraction
    val: Fraction
    test: Fraction

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitFractions:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, val and test must sum to 1, found {total:g}")
        return self


class Split(Section):
    fractions: SplitFractions
    unseen_pairs: Fraction
    attributes: list[str]
    objects: list[str]
    corpus: bool


class ClipSource(Section):
    source: Literal["pretrain", "hub", "path"]
    name: str
    pretrained: str | None


class TroikaClipSource(Section):
    source: Literal["same", "pretrain", "hub", "path"]
    name: str | None
    pretrained: str | None

    @model_validator(mode="after")
    def _named(self) -> TroikaClipSource:
        if self.source in ("hub", "path") and self.name is None:
            raise ValueError(f"name must be given with source {self.source}")
        return self


class Blip2Source(Section):
    source: Literal["pretrain", "hub", "path"]
    name: str
    revision: str | None


class Pretrain(Section):
    corpus: Literal["generated", "catalog"]
    images: Positive
    clip_image_epochs: Positive
    clip_text_epochs: Positive
    clip_batch: Positive
    clip_learning_rate: Rate
    blip2_epochs: Positive
    blip2_batch: Positive
    blip2_learning_rate: Rate


class Weights(Section):
    clip: ClipSource
    troika_clip: TroikaClipSource
    blip2: Blip2Source
    pretrain: Pretrain


class BranchWeights(Section):
    composition: NonNegativeFloat
    attribute: NonNegativeFloat
    object: NonNegativeFloat


class ScoreWeights(Section):
    composition: NonNegativeFloat
    primitives: NonNegativeFloat


class TroikaTrain(Section):
    epochs: NonNegative
    batch_size: Positive
    learning_rate: Rate
    weight_decay: NonNegativeFloat
    lr_step: Positive
    lr_gamma: Rate
    gradient_accumulation: Positive
    adapter_dim: Positive
    adapter_dropout: Fraction
    context: str
    context_length: Positive
    attribute_dropout: Fraction
    disentangler_dropout: Fraction
    traction_layers: Positive
    traction_dropout: Fraction
    loss_weights: BranchWeights
    score_weights: ScoreWeights
    precision: Literal["float32", "bfloat16"]
    augment: bool
    early_stopping: Positive | None


class Feasibility(Section):
    vectors: Literal["clip", "glove"]
    glove: str | None
    thresholds: Positive
    masking: Literal["exclude", "multiply"]

    @model_validator(mode="after")
    def _file_for_glove(self) -> Feasibility:
        if self.vectors == "glove" and self.glove is None:
            raise ValueError("vectors glove needs the file in glove, found null")
        return self


class TroikaPredict(Section):
    batch_size: Positive
    block_mib: Positive
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


class ClipEmbed(Section):
    batch_size: Positive
    template: str
    attributes: Annotated[dict[str, Words], Field(min_length=1)]

    @model_validator(mode="after")
    def _valid(self) -> ClipEmbed:
        if self.template.count("{}") != 1:
            raise ValueError(f"template must hold {{}} once, found {self.template!r}")
        for group, words in self.attributes.items():
            if len(set(words)) != len(words):
                raise ValueError(f"attributes.{group} names a word twice: {words}")
        return self


class Enhance(Section):
    threshold: Annotated[float, Field(ge=-1, le=1)]
    fallback: Literal["unspecified", "undefined"]
    reference_colors: dict[str, Annotated[list[int], Field(min_length=3, max_length=3)]]


class Blip2Features(Section):
    cache: bool
    precision: Precision
    dtype: Literal["float16", "bfloat16"]
    batch_size: BatchSize


class Lora(Section):
    r: Positive
    alpha: Positive
    dropout: Fraction
    target_modules: Words | None
    bias: Literal["none", "all", "lora_only"]
    use_dora: bool
    use_rslora: bool
    rank_pattern: dict[str, Positive]
    alpha_pattern: dict[str, Positive]


class Finetune(Section):
    lora: Lora
    precision: Precision
    epochs: Positive
    batch_size: Positive
    gradient_accumulation: Positive
    gradient_checkpointing: bool
    compile: bool
    learning_rate: Rate
    schedule: Literal["linear", "cosine", "constant"]
    warmup_ratio: Fraction
    weight_decay: NonNegativeFloat
    max_grad_norm: Rate | None
    label_smoothing: Fraction
    augment: bool
    max_tokens: Positive
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


class Sampling(Section):
    temperature: Rate
    top_k: NonNegative
    top_p: Annotated[float, Field(gt=0, le=1)]


class Infer(Section):
    split: Literal["train", "val", "test"]
    images: Positive | None
    precision: Precision
    batch_size: BatchSize
    num_beams: Positive
    length_penalty: float
    sampling: Sampling | None
    grammar: bool
    max_new_tokens: Positive
    shard_images: Positive

    @model_validator(mode="after")
    def _one_way(self) -> Infer:
        if self.sampling is not None and (self.num_beams > 1 or self.grammar):
            raise ValueError("sampling goes with num_beams 1 and without grammar")
        return self


class Score(Section):
    batch_size: Positive
    bleu_tokenize: Literal["none", "13a"]


class Report(Section):
    title: str
    gallery_images: Positive


class Params(Section):
    """The whole of ``params.yaml``."""

    base: Base
    download: Download
    split: Split
    weights: Weights
    troika_train: TroikaTrain
    troika_predict: TroikaPredict
    clip_embed: ClipEmbed
    enhance: Enhance
    blip2_features: Blip2Features
    finetune: Finetune
    infer: Infer
    score: Score
    report: Report


SectionType = TypeVar("SectionType", bound=Section)


def _explain(error: ValidationError, source: Path, prefix: str) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in (prefix, *problem["loc"]) if part != "")
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key; remove it or correct its spelling")
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing; see params.yaml as shipped for its meaning")
        else:
            lines.append(f"{key}: {problem['msg']}; found {problem['input']!r}")
    return f"{source} is not valid:\n  " + "\n  ".join(lines)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ParameterError(f"{path} is missing: run from the root of the project.")
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ParameterError(f"{path} must be a mapping of sections, found {type(document)}.")
    return document


def read_params(path: Path, section: type[SectionType]) -> tuple[SectionType, Base]:
    """Read one section and ``base``.

    Raises:
        ParameterError: naming every unknown, missing or mistyped key of the two sections.
    """
    document = _load(path)
    (name,) = [key for key, field in Params.model_fields.items() if field.annotation is section]
    problems = []
    values: dict[str, Any] = {}
    for key, model in ((name, section), ("base", Base)):
        if key not in document:
            problems.append(f"{path}: section {key!r} is missing.")
            continue
        try:
            values[key] = model.model_validate(document[key])
        except ValidationError as error:
            problems.append(_explain(error, path, key))
    if problems:
        raise ParameterError("\n".join(problems))
    return values[name], values["base"]


def read_all_params(path: Path) -> Params:
    """Read and check the whole file; raises :class:`ParameterError` as :func:`read_params`."""
    try:
        return Params.model_validate(_load(path))
    except ValidationError as error:
        raise ParameterError(_explain(error, path, "")) from error
