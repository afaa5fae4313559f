"""The attributes, objects and pairs that a model names, and the closed worlds among the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compositional_prompts.catalog.splitting.split_tables import PAIRS_OF_OBJECTS, SPLITS
from compositional_prompts.files.outputs import MismatchedOutputsError
from compositional_prompts.files.tables import read_table
from compositional_prompts.prompt.pair import (
    NO_ATTRIBUTE,
    Pair,
    objects_alone,
    pair_name,
    spoken,
)


@dataclass(frozen=True)
class Vocabulary:
    """Every pair that may be predicted, and the primitives they are made of.

    Attributes:
        attributes: distinct attribute names, sorted; :data:`NO_ATTRIBUTE` alone where labels are
            objects alone.
        objects: distinct object names, sorted.
        pairs: (attribute, object) of every pair of the closed world.
        seen: whether the pair has training images.
        splits: the split (train, val, test) of each pair.
        kept: it is that of a kept model, which a catalogue may have outgrown: labels may then hold
            pairs that it does not have.
    """

    attributes: tuple[str, ...]
    objects: tuple[str, ...]
    pairs: tuple[Pair, ...]
    seen: tuple[bool, ...]
    splits: tuple[str, ...]
    kept: bool = False

    @classmethod
    def of(
        cls, pairs: Sequence[Pair], seen: Sequence[bool], splits: Sequence[str], source: str | Path
    ) -> Vocabulary:
        """The vocabulary of a list of pairs.

        Raises:
            ValueError: there is no pair, a pair is listed twice, a name has no words, or some
                pairs have an attribute and some have none.
        """
        if not pairs:
            raise ValueError(f"{source} lists no pair: label images, or name words in `split`.")
        if len(set(pairs)) != len(pairs):
            double = next(pair for row, pair in enumerate(pairs) if pair in pairs[:row])
            raise ValueError(f"{source} lists the pair {pair_name(*double)} twice.")
        try:
            alone = objects_alone(attribute for attribute, _ in pairs)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        for name in {name for pair in pairs for name in (pair[1:] if alone else pair)}:
            if not spoken(name).strip():
                raise ValueError(f"{source}: the label {name!r} has no words to encode.")
        return cls(
            attributes=tuple(sorted({attribute for attribute, _ in pairs})),
            objects=tuple(sorted({name for _, name in pairs})),
            pairs=tuple(pairs),
            seen=tuple(seen),
            splits=tuple(splits),
        )

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read ``pairs.parquet`` (:data:`~compositional_prompts.catalog.schema.PAIRS`)."""
        columns = read_table(path, PAIRS_OF_OBJECTS).to_pydict()
        attributes = (name or NO_ATTRIBUTE for name in columns["attribute"])
        pairs = list(zip(attributes, columns["object"], strict=True))
        return cls.of(pairs, columns["seen"], columns["split"], path)

    def of_kept_model(self, listed: Vocabulary) -> Vocabulary:
        """What a model of this vocabulary names in a catalogue whose pairs are ``listed``.

        Attributes, objects and seen pairs stay those of the model. Pairs come to it that are
        listed now and made of words that it knows: Troika is made for pairs that it has not seen.
        A pair that it has not seen is judged where it is listed, and on test images where it has
        training images by now.
        """
        known = set(self.pairs)
        attributes, objects = set(self.attributes), set(self.objects)
        new = [
            pair
            for pair in sorted(listed.pairs)
            if pair not in known and pair[0] in attributes and pair[1] in objects
        ]
        pairs = (*self.pairs, *new)
        seen = (*self.seen, *(False for _ in new))
        now = dict(zip(listed.pairs, listed.splits, strict=True))
        then = dict(zip(self.pairs, self.splits, strict=True))
        splits = tuple(
            then[pair] if was_seen or pair not in now else _judged_split(now[pair])
            for pair, was_seen in zip(pairs, seen, strict=True)
        )
        return replace(self, pairs=pairs, seen=seen, splits=splits, kept=True)

    @property
    def objects_alone(self) -> bool:
        """Whether images are named by an object, and no attribute."""
        return self.attributes == (NO_ATTRIBUTE,)

    @cached_property
    def pair_indices(self) -> NDArray[np.int64]:
        """Positions of each pair's attribute and object, ``[pairs, 2]``."""
        attributes = {name: index for index, name in enumerate(self.attributes)}
        objects = {name: index for index, name in enumerate(self.objects)}
        return np.array(
            [(attributes[attribute], objects[name]) for attribute, name in self.pairs],
            dtype=np.int64,
        )

    @cached_property
    def seen_columns(self) -> NDArray[np.int64]:
        """Positions of the pairs with training images: the classes of training, ``[seen]``."""
        return np.flatnonzero(np.array(self.seen, dtype=bool))

    def world(self, split: str) -> NDArray[np.int64]:
        """Positions of the pairs of the closed world of ``split``, ``[columns]``.

        The seen pairs and the unseen pairs of that split: validation's unseen pairs are no
        candidates on the test images, nor the other way round.
        """
        of_split = np.array([name == split for name in self.splits], dtype=bool)
        return np.flatnonzero(np.array(self.seen, dtype=bool) | of_split)

    def as_json(self) -> dict[str, Any]:
        """The vocabulary as it is kept beside a trained model."""
        return {
            "attributes": [] if self.objects_alone else list(self.attributes),
            "objects": list(self.objects),
            "pairs": [
                {"attribute": attribute or None, "object": name, "seen": seen, "split": split}
                for (attribute, name), seen, split in zip(
                    self.pairs, self.seen, self.splits, strict=True
                )
            ],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any], source: Path) -> Vocabulary:
        """The vocabulary that :meth:`as_json` wrote."""
        rows = document["pairs"]
        return cls.of(
            [(row["attribute"] or NO_ATTRIBUTE, row["object"]) for row in rows],
            [row["seen"] for row in rows],
            [row["split"] for row in rows],
            source,
        )


def _judged_split(split: str) -> str:
    return "test" if split == "train" else split


@dataclass(frozen=True)
class LabelledImages:
    """Images of a split with their true pair.

    Attributes:
        image_ids: ids, in the order of ``splits.parquet``.
        pairs: position of the true pair in the vocabulary, int64 ``[images]``.
    """

    image_ids: list[str]
    pairs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image_ids)


def labelled_images(splits: Path, vocabulary: Vocabulary, split: str) -> LabelledImages:
    """The images whose ``pair_split`` is ``split``; there may be none.

    Those whose pair a kept model cannot be judged on, as it does not know a word of it, are left
    out.

    Raises:
        MismatchedOutputsError: an image's pair is no candidate in the split's closed world.
    """
    table = read_table(splits, SPLITS, ["image_id", "attribute", "object", "pair_split"])
    table = table.filter(pc.equal(table.column("pair_split"), pa.scalar(split)))
    columns = table.to_pydict()
    allowed = {vocabulary.pairs[column]: int(column) for column in vocabulary.world(split)}
    image_ids, positions = [], []
    rows = zip(columns["image_id"], columns["attribute"], columns["object"], strict=True)
    for image_id, attribute, name in rows:
        pair = attribute or NO_ATTRIBUTE, name
        column = allowed.get(pair)
        if column is not None:
            image_ids.append(image_id)
            positions.append(column)
        elif not vocabulary.kept:
            raise MismatchedOutputsError(
                f"{splits}: image {image_id!r} of split {split} has the pair {pair_name(*pair)}, "
                "which pairs.parquet does not list for that split.",
                splits,
            )
    return LabelledImages(image_ids, np.array(positions, dtype=np.int64))
