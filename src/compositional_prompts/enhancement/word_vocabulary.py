"""The words that may be chosen for an image, by attribute group, with their CLIP vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.clip.vector_tables import (
    embedding_dimension,
    unit_vectors,
    word_embeddings,
)
from compositional_prompts.enhancement.enhanced_prompts import check_group_names
from compositional_prompts.files.tables import read_table


@dataclass(frozen=True)
class Vocabulary:
    """Words and their vectors.

    Attributes:
        words: by group, in the order of the prompt; a group has at least one word.
        vectors: by group, L2-normalised float32 ``[words, dimension]``.
    """

    words: Mapping[str, tuple[str, ...]]
    vectors: Mapping[str, NDArray[np.float32]]


def read_vocabulary(path: Path) -> Vocabulary:
    """Read ``words.parquet``; the order of its rows is that of groups and words.

    Raises:
        FileNotFoundError: the file is not there.
        SchemaError: a column is not as declared.
        ValueError: there is no word, a group has a word twice, a vector is not of unit length,
            or a group's name cannot name columns and a file.
    """
    table = read_table(path, word_embeddings(embedding_dimension(path)))
    if table.num_rows == 0:
        raise ValueError(f"{path} holds no words: fill clip_embed.attributes in params.yaml.")
    names = list(
        zip(table.column("group").to_pylist(), table.column("word").to_pylist(), strict=True)
    )
    for (group, word), count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{path}: group {group!r} has the word {word!r} {count} times.")
    vectors = unit_vectors(
        table.column("embedding").combine_chunks(),
        [f"{group}: {word}" for group, word in names],
        path,
    )
    rows: dict[str, list[int]] = {}
    for row, (group, _) in enumerate(names):
        rows.setdefault(group, []).append(row)
    check_group_names(tuple(rows))
    return Vocabulary(
        {group: tuple(names[row][1] for row in chosen) for group, chosen in rows.items()},
        {group: vectors[chosen] for group, chosen in rows.items()},
    )
