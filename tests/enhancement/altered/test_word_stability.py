"""Rows of altered photos, and the words of altered photos beside those of the photos."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from noise_photos import PALETTE, WORDS, Corners, Project, corner
from PIL import Image

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.clip.altered_photos import ALTERATIONS
from compositional_prompts.enhancement.altered.altered_rows import altered_bytes, of_altered
from compositional_prompts.enhancement.colors.foreground_colors import ForegroundColors


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("stability"))


def test_words_are_counted_that_stay_and_that_are_true(project: Project) -> None:
    threshold = 0.75
    measured = project.measure(threshold=threshold)
    names = [name for name, split in project.split.items() if split == "test"]
    assert measured.images == len(names) == 30
    known = [name for name in names if name in project.truth]

    def said(name: str, alteration: str | None) -> str | None:
        image = decode_rgb(project.photos[name])
        vector = corner(image if alteration is None else ALTERATIONS[alteration](image))
        best = int(vector.argmax())
        return WORDS[best] if vector[best] > threshold else None

    color = measured.metrics["color"]
    assert color["method"] == "cosine" and color["images"] == 30
    assert color["images_with_truth"] == len(known)
    cosine = color["methods"]["cosine"]
    right = {None: [said(name, None) == project.truth[name] for name in known]}
    assert cosine["accuracy"] == pytest.approx(np.mean(right[None]))
    changed = []
    for alteration in ALTERATIONS:
        found = cosine[alteration]
        same = [said(name, alteration) == said(name, None) for name in names]
        now = [said(name, alteration) == project.truth[name] for name in known]
        assert found["same"] == pytest.approx(np.mean(same))
        assert found["accuracy"] == pytest.approx(np.mean(now))
        gain = np.mean(now) - np.mean(right[None])
        assert found["accuracy_gain"] == pytest.approx(gain)
        low, high = found["accuracy_gain_interval"]
        assert low <= gain <= high and low < high
        changed.append(len(names) - sum(same))
    assert min(changed) > 0  # of noise, everything changes something
    assert set(color["methods"]) == {"cosine", "pixels"}
    shape = measured.metrics["shape"]
    assert set(shape["methods"]) == {"cosine", "zero_shot"}
    assert shape["images_with_truth"] == 0 and shape["methods"]["zero_shot"]["accuracy"] is None
    assert shape["methods"]["zero_shot"]["jpeg"]["accuracy_gain_interval"] is None
    assert 0 < shape["methods"]["zero_shot"]["jpeg"]["same"] < 1


def test_photos_are_altered_once(project: Project) -> None:
    first, again = project.measure(), project.measure()
    assert again.computed == 0
    assert again.metrics == first.metrics


def test_at_most_so_many_photos_and_the_same_ones_of_a_larger_catalog(project: Project) -> None:
    few = project.measure(images=7)
    assert few.images == few.metrics["color"]["images"] == 7
    assert few.computed == 0  # they are among the others


def test_no_test_photo_is_no_figure_and_no_error(tmp_path: Path) -> None:
    project = Project(tmp_path, photos=4)
    project.split = dict.fromkeys(project.split, "train")
    project.write()
    measured = project.measure()
    assert measured.images == measured.computed == 0
    cosine = measured.metrics["color"]["methods"]["cosine"]
    assert cosine["accuracy"] is None and cosine["crop"]["same"] is None


def test_altered_rows_are_those_of_the_altered_photo() -> None:
    photo = Image.fromarray(np.random.default_rng(3).integers(0, 256, (30, 50, 3), np.uint8))
    file = io.BytesIO()
    photo.save(file, "PNG")
    encoded = file.getvalue()
    worker = Corners().start()
    for name, alter in ALTERATIONS.items():
        altered = of_altered(Corners(), name).start()
        found = altered.compute([altered.prepare(encoded)])["vector"]
        np.testing.assert_array_equal(found[0], corner(alter(photo)))
    random = [altered_bytes(encoded, f"random {number}") for number in range(9)]
    assert random == [altered_bytes(encoded, f"random {number}") for number in range(9)]
    assert len(set(random)) > 4
    assert all(decode_rgb(one).size == (50, 30) for one in random)
    assert worker.prepare(encoded).shape == (3,)


def test_what_is_altered_and_how_tells_rows_apart() -> None:
    colors = ForegroundColors({"color": PALETTE})
    kinds = [of_altered(colors, "jpeg"), of_altered(colors, "crop"), of_altered(Corners(), "jpeg")]
    identities = {one.identity() for one in (*kinds, colors, Corners())}
    assert len(identities) == 5
    assert kinds[0].in_processes and not kinds[2].in_processes
    assert kinds[0].padded_to is None and kinds[2].padded_to == kinds[2].batch_size == 8
