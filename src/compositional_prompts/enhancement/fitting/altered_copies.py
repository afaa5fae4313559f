"""Altered copies of the images that are learnt from, so that what is learnt survives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from compositional_prompts.compute.rows.completed_rows import complete_rows
from compositional_prompts.compute.rows.computation import Computation
from compositional_prompts.enhancement.altered.altered_rows import ChosenPhotos, of_altered
from compositional_prompts.enhancement.colors.color_tables import GroupColors, colors_of_rows
from compositional_prompts.enhancement.colors.foreground_colors import ForegroundColors, Palette
from compositional_prompts.enhancement.fitting.labelled_images import LabelledImages
from compositional_prompts.pipeline.section import Base


@dataclass(frozen=True)
class AlteredCopies:
    """How copies of training images are made.

    Attributes:
        catalog: folder of shards.
        vectors: the CLIP vectors of encoded photos, rows of a field ``vector``.
        base: workers, engine and row store.
    """

    catalog: Path
    vectors: Computation
    base: Base

    def beside(
        self,
        images: LabelledImages,
        copies: int,
        vocabulary: Mapping[str, Sequence[str]],
        palettes: Mapping[str, Palette],
        wanted_by: Path,
    ) -> LabelledImages:
        """The images, then so many randomly altered copies of each, with the same truth.

        A copy is of the same product, so no fold of a cross-validation has an image and another
        its copy. Each is altered, embedded and looked at once for ever: all is rows.

        Args:
            images: those to learn from, with their image_ids.
            copies: of each.
            vocabulary: words by group.
            palettes: reference colours of the groups in ``images.colors``, at least.
            wanted_by: the table that names the images, for errors.

        Raises:
            MissingOutputError, SchemaError: the catalog is not there, or not as declared.
            ImageJoinError: it lacks an image.
        """
        if not len(images) or not copies:
            return images
        source = ChosenPhotos(self.catalog, images.image_ids, wanted_by)
        seen = {group: palettes[group] for group in images.colors}
        made = []
        for number in range(copies):
            name = f"random {number}"
            vectors = self._rows(of_altered(self.vectors, name), source)["vector"]
            colors: GroupColors = {}
            if seen:
                rows = self._rows(of_altered(ForegroundColors(seen), name), source)
                colors = colors_of_rows(rows, vocabulary, seen)
            made.append((vectors, colors))
        return images.with_copies(made)

    def _rows(self, computation: Computation, source: ChosenPhotos) -> NDArray[Any]:
        with complete_rows(computation, source, self.base) as rows:
            return rows.of(source.contents)
