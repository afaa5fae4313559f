"""Parameters of the stage ``report``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from compositional_prompts.pipeline.section import Positive, Section


class Report(Section):
    section: ClassVar[str] = "report"

    title: str
    gallery_images: Annotated[int, Field(ge=1, le=1000)]
    photos: Positive
