"""Batched beam search over log-probabilities, apart from any model.

The algorithm is that of transformers' ``generate(num_beams=k, early_stopping=True,
do_sample=False, length_penalty=p)`` and finds the same texts: of the ``2k`` best continuations of
an image, those of the first ``k`` that end are finished texts, the best ``k`` of the others are
the beams of the next step, and an image is done with ``k`` finished texts. One beam is greedy
decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DEAD = -1e9
"""Score of a beam that must not be chosen; finite, as transformers has it."""


@dataclass(frozen=True)
class Selection:
    """What each beam of the next step is: beam ``parents`` of this one, continued by ``tokens``.

    Attributes:
        parents: int64 ``[images, beams]``.
        tokens: int64 ``[images, beams]``.
    """

    parents: Tensor
    tokens: Tensor

    def select(self, rows: Tensor) -> Selection:
        """That of the images ``rows``, int64."""
        return Selection(self.parents[rows], self.tokens[rows])


class BeamSearch:
    """The state of the search for a batch of images."""

    def __init__(
        self,
        images: int,
        *,
        num_beams: int,
        max_new_tokens: int,
        end: int,
        length_penalty: float = 1.0,
        device: torch.device | None = None,
    ) -> None:
        """Begin with empty texts.

        Args:
            images: how many texts are searched for.
            num_beams: width of the search.
            max_new_tokens: a text of so many tokens is finished, ended or not.
            end: token that ends a text.
            length_penalty: a finished text's log-probability is divided by its number of tokens,
                end included, to this power.
            device: where the log-probabilities will be.
        """
        self.num_beams = num_beams
        self.length = 0
        self._limit = max_new_tokens
        self._end = end
        self._length_penalty = length_penalty
        self._scores = torch.full((images, num_beams), DEAD, device=device)
        # All beams begin alike: one of them is continued in k ways.
        self._scores[:, 0] = 0
        self._texts = torch.full((images, num_beams, max_new_tokens), end, device=device)
        self._finished = torch.zeros(images, dtype=torch.long, device=device)
        self._best_score = torch.full((images,), -torch.inf, device=device)
        self._best = torch.full((images, max_new_tokens), end, device=device)

    @property
    def exhausted(self) -> bool:
        """Whether texts are as long as they may be: all images are done."""
        return self.length == self._limit

    @property
    def done(self) -> Tensor:
        """Which images have as many finished texts as beams, bool ``[images]``."""
        return self._finished >= self.num_beams

    @property
    def best(self) -> Tensor:
        """The best finished text of each image, filled up with ends, int64 ``[images, limit]``."""
        return self._best

    def advance(self, log_probs: Tensor) -> Selection:
        """Continue every text by a token.

        Args:
            log_probs: of the next token, float32 ``[images, beams, vocabulary]``; at the first
                step ``[images, 1, vocabulary]`` will do, since all beams are alike.
        """
        totals = log_probs + self._scores[:, :, None]
        vocabulary = totals.shape[-1]
        scores, index = totals.flatten(1).topk(2 * self.num_beams)
        parents, tokens = index // vocabulary, index % vocabulary
        ended = tokens == self._end
        if self.length + 1 == self._limit:
            ended = torch.ones_like(ended)
        self._finish(scores, parents, tokens, ended)
        # The best that go on; a stable sort keeps them in order of their scores.
        chosen = ended.to(torch.int8).sort(stable=True).indices[:, : self.num_beams]
        parents, tokens = parents.gather(1, chosen), tokens.gather(1, chosen)
        self._scores = (scores + ended * DEAD).gather(1, chosen)
        self._texts = _of_beams(self._texts, parents)
        self._texts[:, :, self.length] = tokens
        self.length += 1
        return Selection(parents, tokens)

    def _finish(self, scores: Tensor, parents: Tensor, tokens: Tensor, ended: Tensor) -> None:
        first = slice(self.num_beams)
        ending = ended[:, first] & ~self.done[:, None]
        normalised = scores[:, first] / (self.length + 1) ** self._length_penalty
        score, which = normalised.masked_fill(~ending, -torch.inf).max(1)
        better = score > self._best_score
        text = _of_beams(self._texts, parents.gather(1, which[:, None]))[:, 0]
        text[:, self.length] = tokens.gather(1, which[:, None])[:, 0]
        self._best = torch.where(better[:, None], text, self._best)
        self._best_score = torch.where(better, score, self._best_score)
        self._finished = self._finished + ending.sum(1)

    def select(self, rows: Tensor) -> None:
        """Go on with the images ``rows``, int64, only."""
        self._scores = self._scores[rows]
        self._texts = self._texts[rows]
        self._finished = self._finished[rows]
        self._best_score = self._best_score[rows]
        self._best = self._best[rows]


def _of_beams(values: Tensor, beams: Tensor) -> Tensor:
    """``values`` ``[images, beams, ...]`` of the beams ``[images, chosen]``."""
    return values.take_along_dim(beams[:, :, None], dim=1)
