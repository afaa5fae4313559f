"""Parameters of the stage ``clip_embed``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from compositional_prompts.pipeline.section import ItemsAtOnce, Section
from compositional_prompts.prompt.text_form import composed, require_distinct_words, word_form


def _seen(text: str) -> str:
    if not word_form(text):
        raise ValueError("must have a letter, a digit or a sign that is seen")
    return composed(text)


Word = Annotated[str, Field(min_length=1), AfterValidator(_seen)]


class AttributeGroup(Section):
    name: Word
    words: Annotated[list[Word], Field(min_length=1)]


class ClipEmbed(Section):
    section: ClassVar[str] = "clip_embed"

    attributes: Annotated[list[AttributeGroup], Field(min_length=1)]
    batch_size: ItemsAtOnce
    template: str

    @model_validator(mode="after")
    def _valid(self) -> ClipEmbed:
        if self.template.count("{}") != 1:
            raise ValueError(f"template must hold {{}} once, found {self.template!r}")
        names = (group.name for group in self.attributes)
        require_distinct_words(names, "attributes names the group")
        for group in self.attributes:
            require_distinct_words(group.words, f"attributes: group {group.name!r} has the word")
        return self

    @property
    def vocabulary(self) -> dict[str, list[str]]:
        """Words by group, in the order of the prompt."""
        return {group.name: group.words for group in self.attributes}
