"""Parameters of the stage ``clip_embed``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from compositional_prompts.pipeline.section import Positive, Section, Words


class ClipEmbed(Section):
    section: ClassVar[str] = "clip_embed"

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
