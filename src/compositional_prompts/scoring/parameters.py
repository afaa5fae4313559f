"""Parameters of the stage ``score``."""

from __future__ import annotations

from typing import ClassVar, Literal

from compositional_prompts.pipeline.section import Positive, Section


class Score(Section):
    section: ClassVar[str] = "score"

    batch_size: Positive
    bleu_tokenize: Literal["none", "13a"]
