"""Photos are found and read a few batches ahead, in order, whatever their number."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from compositional_prompts.compute.ordered_map import READ_AHEAD
from compositional_prompts.deployment.photos import (
    Prepared,
    SetAside,
    find_photos,
    read_photos,
)


def write_photos(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(path)
    return paths


def red(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


def test_no_more_is_read_than_a_few_batches_ahead(tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", 40)
    taken = 0

    def counted() -> Iterator[Path]:
        nonlocal taken
        for path in paths:
            taken += 1
            yield path

    batches = read_photos(counted(), red, max_pixels=4, batch_size=3, workers=2)
    reds: list[int] = []
    for done, batch in enumerate(batches, start=1):
        assert taken <= (done + READ_AHEAD) * 3
        reds += [photo.inputs for photo in batch if isinstance(photo, Prepared)]
    assert reds == list(range(40))
    assert done == 14


def test_reading_can_be_left_in_the_middle(tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", 20)
    batches = read_photos(paths, red, max_pixels=4, batch_size=2, workers=2)
    next(batches)
    batches.close()


def test_what_cannot_be_used_stays_in_its_place(tmp_path: Path) -> None:
    first, second = write_photos(tmp_path / "photos", 2)
    found = [first, SetAside(Path("folder"), "unusable_folder"), tmp_path / "none.png", second]
    (batch,) = read_photos(found, red, max_pixels=4, batch_size=9, workers=1)
    assert batch == [
        Prepared(first, 0),
        SetAside(Path("folder"), "unusable_folder"),
        SetAside(tmp_path / "none.png", "inaccessible", "No such file or directory"),
        Prepared(second, 1),
    ]


def _feed_nothing(pipe: Path) -> None:
    while True:
        pipe.open("wb").close()
        time.sleep(0.05)


def test_a_pipe_is_set_aside_and_not_waited_for(tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path / "photos", 1)
    pipe = tmp_path / "photos" / "pipe.png"
    os.mkfifo(pipe)
    # Whoever reads it gets no photo, and goes on.
    Thread(target=_feed_nothing, args=[pipe], daemon=True).start()
    found = find_photos([pipe, tmp_path / "photos"])
    (batch,) = read_photos(found, red, max_pixels=4, batch_size=9, workers=1)
    aside = SetAside(pipe, "inaccessible", "no regular file")
    assert batch == [aside, Prepared(photo, 0)]


def test_folders_and_files_come_as_they_are_named(tmp_path: Path) -> None:
    inside = write_photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    named = [Path("b.jpg"), tmp_path / "photos", Path("a.jpg")]
    assert list(find_photos(named)) == [Path("b.jpg"), *inside, Path("a.jpg")]


def test_a_folder_gives_all_that_decodes_and_tells_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.new("RGB", (2, 2), (9, 0, 0))
    image.save(tmp_path / "shoe.jpg?v=1", "JPEG")
    for name in ("d.avif", "e.mpo", "f.jp2", "photo.jfif", "photo.jpe"):
        image.save(tmp_path / name)
    found = find_photos([tmp_path])
    (batch,) = read_photos(found, red, max_pixels=4, batch_size=9, workers=1)
    names = [photo.path.name for photo in batch if isinstance(photo, Prepared)]
    assert names == ["d.avif", "e.mpo", "photo.jfif", "photo.jpe", "shoe.jpg?v=1"]
    (message,) = caplog.messages
    assert "1 jp2 ('f.jp2')" in message


def test_no_photos_no_batches() -> None:
    assert list(read_photos([], red, max_pixels=4, batch_size=2, workers=1)) == []
