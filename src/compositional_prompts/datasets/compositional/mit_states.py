"""MIT-States: objects in states, found by the words of a search (Isola et al., CVPR 2015)."""

from __future__ import annotations

from typing import ClassVar

from compositional_prompts.datasets.compositional.compositional_split import (
    ArchiveFile,
    CompositionalDataSet,
)
from compositional_prompts.datasets.compositional.split_files import Layout
from compositional_prompts.datasets.dataset import Caveat


class MitStates(CompositionalDataSet):
    name: ClassVar[str] = "mit_states"
    caveat: ClassVar[Caveat] = Caveat(
        "Labels came from a search engine",
        "Photos were found by the words of a search and not checked one by one: a large share of "
        "the labels is wrong, and every figure on this data set is bounded by that.",
    )
    description: ClassVar[str] = (
        "MIT-States (Isola et al., CVPR 2015) in its compositional split of photos and pairs"
    )
    licence: ClassVar[str] = (
        "MIT-States gathers photos of a search engine, whose authors hold the rights to them."
    )
    layout: ClassVar[Layout] = Layout(("", "mit-states/"), ("images/", "release_dataset/images/"))

    images: ArchiveFile
    splits: ArchiveFile
