"""Parameters of the stage ``enhance``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from compositional_prompts.pipeline.section import Section


class Enhance(Section):
    section: ClassVar[str] = "enhance"

    threshold: Annotated[float, Field(ge=-1, le=1)]
    fallback: Literal["unspecified", "undefined"]
    reference_colors: dict[str, Annotated[list[int], Field(min_length=3, max_length=3)]]
