"""Parameters of the stages ``score`` and ``recommend``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from compositional_prompts.pipeline.section import ItemsAtOnce, Positive, Section
from compositional_prompts.prompt.readable_text import ReadableText, template_places
from compositional_prompts.prompt.text_form import require_distinct_words


class BertScore(Section):
    source: Literal["hub", "path"]
    name: Annotated[str, Field(min_length=1)]
    revision: str | None
    layer: Positive


class Score(Section):
    section: ClassVar[str] = "score"

    batch_size: ItemsAtOnce
    bleu_tokenize: Literal["none", "13a"]
    bert_score: BertScore | None


def _readable(text: str) -> str:
    if not any(letter.isalnum() for letter in text):
        raise ValueError(f"must hold a letter or a digit, found {text!r}")
    return text


class ReadableName(Section):
    label: Annotated[str, Field(min_length=1)]
    text: Annotated[str, AfterValidator(_readable)]


class Readable(Section):
    template: str | None
    names: list[ReadableName]

    @field_validator("template")
    @classmethod
    def _can_be_read(cls, template: str | None) -> str | None:
        if template is not None:
            template_places(template)
        return template

    @model_validator(mode="after")
    def _valid(self) -> Readable:
        require_distinct_words(
            (name.label.replace(".", " ") for name in self.names), "names has the label"
        )
        return self

    def of(self, groups: Sequence[str]) -> ReadableText:
        """Readable texts of prompts with these attribute groups.

        Raises:
            ReadableTemplateError: the template names another.
        """
        names = {name.label: name.text for name in self.names}
        return ReadableText(groups, self.template, names)


class Recommend(Section):
    section: ClassVar[str] = "recommend"

    min_labelled: Positive
    readable: Readable
