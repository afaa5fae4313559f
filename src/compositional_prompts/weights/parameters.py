"""Parameters of the stage ``weights``: where each model comes from."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from compositional_prompts.clip.clip_names import check_clip_name
from compositional_prompts.pipeline.section import ItemsAtOnce, LearningRate, Positive, Section


class ClipSource(Section):
    source: Literal["pretrain", "hub", "path"]
    name: str
    pretrained: str | None
    revision: str | None

    @model_validator(mode="after")
    def _named(self) -> ClipSource:
        if self.source == "hub":
            check_clip_name(self.name, self.pretrained)
        return self


class TroikaClipSource(Section):
    source: Literal["same", "pretrain", "hub", "path"]
    name: str | None
    pretrained: str | None
    revision: str | None

    @model_validator(mode="after")
    def _named(self) -> TroikaClipSource:
        if self.source in ("hub", "path") and self.name is None:
            raise ValueError(f"name must be given with source {self.source}")
        if self.source == "hub" and self.name is not None:
            check_clip_name(self.name, self.pretrained)
        return self


class Blip2Source(Section):
    source: Literal["pretrain", "hub", "path"]
    name: str
    revision: str | None

    @model_validator(mode="after")
    def _named(self) -> Blip2Source:
        if self.source == "hub" and self.name.count("/") != 1:
            raise ValueError(
                "name must be ORGANISATION/REPOSITORY with source hub, such as "
                f"Salesforce/blip2-opt-2.7b, found {self.name!r}"
            )
        return self


class Pretrain(Section):
    corpus: Literal["generated", "catalog"]
    images: Positive
    augment: bool
    clip_image_epochs: Positive
    clip_text_epochs: Positive
    clip_batch: ItemsAtOnce
    clip_learning_rate: LearningRate
    clip_matrix_learning_rate: LearningRate | None
    blip2_epochs: Positive
    blip2_batch: ItemsAtOnce
    blip2_learning_rate: LearningRate
    blip2_matrix_learning_rate: LearningRate | None
    precision: Literal["auto", "float32", "bfloat16"]


class Weights(Section):
    section: ClassVar[str] = "weights"

    clip: ClipSource
    troika_clip: TroikaClipSource
    blip2: Blip2Source
    pretrain: Pretrain

    @property
    def pretrains(self) -> bool:
        """Whether any of the models is trained here."""
        return "pretrain" in (self.clip.source, self.troika_clip.source, self.blip2.source)
