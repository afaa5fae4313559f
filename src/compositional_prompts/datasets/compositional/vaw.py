"""VAW-CZSL: attributes of objects in the wild (Pham et al., CVPR 2021; Saini et al., CVPR 2022)."""

from __future__ import annotations

from typing import ClassVar

from compositional_prompts.datasets.compositional.compositional_split import (
    ArchiveFile,
    CompositionalDataSet,
)
from compositional_prompts.datasets.compositional.split_files import Layout
from compositional_prompts.datasets.dataset import Caveat


class Vaw(CompositionalDataSet):
    """``archive`` is one with all of it; its publishers name none that can be fetched by itself."""

    name: ClassVar[str] = "vaw"
    caveat: ClassVar[Caveat] = Caveat(
        "One attribute of several that fit",
        "VAW gives an object several attributes that are true, and the split keeps one as its "
        "label: another that is named counts as wrong.",
    )
    description: ClassVar[str] = (
        "VAW-CZSL (Saini et al., CVPR 2022) in its compositional split of photos and pairs"
    )
    licence: ClassVar[str] = (
        "VAW-CZSL is cut from the photos of Visual Genome and the attributes of VAW, under their "
        "terms."
    )
    pair_separator: ClassVar[str | None] = "+"  # names have blanks: "dark blue+t-shirt"
    layout: ClassVar[Layout] = Layout(("", "vaw-czsl/", "vaw/"), ("images/",))

    archive: ArchiveFile | None
