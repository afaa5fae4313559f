"""Which files of a folder are images: what decodes is found, the rest is counted and named."""

import io
import logging
import os
import socket
from pathlib import Path

import pytest
from named_files import make
from PIL import Image

from compositional_prompts.catalog.image_files import (
    SPECIAL,
    FolderError,
    find_images,
    image_extensions,
    is_image_name,
    list_files,
)
from compositional_prompts.catalog.images import rejection_reason


def test_images_are_found_sorted_and_hidden_files_skipped(tmp_path: Path) -> None:
    make(tmp_path, "b.JPG", "a/z.tiff", "a/y.WebP", ".hidden.jpg", ".git/c.png", "notes.txt", "jpg")
    paths, passed_over = find_images(tmp_path)
    assert list(paths) == ["a/y.WebP", "a/z.tiff", "b.JPG"]
    assert passed_over == {"none": 1, "txt": 1}


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path / "photos", "a/1.jpg")
    make(tmp_path / "elsewhere", "2.jpg")
    (tmp_path / "photos" / "a" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "outside").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "twice").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "dangling.jpg").symlink_to(tmp_path / "nothing.jpg")
    found = find_images(tmp_path / "photos")
    assert list(found.paths) == ["a/1.jpg", "dangling.jpg", "outside/2.jpg"]


def test_every_format_that_decodes_is_found_by_all_its_names(tmp_path: Path) -> None:
    """One list: of each name that is taken, the format it stands for passes the judgement."""
    writers = {**Image.registered_extensions()}
    assert {".avif", ".jfif", ".jpe", ".mpo", ".webp", ".tif"} < set(image_extensions())
    for extension in image_extensions():
        buffer = io.BytesIO()
        options = {"save_all": True} if extension == ".avifs" else {}
        Image.new("RGB", (8, 8)).save(buffer, writers[extension], **options)
        (tmp_path / f"photo{extension}").write_bytes(buffer.getvalue())
    found = find_images(tmp_path)
    assert len(found.paths) == len(image_extensions())
    for name in found.paths:
        assert rejection_reason((tmp_path / name).read_bytes(), 64) is None, name


@pytest.mark.parametrize("kind", ["JPEG2000", "PPM", "TGA", "ICO", "PCX"])
def test_a_format_that_is_refused_is_not_found(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, kind)
    assert rejection_reason(buffer.getvalue(), 10_000) == "unreadable"
    names = [name for name, other in Image.registered_extensions().items() if other == kind]
    assert names
    assert not any(is_image_name(f"photo{name}") for name in names)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("shoe.jpg?v=123", True),
        ("a?/SHOE.AVIF?width=80&x=a.b", True),
        ("what is this?.jpg", True),
        ("shoe.jp2?v=1.jpeg2", False),
        ("page.php?photo=1", False),
        ("jpg", False),
    ],
)
def test_a_query_does_not_hide_an_image(name: str, taken: bool) -> None:
    assert is_image_name(name) is taken


def test_what_is_passed_over_is_counted_and_a_few_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "a.jpg", "f.jp2", "g.JP2?v=1", "README", "b\x1b[31m.txt", "x.2024-01-01", ".DS")
    make(tmp_path / "sub", *(f"{number}.txt" for number in range(9)))
    with caplog.at_level(logging.WARNING):
        found = find_images(tmp_path)
    assert list(found.paths) == ["a.jpg"]
    assert found.passed_over == {"jp2": 2, "none": 1, "other": 1, "txt": 10}
    (message,) = caplog.messages
    assert message == (
        f"{tmp_path}: passed over, as not named like images that are read: 2 jp2, 1 none, 1 other, "
        "10 txt ('README', 'b\\x1b[31m.txt', 'f.jp2', 'g.JP2?v=1', 'sub/0.txt', ...)"
    )


def test_a_folder_of_images_alone_is_passed_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "a.jpg", ".hidden.txt")
    assert find_images(tmp_path).passed_over == {}
    assert caplog.messages == []


def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(FolderError, match="not UTF-8: rename it"):
        find_images(tmp_path)


def test_an_empty_or_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"empty data set: .*\.avif.*\)\.$"):
        find_images(tmp_path)
    make(tmp_path, "notes.txt")
    with pytest.raises(FolderError, match=r"empty data set: .*; other files: 1 txt"):
        find_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        find_images(tmp_path / "nothing")


def test_what_is_no_file_is_counted_and_never_opened(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "sub/b.jpg", "notes.txt")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "sub" / "metadata.csv")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket.jpg"))
        found = find_images(tmp_path)
    assert list(found.paths) == ["a.jpg", "dangling.jpg", "itself.jpg", "sub/b.jpg"]
    assert found.passed_over == {SPECIAL: 4, "txt": 1}
    assert "sub/metadata.csv" not in list_files(tmp_path)


def test_a_folder_of_pipes_alone_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(FolderError, match=r"other files: 1 no_file\.$"):
        find_images(tmp_path)
