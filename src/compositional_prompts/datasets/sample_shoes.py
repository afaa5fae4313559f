"""The generated sample: drawn shoes, any number of them, the same for the same seed."""

from __future__ import annotations

from typing import ClassVar

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.dataset import Caveat, DataSet, Selection
from compositional_prompts.pipeline.section import Base, Positive
from compositional_prompts.sample.drawn_products import SampleRow, generate_catalog

TRUTH = ("color", "material", "closure", "heel_height")
"""What is known of a drawn shoe beside its labels."""


class SampleShoes(DataSet):
    name: ClassVar[str] = "sample"
    caveat: ClassVar[Caveat] = Caveat(
        "The photos are drawn, not taken",
        "This data set is generated: simple shoes on white, with labels that are right by "
        "construction. It shows that every stage works; it says nothing about real photographs.",
    )
    description: ClassVar[str] = "images of shoes, drawn by compositional-prompts (no photographs)"
    licence: ClassVar[str] = (
        "The images were drawn by this project, which is under the MIT licence."
    )
    generated: ClassVar[bool] = True

    images: Positive

    def select(self, base: Base) -> Selection:
        rows = generate_catalog(self.images, base.seed, base.workers)
        return Selection("the generated sample", map(_row, rows), self.images, {})


def _row(drawn: SampleRow) -> CatalogRow:
    values = drawn._asdict()
    truth = {group: values.pop(group) for group in TRUTH}
    return CatalogRow(truth=truth, **values)
