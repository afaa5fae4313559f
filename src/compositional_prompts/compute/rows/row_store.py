"""Rows kept between runs, by computation and key. (Provisional: in memory of this process.)"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


class MissingRowError(LookupError):
    """A row that is asked for is not in the store."""


class StoredRows:
    """The rows of one computation."""

    def __init__(self) -> None:
        self._rows: dict[bytes, Any] = {}
        self._dtype: np.dtype[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()

    def missing(self, keys: NDArray[Any]) -> NDArray[np.int64]:
        seen: set[bytes] = set()
        places = []
        for place, key in enumerate(keys.tolist()):
            if key not in self._rows and key not in seen:
                seen.add(key)
                places.append(place)
        return np.array(places, np.int64)

    def append(self, keys: NDArray[Any], rows: NDArray[Any]) -> None:
        self._dtype = rows.dtype
        self._rows.update(zip(keys.tolist(), rows.copy(), strict=True))

    def flush(self) -> None:
        pass

    def read(self, keys: NDArray[Any]) -> NDArray[Any]:
        try:
            rows = [self._rows[key] for key in keys.tolist()]
        except KeyError as error:
            raise MissingRowError(f"no row of key {error}") from error
        return np.array(rows, self._dtype)

    def adopt(self, file: Path, keys: NDArray[Any], dtype: np.dtype[Any], offset: int) -> None:
        pass

    def file_of(self, keys: NDArray[Any]) -> Path | None:
        return None


_opened: dict[str, StoredRows] = {}


class RowStore:
    """The store at a path."""

    def __init__(self, path: Path, max_gib: float) -> None:
        self.path = path

    def open(self, name: str, fingerprint: str, description: Mapping[str, Any]) -> StoredRows:
        return _opened.setdefault(f"{self.path}/{name}/{fingerprint}", StoredRows())
