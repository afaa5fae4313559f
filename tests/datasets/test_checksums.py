"""Photos that are not what they were are noticed by their checksums."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from compositional_prompts.catalog.image_files import FolderError
from compositional_prompts.datasets.folders.checksums import (
    ALTERED,
    CHECKSUMS,
    is_altered,
    read_checksums,
    write_checksums,
)
from compositional_prompts.datasets.folders.folder import Folder
from compositional_prompts.pipeline.yaml_file import read_yaml

ROOT = Path(__file__).parents[2]
NAMES = ("a.jpg", "sub/b c.png", "sub/d\\e\nf.webp", "caf\u00e9.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_what_is_written_is_read_and_is_what_sha256sum_checks(photos: Path) -> None:
    assert write_checksums(photos).endswith("SHA256SUMS: 0 images are as before, 4 are new.")
    assert read_checksums(photos) == {
        name: hashlib.sha256(name.encode()).digest() for name in NAMES
    }
    if shutil.which("sha256sum"):
        checked = subprocess.run(["sha256sum", "-c", CHECKSUMS], cwd=photos, check=False)
        assert checked.returncode == 0


def test_new_photos_are_added_and_altered_ones_are_named(photos: Path) -> None:
    write_checksums(photos)
    (photos / "new.jpg").write_bytes(b"new")
    (photos / "a.jpg").unlink()
    assert write_checksums(photos).endswith("3 images are as before, 1 are new, 1 are gone.")
    before = (photos / CHECKSUMS).read_bytes()
    (photos / "new.jpg").write_bytes(b"nex")
    with pytest.raises(FolderError, match=r"SHA256SUMS: 1 images .* 'new\.jpg'\. Bring them back"):
        write_checksums(photos)
    assert (photos / CHECKSUMS).read_bytes() == before
    assert sorted(path.name for path in photos.iterdir() if path.name.startswith(".")) == []


def test_a_photo_that_was_altered_is_set_aside(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_checksums(photos)
    (photos / "a.jpg").write_bytes(b"b.jpg")
    (photos / "new.jpg").write_bytes(b"new")
    (photos / "sub/b c.png").unlink()
    params = read_yaml(ROOT / "params.yaml")
    section = params["download"]["folder"] | {"path": str(photos)}
    with caplog.at_level("INFO"):
        rows = list(Folder.model_validate(section).select(None).rows)  # type: ignore[arg-type]
    assert [row.image_id for row in rows if row.rejection == ALTERED] == ["a.jpg"]
    assert [row.image_id for row in rows if row.image is None] == ["a.jpg"]
    assert "3 of 4 images are checked by" in caplog.text
    assert "1 images have no checksum" in caplog.text
    assert "1 files that" in caplog.text and "'sub/b c.png'" in caplog.text


@pytest.mark.parametrize(
    "text", ["x", "\n", f"{'0' * 63}  a.jpg", f"{'0' * 64}  a\n{'1' * 64}  ./a", "\udcff"]
)
def test_a_damaged_list_is_named_with_its_line(photos: Path, text: str) -> None:
    (photos / CHECKSUMS).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FolderError, match=r"SHA256SUMS, line [12]: "):
        read_checksums(photos)


def test_without_a_list_nothing_is_checked(photos: Path) -> None:
    assert read_checksums(photos) is None
    assert not is_altered(None, "a.jpg", b"") and not is_altered({}, "a.jpg", b"")
    (photos / CHECKSUMS).write_bytes(b"")
    assert read_checksums(photos) == {}
    empty = photos.parent / "empty"
    empty.mkdir()
    with pytest.raises(FolderError, match="holds no image"):
        write_checksums(empty)
