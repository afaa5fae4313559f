"""Which of some files cannot be read, asked after a library failed on one without naming it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from compositional_prompts.files.outputs import DamagedOutputError
from compositional_prompts.files.tables import open_parquet
from compositional_prompts.files.tensors.finite_numbers import require_finite_weights


def damaged_file(paths: Iterable[Path]) -> DamagedOutputError | None:
    """The first file that is not what its name says, among ``paths`` and in folders of them.

    Parquet, JSON and safetensors are read through, so that this takes as long as reading all.
    """
    for path in _files(paths):
        check = _CHECKS.get(path.suffix)
        if check is None:
            continue
        try:
            check(path)
        except DamagedOutputError as error:
            return error
        except (pa.ArrowException, OSError, ValueError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            return DamagedOutputError(f"{path} is damaged ({said}).", path)
    return None


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.is_file())
        elif path.is_file():
            yield path


def _read_parquet(path: Path) -> None:
    with open_parquet(path) as file:
        for _ in file.iter_batches(1024):
            pass


def _read_json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))


def _read_safetensors(path: Path) -> None:
    require_finite_weights(path)


_CHECKS: Mapping[str, Callable[[Path], None]] = {
    ".parquet": _read_parquet,
    ".json": _read_json,
    ".safetensors": _read_safetensors,
}
