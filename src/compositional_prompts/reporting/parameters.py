"""Parameters of the stage ``report``."""

from __future__ import annotations

from typing import ClassVar

from compositional_prompts.pipeline.section import Positive, Section


class Report(Section):
    section: ClassVar[str] = "report"

    title: str
    gallery_images: Positive
    photos: Positive
