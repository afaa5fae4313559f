"""How often the chosen words are true, beside two baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.prompt.text_form import word_form
from compositional_prompts.results.bootstrap import Bootstrap, beside

_SHARES: Final = ("known", "inside", "right", "specified", "pixel")
"""What is kept of every image: whether its truth is known, and is in the vocabulary; whether the
chosen word is true, one was chosen, and the pixel baseline's is true."""

UNSPECIFIED = "unspecified"
"""What stands in the confusion for an image without a chosen word."""


GroupMetrics = dict[str, Any]
"""Metrics of one attribute group; shares are in 0..1, null where there is nothing to share. Beside
each share ``s`` stands ``s_interval``, its 95 % interval over products, or null.

Where several words are true of an image, each of them is.

- ``accuracy``: share of the images with truth whose chosen word is true; an image without a chosen
  word, or with no true word in the vocabulary, counts as wrong;
- ``accuracy_in_vocabulary``: the same among the images with a true word in the vocabulary;
- ``coverage``: share of all images whose best word is above the threshold;
- ``majority_accuracy``: share of the images with truth of which the most frequent word is true;
- ``pixel_accuracy``: share of the images with truth whose nearest reference colour is true; null
  where the group is not one of colours;
- ``images_with_truth``, ``products_with_truth``, ``images``, ``products``: counts;
- ``minus``: below ``majority`` and ``pixel``, by how much the accuracy exceeds theirs.
"""

Confusion = list[tuple[str, str]]
"""Truth and predicted word: one an image with truth. A truth of the vocabulary is spelled as there.

Of several true words it is the one predicted, else the first of the vocabulary, else the first.
"""


class WordEvaluation:
    """The words chosen in one group against the truth, a block of images at a time.

    Words are compared by their :func:`~compositional_prompts.prompt.text_form.word_form`. Memory
    holds 5 bytes an image, and 16 more where truth is known.
    """

    def __init__(self, vocabulary: Sequence[str], *, pixel: bool) -> None:
        """Begin with no images.

        Args:
            vocabulary: the group's words.
            pixel: whether there is the pixel baseline.
        """
        self._spelling = {word_form(word): word for word in vocabulary}
        self._pixel = pixel
        self._counts: Counter[str] = Counter()
        self._keys: dict[str, int] = {}
        self._images = 0
        self._flags: list[NDArray[np.bool_]] = []
        self._true: list[NDArray[np.int32]] = []

    def add(
        self,
        chosen: Sequence[str | None],
        truth: Sequence[Sequence[str]],
        pixel: Sequence[str | None] | None,
    ) -> Confusion:
        """Count some images.

        Args:
            chosen: a word for every image, None where unspecified.
            truth: the true words of every image, none where not known.
            pixel: the pixel baseline's word of every image, or None without the baseline.

        Returns:
            What was predicted for what is true, of the images with truth.
        """
        flags = np.zeros((len(chosen), len(_SHARES)), np.bool_)
        flags[:, 3] = [word is not None for word in chosen]
        true = []
        confusion = []
        for index, words in enumerate(truth):
            keys = list(dict.fromkeys(word_form(word) for word in words))
            if not keys:
                continue
            said = word_form(chosen[index] or "")
            inside = any(key in self._spelling for key in keys)
            seen = pixel is not None and word_form(pixel[index] or "") in keys
            flags[index] = True, inside, said in keys, flags[index, 3], seen
            true += [
                (self._images + index, self._keys.setdefault(key, len(self._keys))) for key in keys
            ]
            self._counts.update(keys)
            # False sorts first: what was predicted, those of the vocabulary, the order given.
            first = min(keys, key=lambda key: (key != said, key not in self._spelling))
            confusion.append((self._spelling.get(first, first), chosen[index] or UNSPECIFIED))
        self._images += len(chosen)
        self._flags.append(flags)
        self._true.append(np.array(true, np.int32).reshape(-1, 2))
        return confusion

    def metrics(self, bootstrap: Bootstrap) -> GroupMetrics:
        """Of all images counted, at least one.

        Args:
            bootstrap: of their products, in their order.
        """
        flags = np.concatenate(self._flags)
        known, inside, right, specified, pixel = flags.T
        majority = np.zeros(self._images, np.bool_)
        if self._counts:
            ((word, _),) = self._counts.most_common(1)
            images, keys = np.concatenate(self._true).T
            majority[images[keys == self._keys[word]]] = True
        colored = known if self._pixel else np.zeros_like(known)
        found = bootstrap.named(
            {
                "accuracy": (right, known),
                "accuracy_in_vocabulary": (right, inside),
                "coverage": (specified, None),
                "majority_accuracy": (majority, known),
                "pixel_accuracy": (pixel, colored),
                "majority": (right.astype(float) - majority, known),
                "pixel": (right.astype(float) - pixel, colored),
            }
        )
        minus = {name: beside({"accuracy": found.pop(name)}) for name in ("majority", "pixel")}
        every = np.ones(self._images, np.bool_)
        return {
            **beside(found),
            "images_with_truth": int(known.sum()),
            "products_with_truth": bootstrap.products(known),
            "images": self._images,
            "products": bootstrap.products(every),
            "minus": minus,
        }
