"""Parameters of the stage ``split``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, field_validator, model_validator

from compositional_prompts.pipeline.section import Fraction, Section
from compositional_prompts.prompt.pair import dotted
from compositional_prompts.prompt.text_form import clean_text, require_distinct_words, require_said


def _share(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(
            "must be above 0 and below 1: train is learnt from, val chooses the epoch that is "
            "kept, and test is scored"
        )
    return value


Share = Annotated[float, AfterValidator(_share)]


def _word(text: str) -> str:
    dotted(text)
    require_said(text)
    return clean_text(text)


Word = Annotated[str, AfterValidator(_word)]


MadeAssignment: TypeAlias = Literal["stable", "exact"]
"""By what products and pairs are split: each by its own hash, or by its rank among all."""


Assignment: TypeAlias = Literal["stable", "exact", "given"]
"""The same, or as the data set has them."""


class SplitFractions(Section):
    train: Share
    val: Share
    test: Share

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitFractions:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, val and test must sum to 1, found {total:g}")
        return self


class Split(Section):
    section: ClassVar[str] = "split"

    assignment: Assignment | None
    fractions: SplitFractions
    unseen_pairs: Fraction
    attributes: list[Word]
    objects: list[Word]
    corpus: bool

    @field_validator("attributes", "objects")
    @classmethod
    def _words_once(cls, words: list[str]) -> list[str]:
        require_distinct_words((word.replace(".", " ") for word in words), "names")
        return words

    def assignment_of(self, *, grows: bool) -> Assignment:
        """The assignment asked for, or that which suits a data set that grows, or does not."""
        return self.assignment or ("stable" if grows else "exact")
