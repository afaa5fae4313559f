"""The rendered sample data set: counts, determinism, vocabulary, looks and wording."""

import io
import re
from collections import Counter, defaultdict
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from compositional_prompts.sample import materials, rendering
from compositional_prompts.sample.appearance import (
    ATTRIBUTES,
    COLORS,
    FAMILIES,
    KINDS,
    OBJECTS,
    Shoe,
    catalog_pairs,
    in_color,
    sample_product,
)
from compositional_prompts.sample.drawn_products import SampleRow, generate_catalog, generate_corpus
from compositional_prompts.sample.materials import TILE
from compositional_prompts.sample.rendering import render
from compositional_prompts.sample.shapes import SHAPES
from compositional_prompts.sample.wording import caption, spoken, title


@pytest.fixture(scope="module")
def rows() -> list[SampleRow]:
    return list(generate_catalog(300, seed=7, workers=1))


def shoe(object_: str, attribute: str, color: str, seed: int = 0) -> Shoe:
    rng = np.random.default_rng(seed)
    return in_color(sample_product(object_, attribute, rng), color, rng)


def any_shoe(rng: np.random.Generator) -> Shoe:
    object_, attribute, color = (str(rng.choice(names)) for names in (OBJECTS, ATTRIBUTES, COLORS))
    return in_color(sample_product(object_, attribute, rng), color, rng)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float64)


@pytest.mark.parametrize("images", [1, 2, 3, 49])
def test_yields_exactly_as_many_rows_as_asked(images: int) -> None:
    assert len(list(generate_catalog(images, seed=0, workers=1))) == images
    assert len(list(generate_corpus(images, seed=0, workers=1))) == images


@pytest.mark.parametrize("generate", [generate_catalog, generate_corpus])
@pytest.mark.parametrize("images", [0, -5])
def test_refuses_a_count_below_one_at_the_call(generate, images: int) -> None:
    with pytest.raises(ValueError, match="images"):
        generate(images, 0, 1)


def test_refuses_a_negative_seed() -> None:
    with pytest.raises(ValueError, match="seed"):
        generate_catalog(1, -1, 1)


def test_workers_do_not_change_the_catalog_and_stop_with_the_consumer() -> None:
    stream = generate_catalog(100_000, seed=3, workers=2)
    some = list(islice(stream, 80))
    stream.close()  # type: ignore[attr-defined]
    assert some == list(generate_catalog(80, seed=3, workers=1))


def test_workers_do_not_change_the_corpus() -> None:
    assert list(generate_corpus(60, 3, 2)) == list(generate_corpus(60, 3, 1))


@pytest.mark.parametrize("generate", [generate_catalog, generate_corpus])
def test_a_larger_count_only_appends(generate) -> None:
    assert list(generate(60, 5, 1))[:23] == list(generate(23, 5, 1))


def test_seeds_differ_and_the_corpus_is_apart_from_the_catalog() -> None:
    first, second = (list(generate_catalog(20, seed, 1)) for seed in (0, 1))
    assert not {row.image for row in first} & {row.image for row in second}
    corpus = {row.image for row in generate_corpus(20, 0, 1)}
    assert not corpus & {row.image for row in first}


def test_images_are_jpegs_of_the_size_of_ut_zappos(rows: list[SampleRow]) -> None:
    for row in rows[:60]:
        with Image.open(io.BytesIO(row.image)) as image:
            image.load()
            assert (image.format, image.size, image.mode) == ("JPEG", (136, 102), "RGB")


def test_identifiers_are_stable_and_padded(rows: list[SampleRow]) -> None:
    assert [row.image_id for row in rows] == [f"sample-{i:06d}" for i in range(len(rows))]
    assert all(row.path == f"{row.image_id}.jpg" for row in rows)
    assert rows[0].product_id == "sample-p00000"
    assert all(re.fullmatch(r"sample-p\d{5}", row.product_id) for row in rows)


def test_a_product_is_one_shoe_in_different_colours(rows: list[SampleRow]) -> None:
    products = defaultdict(list)
    for row in rows:
        products[row.product_id].append(row)
    sizes = Counter(len(group) for group in products.values())
    assert set(sizes) == {1, 2, 3, 4}
    for group in products.values():
        shared = {(r.object, r.attribute, r.material, r.closure, r.heel_height) for r in group}
        assert len(shared) == 1
        assert len({row.color for row in group}) == len(group)


def test_labels_come_from_the_vocabulary(rows: list[SampleRow]) -> None:
    for row in rows:
        kind = KINDS[row.object]
        assert row.attribute in kind.materials
        assert row.material == FAMILIES[row.attribute]
        assert row.closure in kind.closures
        assert row.heel_height in kind.heels
        assert row.color in COLORS
    assert {row.object for row in rows} == set(OBJECTS)
    assert {row.attribute for row in rows} == set(ATTRIBUTES)
    assert {row.color for row in rows} == set(COLORS)


def test_vocabulary_has_the_announced_sizes() -> None:
    assert (len(OBJECTS), len(ATTRIBUTES), len(COLORS)) == (12, 16, 12)
    assert set(FAMILIES.values()) == {"leather", "fabric", "rubber", "synthetic"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pairs_are_long_tailed_and_none_is_starved(seed: int) -> None:
    distribution = catalog_pairs(seed)
    assert 75 <= len(distribution.pairs) <= 90
    assert len(set(distribution.pairs)) == len(distribution.pairs)
    assert {attribute for attribute, _ in distribution.pairs} == set(ATTRIBUTES)
    assert {object_ for _, object_ in distribution.pairs} == set(OBJECTS)
    shares = np.diff(distribution.cumulative, prepend=0.0)
    assert shares.sum() == pytest.approx(1.0)
    assert shares.max() > 10 * shares.min()
    assert shares.min() * 2400 > 8


def test_pair_ranks_depend_on_the_seed_alone() -> None:
    assert catalog_pairs(4) == catalog_pairs(4)
    assert catalog_pairs(4).pairs != catalog_pairs(5).pairs


def test_rows_follow_the_pair_distribution(rows: list[SampleRow]) -> None:
    counts = Counter((row.attribute, row.object) for row in rows)
    ranked = [counts[pair] for pair in catalog_pairs(7).pairs]
    assert sum(ranked[:8]) > 3 * sum(ranked[-20:])
    assert sum(count > 0 for count in ranked) > 55


def test_the_corpus_is_near_uniform_and_holds_pairs_no_product_has() -> None:
    names = {spoken(name) for name in ATTRIBUTES}
    captions = [row.caption for row in generate_corpus(160, seed=2, workers=1)]
    seen = Counter(name for text in captions for name in names if name in text)
    assert len(seen) == len(names)
    assert len(set(captions)) > 140


def test_the_ground_is_near_white(rows: list[SampleRow]) -> None:
    for row in rows[:80]:
        image = pixels(Image.open(io.BytesIO(row.image)))
        corners = np.stack([image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]])
        assert np.median(corners) > 238


@pytest.mark.parametrize("object_", OBJECTS)
def test_every_type_fills_the_photo_and_stays_inside(object_: str) -> None:
    for seed in range(4):
        drawn = shoe(object_, "Leather", "blue", seed)
        image = pixels(render(drawn, np.random.default_rng(seed)))
        rows_, columns = np.nonzero(image.min(axis=2) < 150)
        assert np.ptp(rows_) > 70 or np.ptp(columns) > 90
        assert rows_.min() > 0 and rows_.max() < 101
        assert columns.min() > 0 and columns.max() < 135


def test_a_part_is_painted_as_over_the_whole_photo() -> None:
    rng = np.random.default_rng(5)
    drawn = shoe("Shoes.Loafers", "Suede", "red")
    for corners in ([(0.2, 0.1), (0.6, 0.3), (0.5, 0.05)], [(-3.0, 0), (3, 0.1), (3, 0)], []):
        photo = rendering._Photo(SHAPES[drawn.object](drawn), np.random.default_rng(6))
        mask = photo.mask([np.array(corners)] if corners else [])
        plane = rng.random((photo.size[1] // 4, photo.size[0] // 4), dtype=np.float32) - 0.5
        whole, box = (0, 0, *photo.size), rendering._lit_box(mask)
        light, everywhere = (
            rendering._quantized(rendering._enlarged(plane, part), part) for part in (box, whole)
        )
        expected = photo.image.copy()
        expected.paste(rendering._toned(everywhere.plane, (180, 60, 20)), mask=mask)
        photo.paint((180, 60, 20), light, mask)
        assert photo.image.tobytes() == expected.tobytes()
        expected.paste((9, 200, 30), mask=mask)
        photo.fill((9, 200, 30), mask)
        assert photo.image.tobytes() == expected.tobytes()


def test_slopes_are_those_of_numpy() -> None:
    plane = np.random.default_rng(7).random((9, 5), dtype=np.float32)
    down, right = np.gradient(plane)
    np.testing.assert_array_equal(rendering._slope(plane), down)
    np.testing.assert_array_equal(rendering._slope(plane.T).T, right)


def test_cells_are_near_their_nearest_centres() -> None:
    y, x = np.mgrid[0:TILE, 0:TILE].astype(np.float32)
    near, second = materials._cells(np.random.default_rng(8), x, y, 11)
    count = int(TILE * 1.2 / 11) + 4
    centres = np.random.default_rng(8).random((count, count, 2)).astype(np.float32) * 0.8 + 0.1
    rows, columns = np.mgrid[0:count, 0:count]
    placed = np.stack([columns, rows], axis=-1) + centres
    for row, column in np.random.default_rng(9).integers(0, TILE, (50, 2)):
        to_all = np.hypot(*(placed.reshape(-1, 2) - (column / 11 + 1, row / 11 + 1)).T)
        expected = np.sort(to_all)[:2]
        np.testing.assert_allclose([near[row, column], second[row, column]], expected, atol=1e-4)


def test_colours_differ_in_the_mean_of_the_shoe() -> None:
    means = []
    for color in COLORS:
        images = [
            pixels(render(shoe(object_, "Suede", color, seed), np.random.default_rng(seed)))
            for object_ in ("Boots.Ankle", "Shoes.Loafers")
            for seed in range(4)
        ]
        means.append(np.mean([image[image.min(axis=2) < 225].mean(axis=0) for image in images], 0))
    apart = np.linalg.norm(np.array(means)[:, None] - np.array(means)[None], axis=2)
    assert apart[np.triu_indices(len(COLORS), 1)].min() > 18


def test_white_shoes_stand_out_from_the_ground() -> None:
    image = pixels(render(shoe("Shoes.Flats", "Satin", "white"), np.random.default_rng(0)))
    assert (image.min(axis=2) < 200).mean() > 0.03


def test_materials_differ_in_texture() -> None:
    """The same shoe in the same pose: any two materials differ well beyond JPEG noise."""
    images = [
        pixels(render(shoe("Boots.Mid-Calf", name, "red"), np.random.default_rng(1)))
        for name in ATTRIBUTES
    ]
    for index, image in enumerate(images):
        for other in images[:index]:
            assert np.abs(image - other).mean() > 1


def claims(text: str, words: set[str]) -> set[str]:
    return {word for word in words if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)}


def test_captions_state_only_what_is_true() -> None:
    rng = np.random.default_rng(0)
    fine_names = {spoken(name) for name in ATTRIBUTES}
    families = set(FAMILIES.values())
    for _ in range(3000):
        drawn = any_shoe(rng)
        text = caption(drawn, rng)
        fine = spoken(drawn.attribute)
        assert text == text.lower() and text.strip() == text and "  " not in text
        named = claims(text.removesuffix(" on a white background"), set(COLORS))
        assert named <= {drawn.color}, text
        # "leather" alone is both a fine material and a family, and part of other names.
        rest = text.replace(fine, "")
        assert not claims(rest, fine_names - families), text
        assert claims(rest, families) <= {drawn.material}, text
        for closure, pattern in {
            "lace-up": "lace",
            "buckle": "buckle",
            "velcro": "velcro",
            "zip": r"\bzip",
            "slip-on": r"slip-on|slip on|fastening",
        }.items():
            assert not re.search(pattern, text) or drawn.closure == closure, text
        height = re.search(r"(flat|low|medium|mid|high)[ -](height )?heel", text)
        if height:
            assert drawn.heel_height.startswith(height.group(1).replace("mid", "med")[:3]), text


def test_captions_state_each_fact_about_as_often_as_meant() -> None:
    rng = np.random.default_rng(1)
    count, stated = 4000, Counter[str]()
    for _ in range(count):
        drawn = any_shoe(rng)
        text = caption(drawn, rng)
        fine = spoken(drawn.attribute)
        stated["color"] += drawn.color in text
        stated["fine"] += fine in text
        if drawn.material not in fine:
            stated["told apart"] += 1
            stated["family"] += drawn.material in text
    assert stated["color"] / count == pytest.approx(0.75, abs=0.04)
    assert stated["fine"] / count == pytest.approx(0.70, abs=0.05)
    assert stated["family"] / stated["told apart"] == pytest.approx(0.45, abs=0.05)


def test_captions_never_use_the_enhanced_format() -> None:
    rng = np.random.default_rng(2)
    texts = [caption(any_shoe(rng), rng) for _ in range(3000)]
    assert not [text for text in texts if re.search(r"with \w+ color|_", text)]
    assert not [text for text in texts if re.search(r"with [^,]*\bmaterial\b", text)]


def test_titles_name_material_closure_type_and_colour() -> None:
    drawn = shoe("Shoes.Oxfords", "Full.grain.leather", "black")
    assert title(drawn) == "Full grain leather lace-up oxfords, black"
