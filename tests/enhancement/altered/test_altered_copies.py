"""Altered copies of the images that a probe learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from base_section import base_section
from noise_photos import PALETTE, WORDS, Corners, Project, corner

from compositional_prompts.catalog.image_join import ImageJoinError
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.enhancement.altered.altered_rows import altered_bytes
from compositional_prompts.enhancement.colors.color_tables import colors_of_rows
from compositional_prompts.enhancement.colors.foreground_colors import ForegroundColors
from compositional_prompts.enhancement.fitting.altered_copies import AlteredCopies
from compositional_prompts.enhancement.fitting.labelled_images import LabelledImages

VOCABULARY = {"color": WORDS}
PALETTES = {"color": PALETTE}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("copies"), photos=12)


def copies(project: Project) -> AlteredCopies:
    base = base_section(project.root / "rows", workers=1)
    return AlteredCopies(project.paths.catalog, Corners(), base)


def colors_of(encoded: list[bytes]) -> dict[str, Any]:
    worker = ForegroundColors(PALETTES).start()
    rows = worker.compute([worker.prepare(one) for one in encoded])
    return colors_of_rows(rows, VOCABULARY, PALETTES)


def images(project: Project, names: list[str]) -> LabelledImages:
    encoded = [project.photos[name] for name in names]
    return LabelledImages(
        vectors=np.stack([corner(decode_rgb(one)) for one in encoded]),
        colors=colors_of(encoded),
        truth={"color": np.eye(len(names), 3, dtype=np.bool_)},
        known={"color": np.arange(len(names)) < 4},
        products=np.arange(len(names)) // 2,
        image_ids=names,
    )


def test_copies_stand_after_the_images_with_their_truth_and_product(project: Project) -> None:
    names = list(project.photos)[9:3:-1]  # not in the catalog's order
    given = images(project, names)
    found = copies(project).beside(given, 2, VOCABULARY, PALETTES, project.paths.splits)
    assert len(found) == 18 and list(found.image_ids) == names * 3
    np.testing.assert_array_equal(found.vectors[:6], given.vectors)
    for number in range(2):
        rows = slice(6 * (number + 1), 6 * (number + 2))
        altered = [altered_bytes(project.photos[name], f"random {number}") for name in names]
        expected = np.stack([corner(decode_rgb(one)) for one in altered])
        np.testing.assert_array_equal(found.vectors[rows], expected)
        np.testing.assert_array_equal(found.colors["color"][rows], colors_of(altered)["color"])
        np.testing.assert_array_equal(found.truth["color"][rows], given.truth["color"])
        np.testing.assert_array_equal(found.known["color"][rows], given.known["color"])
        np.testing.assert_array_equal(found.products[rows], given.products)
    assert (found.vectors[6:12] != given.vectors).any()
    assert found.take(np.array([7, 0])).image_ids == [names[1], names[0]]


def test_without_copies_or_images_nothing_is_looked_at(project: Project, tmp_path: Path) -> None:
    nowhere = AlteredCopies(tmp_path / "none", Corners(), base_section(tmp_path))
    given = images(project, list(project.photos)[:3])
    assert nowhere.beside(given, 0, VOCABULARY, PALETTES, tmp_path) is given
    nothing = given.take(np.empty(0, np.int64))
    assert nowhere.beside(nothing, 2, VOCABULARY, PALETTES, tmp_path) is nothing


def test_an_image_that_the_catalog_lacks_is_named(project: Project) -> None:
    given = images(project, list(project.photos)[:3])
    given = LabelledImages(
        given.vectors, given.colors, given.truth, given.known, given.products,
        ["photo-01", "photo-99", "photo-02"],
    )  # fmt: skip
    with pytest.raises(ImageJoinError, match="photo-99"):
        copies(project).beside(given, 1, VOCABULARY, PALETTES, project.paths.splits)
