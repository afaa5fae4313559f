"""Tar files of samples, as the library ``webdataset`` reads them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from compositional_prompts.deployment.dataset_export.forms.form_writer import (
    SHARD_BYTES,
    SPLIT_FOLDERS,
    Values,
)
from compositional_prompts.deployment.dataset_export.photo_files import PhotoFile
from compositional_prompts.files.content_cuts import ContentCuts


class WebdatasetTars:
    """``train-000000.tar`` and so on: of every photo the file, its caption ``.txt``, and ``.json``.

    Equal rows give equal bytes: members have no time and no owner. Tars are cut by their content,
    so that a grown data set leaves most of them the same.
    """

    def __init__(self, directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._directory = directory
        self._shard_bytes = shard_bytes
        self._splits: dict[str, _SplitTars] = {}

    def write(self, values: Values, photo: PhotoFile | None) -> None:
        assert photo is not None
        split = SPLIT_FOLDERS[values["split"]]
        if split not in self._splits:
            self._splits[split] = _SplitTars(self._directory, split, self._shard_bytes)
        self._splits[split].write(values, photo)

    def finish(self) -> None:
        for tars in self._splits.values():
            tars.close()


class _SplitTars:
    def __init__(self, directory: Path, split: str, shard_bytes: int) -> None:
        self._directory, self._split = directory, split
        self._cuts = ContentCuts(shard_bytes)
        self._number = 0
        self._tar: tarfile.TarFile | None = None

    def write(self, values: Values, photo: PhotoFile) -> None:
        text = json.dumps(dict(values), ensure_ascii=False, allow_nan=False)
        members = {
            photo.extension: photo.encoded,
            "json": text.encode(),
            "txt": values["caption"].encode(),
        }
        size = sum(
            tarfile.BLOCKSIZE * (1 + -(-len(member) // tarfile.BLOCKSIZE))
            for member in members.values()
        )
        if self._cuts.starts(values["image_id"].encode(), size):
            self.close()
            path = self._directory / f"{self._split}-{self._number:06d}.tar"
            self._tar = tarfile.open(path, "x", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._number += 1
        assert self._tar is not None  # the very first row starts a tar
        for extension, member in members.items():
            header = tarfile.TarInfo(f"{photo.stem}.{extension}")
            header.size, header.mode = len(member), 0o644
            self._tar.addfile(header, io.BytesIO(member))
        # It would keep every header; they are not read again.
        self._tar.members = []  # type: ignore[attr-defined]

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
