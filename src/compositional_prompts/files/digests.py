"""Digests of what files hold, whatever they are called and whenever they were written."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

from compositional_prompts.files.outputs import require_outputs

_READ_BYTES = 2**20

CONTENT_BYTES = 16
"""Length of a content digest: of a million images two are alike by chance once in 10^26 times."""


def content_digest(data: bytes, *texts: str) -> bytes:
    """BLAKE2b of ``data`` and of texts beside it, 16 bytes.

    Texts are told apart from one another and from the data by their lengths.
    """
    digest = hashlib.blake2b(data, digest_size=CONTENT_BYTES)
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()


def file_checksum(path: Path) -> str:
    """CRC-32 of a file, 8 hexadecimal digits: against damage, not against malice.

    Raises:
        MissingOutputError: it is not there.
    """
    require_outputs(path)
    checksum = 0
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}"


def folder_digest(*paths: Path) -> str:
    """SHA-256 of files, and of all files in folders, with their names below ``paths``.

    Where they lie, and when they were written, does not count.

    Raises:
        MissingOutputError: a path is not there.
    """
    require_outputs(*paths)
    digest = hashlib.sha256()
    for path in paths:
        below = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in below:
            if file.is_file():
                with file.open("rb") as opened:
                    content = hashlib.file_digest(opened, "sha256").hexdigest()
                name = path.name if file == path else file.relative_to(path).as_posix()
                digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()
