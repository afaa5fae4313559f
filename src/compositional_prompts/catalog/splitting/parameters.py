"""Parameters of the stage ``split``."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

from compositional_prompts.pipeline.section import Fraction, Section


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
    section: ClassVar[str] = "split"

    fractions: SplitFractions
    unseen_pairs: Fraction
    attributes: list[str]
    objects: list[str]
    corpus: bool
