"""Parameters of the stage ``enhance``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from compositional_prompts.pipeline.section import Section, require_distinct

Level = Annotated[int, Field(ge=0, le=255)]


class ReferenceColor(Section):
    word: Annotated[str, Field(min_length=1)]
    rgb: Annotated[list[Level], Field(min_length=3, max_length=3)]


class Enhance(Section):
    section: ClassVar[str] = "enhance"

    threshold: Annotated[float, Field(ge=-1, le=1)]
    fallback: Literal["unspecified", "undefined"]
    reference_colors: list[ReferenceColor]

    @model_validator(mode="after")
    def _valid(self) -> Enhance:
        words = (color.word.casefold() for color in self.reference_colors)
        require_distinct(words, "reference_colors names the word")
        return self
