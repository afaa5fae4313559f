"""C-GQA: objects and attributes of GQA's scene graphs (Naeem et al., CVPR 2021)."""

from __future__ import annotations

from typing import ClassVar

from compositional_prompts.datasets.compositional.compositional_split import (
    ArchiveFile,
    CompositionalDataSet,
)
from compositional_prompts.datasets.compositional.split_files import Layout
from compositional_prompts.datasets.dataset import Caveat


class Cgqa(CompositionalDataSet):
    name: ClassVar[str] = "cgqa"
    caveat: ClassVar[Caveat] = Caveat(
        "One label of many that fit",
        "Labels come from scene graphs: an object often has other attributes that are as true as "
        "the one labelled, and naming them counts as wrong.",
    )
    description: ClassVar[str] = (
        "C-GQA (Naeem et al., CVPR 2021) in its compositional split of photos and pairs"
    )
    licence: ClassVar[str] = (
        "C-GQA is cut from the photos and scene graphs of GQA and Visual Genome, under their terms."
    )
    layout: ClassVar[Layout] = Layout(("", "cgqa/"), ("images/",))

    images: ArchiveFile
