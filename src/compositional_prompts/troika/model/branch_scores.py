"""What each branch says of pairs, and the one score that is made of it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ScoreMix(NamedTuple):
    """By what each part of :class:`BranchScores` is multiplied in the score of a pair."""

    composition: float
    primitives: float
    zero_shot: float


class BranchScores(NamedTuple):
    """Of a batch of images and some pairs, each ``[images, pairs]``.

    Attributes:
        composition: logits of the composition branch.
        primitives: softmax probability of the pair's attribute times that of its object.
        zero_shot: logits of the frozen CLIP; None where nothing of them is in the score.
    """

    composition: Tensor
    primitives: Tensor
    zero_shot: Tensor | None

    def joined(self, mix: ScoreMix) -> Tensor:
        """The weighted sum (section 3.4), to which the frozen CLIP's logit may be added.

        Raises:
            ValueError: the zero-shot logit has a weight, and is not there.
        """
        score = mix.composition * self.composition + mix.primitives * self.primitives
        if not mix.zero_shot:
            return score
        if self.zero_shot is None:
            raise ValueError(
                f"The score takes {mix.zero_shot:g} of the zero-shot logit, and none was computed."
            )
        return score + mix.zero_shot * self.zero_shot
