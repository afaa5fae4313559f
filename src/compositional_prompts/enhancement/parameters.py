"""Parameters of the stages ``colors``, ``word_scorer``, ``enhance`` and ``stability``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from compositional_prompts.pipeline.section import (
    Positive,
    Section,
    require_distinct,
)
from compositional_prompts.prompt.text_form import require_distinct_words

Level = Annotated[int, Field(ge=0, le=255)]

Method = Literal["cosine", "zero_shot", "pixels", "probe"]

COLOR_METHODS: Collection[Method] = ("pixels", "probe")
"""Those that look at the colours of a group of colours."""


class ReferenceColor(Section):
    word: Annotated[str, Field(min_length=1)]
    rgb: Annotated[list[Level], Field(min_length=3, max_length=3)]


class GroupMethod(Section):
    group: Annotated[str, Field(min_length=1)]
    method: Method


class Enhance(Section):
    section: ClassVar[str] = "enhance"

    method: Method
    methods: list[GroupMethod]
    templates: Annotated[list[str], Field(min_length=1)]
    learn_images: Positive
    abstain: Annotated[float, Field(gt=0, lt=1)] | None
    threshold: Annotated[float, Field(ge=-1, le=1)]
    fallback: Literal["unspecified", "undefined"]
    reference_colors: list[ReferenceColor]
    altered_copies: Annotated[int, Field(ge=0, le=1000)]
    stability_images: Positive

    @model_validator(mode="after")
    def _valid(self) -> Enhance:
        words = (color.word for color in self.reference_colors)
        require_distinct_words(words, "reference_colors names the word")
        require_distinct_words((one.group for one in self.methods), "methods names the group")
        require_distinct(self.templates, "templates has")
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"templates must each hold {{}} once, found {template!r}")
        return self

    def method_of(self, group: str) -> Method:
        """How words of a group are scored."""
        return next((one.method for one in self.methods if one.group == group), self.method)
