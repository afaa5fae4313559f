"""Archives read in place: what is in them comes out right, and nothing else happens."""

import gzip
import io
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.files import archives
from compositional_prompts.files.archives import ArchiveError, open_archive

FILES = {
    "data/a.jpg": b"first" * 1000,
    "data/Børn & Co%2E/1.2.jpg": bytes(range(256)) * 4,
    "data/empty.txt": b"",
    "readme": b"words",
}


def make_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("data")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz", **options: Any) -> Path:
    with tarfile.open(path, mode, **options) as archive:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("./data")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


MAKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "deflated": make_zip,
    "stored": lambda path, files: make_zip(path, files, zipfile.ZIP_STORED),
    "tar.gz": make_tar,
    "tar": lambda path, files: make_tar(path, files, "w"),
    "tar of gnu": lambda path, files: make_tar(path, files, format=tarfile.GNU_FORMAT),
}
KINDS = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@KINDS
def test_members_are_read_in_any_order(make: Any, tmp_path: Path) -> None:
    files = FILES | {f"data/{'long' * 60}.jpg": b"long name"}
    archive = open_archive(make(tmp_path / "file", files), tmp_path / "cache")
    assert set(archive.names) == set(files)
    for name in [*reversed(files), *files]:
        assert archive.read(name, 10**4) == files[name]
    with pytest.raises(ArchiveError, match=r"'data/a\.jpg' is longer than 4999 bytes"):
        archive.read("data/a.jpg", 4999)
    assert archive.read("data/a.jpg", 5000) == files["data/a.jpg"]
    archive.close()
    assert {path.name for path in tmp_path.rglob("*")} <= {"file", "cache"}


@KINDS
def test_an_archive_of_nothing_is_read(make: Any, tmp_path: Path) -> None:
    assert not open_archive(make(tmp_path / "file", {}), tmp_path).names


def test_links_and_devices_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    path = tmp_path / "file.tar.gz"
    kinds = {
        "symbolic": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "pipe": tarfile.FIFOTYPE,
        "device": tarfile.CHRTYPE,
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(secret)
            archive.addfile(member)
    assert not open_archive(path, tmp_path).names
    zipped = tmp_path / "file.zip"
    with zipfile.ZipFile(zipped, "w") as archive_:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive_.writestr(link, str(secret))
        archive_.writestr("file", b"x")
    assert set(open_archive(zipped, tmp_path).names) == {"file"}


@KINDS
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "a\\..\\evil"])
def test_paths_that_lead_outside_are_refused(make: Any, name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if make in (MAKERS["deflated"], MAKERS["stored"]):
        make_zip(path, {name: b"x"})
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(ArchiveError, match="is not a plain relative path"):
        open_archive(path, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "file", "w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
        archive.addfile(tarfile.TarInfo("./a"))
    with pytest.raises(ArchiveError, match=r"'\./a' is there twice"):
        open_archive(tmp_path / "file", tmp_path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "file", {"data/a": b"x"})
    content = bytearray(path.read_bytes())
    # The flags in the central directory, 8 bytes after its signature.
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="'data/a' is encrypted"):
        open_archive(path, tmp_path)


@KINDS
def test_bombs_are_refused(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "file", {"zeros": bytes(3 * 2**20), "more": b"x"})
    monkeypatch.setattr(archives, "TOTAL_BYTES", 3 * 2**20)
    with pytest.raises(ArchiveError, match="unpacks to more than 3145728 bytes"):
        open_archive(path, tmp_path)
    monkeypatch.setattr(archives, "TOTAL_BYTES", 2**30)
    monkeypatch.setattr(archives, "MEMBERS", 2)
    with pytest.raises(ArchiveError, match="more than 2 members"):
        open_archive(path, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_zip_that_lies_about_sizes_gives_no_more_than_the_limit(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "file", {"zeros": bytes(2**24)})
    content = path.read_bytes().replace((2**24).to_bytes(4, "little"), (9).to_bytes(4, "little"))
    path.write_bytes(content)
    archive = open_archive(path, tmp_path)
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="damaged or cut off"):
        archive.read("zeros", 10**5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_header_of_any_length_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.tar"
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 2**25
    with path.open("wb") as file:
        file.write(member.tobuf())
        file.truncate(2**26)
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="a header of 33554432 bytes"):
        open_archive(path, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_headers_without_end_are_told(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x" * 150)
    chain = b"".join(member.tobuf(tarfile.GNU_FORMAT)[:1024] for _ in range(5000))
    (tmp_path / "file").write_bytes(gzip.compress(chain))
    with pytest.raises(ArchiveError, match="damaged or cut off: RecursionError"):
        open_archive(tmp_path / "file", tmp_path)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>\n<title>404", b"PX" + bytes(600)])
def test_another_file_is_told_with_its_beginning(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ArchiveError) as raised:
        open_archive(tmp_path / "file", tmp_path)
    assert f"neither zip nor tar.gz; it begins with {content[:40]!r}" in str(raised.value)


@KINDS
def test_one_cut_off_or_damaged_is_told(make: Any, tmp_path: Path) -> None:
    path = make(tmp_path / "file", {f"data/{n}": os.urandom(3000) for n in range(5)})
    content = path.read_bytes()
    path.write_bytes(content[:9000])
    with pytest.raises(ArchiveError, match=r"cut off|damaged"):
        archive = open_archive(path, tmp_path)
        for name in archive.names:
            archive.read(name, 10**4)
    if make is not MAKERS["tar"]:  # which has no checksums of content
        place = content.index(b"\x50\x4b\x01\x02") - 200 if content[:2] == b"PK" else 8000
        path.write_bytes(content[:place] + b"damage" + content[place + 6 :])
        with pytest.raises(ArchiveError, match="damaged"):
            archive = open_archive(path, tmp_path)
            for name in archive.names:
                archive.read(name, 10**4)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "file", {"a": b"x", "b": b"y"}, "w")
    content = bytearray(path.read_bytes())
    content[3 * 512] ^= 1  # the name of the last member
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="damaged: no header at byte 1536"):
        open_archive(path, tmp_path)


def test_a_place_before_the_file_is_told(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "file", {"a": b"x"})
    content = bytearray(path.read_bytes())
    content[-6] += 1  # where the central directory begins, as the end of the archive says
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="damaged or cut off"):
        open_archive(path, tmp_path).read("a", 10)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    path = make_tar(tmp_path / "file", FILES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives.tempfile, "TemporaryFile", lambda dir: Full())
        with pytest.raises(OSError, match=r"file: cannot be inflated in .* bytes free\)"):
            open_archive(path, tmp_path)


@st.composite
def damaged(draw: st.DrawFn, whole: dict[str, bytes]) -> bytes:
    content = bytearray(draw(st.sampled_from(sorted(whole.values()))))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        content[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    files = {"data/a": b"alpha" * 5, "data/b": b""}
    return {
        name: make(folder / "file", files).read_bytes()
        for name, make in MAKERS.items()
        if name != "tar of gnu"
    }


@given(st.data())
def test_any_bytes_are_an_archive_or_the_one_error(
    whole: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "damaged"
    path.write_bytes(data.draw(damaged(whole)))
    try:
        archive = open_archive(path, folder)
        for name in archive.names:
            archive.read(name, 10**6)
    except ArchiveError as error:
        assert str(path) in str(error)
