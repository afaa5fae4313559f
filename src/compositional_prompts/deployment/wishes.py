"""What is wanted of every photo beside its caption, and what that takes."""

from __future__ import annotations

from dataclasses import dataclass

from compositional_prompts.scoring.recommended_texts import ENHANCED


@dataclass(frozen=True)
class Wishes:
    """What is wanted beside the captions.

    Attributes:
        untrained: the caption of the model without the adapter (and without a grammar); takes
            memory for a second language model.
        enhanced: the prompt by Troika and CLIP that such a photo would have been trained on.
        scores: scores of all words of the attribute groups, and the caption's words by place.
        recommended: which text to recommend, ``caption`` or ``enhanced``; None recommends none.
            Where a caption is off the template, the enhanced prompt takes its place.
        readable: the recommended text, else the caption, in a shop's words.
    """

    untrained: bool = False
    enhanced: bool = False
    scores: bool = False
    recommended: str | None = None
    readable: bool = False

    def names_pairs(self, grammar: bool) -> bool:
        """Whether Troika and CLIP are needed; captions by the grammar keep to the template."""
        free = self.recommended is not None and not grammar
        return self.enhanced or self.recommended == ENHANCED or free

    @property
    def reads_captions(self) -> bool:
        """Whether the words of the captions are read, for which attributes must be known."""
        return self.scores or self.readable or self.recommended is not None


NOTHING_BESIDE = Wishes()
"""The caption alone."""
