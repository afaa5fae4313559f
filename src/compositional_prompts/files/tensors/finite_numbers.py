"""Numbers that are none (NaN) or infinite, refused where they enter: in files of weights, in arrays
and in tensors.

One of them among the weights makes nothing of all that is computed, and everything looks well.

What is here only refuses. A call ``require_finite_...(...)`` that stands alone, and the import of
it, therefore decide no result, and no digest of code counts them
(:func:`compositional_prompts.files.scratch.code_of`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.files.outputs import DamagedOutputError, require_outputs

_HEADER_BYTES: Final = 8
"""A safetensors file begins with the length of its header."""

_MOST_HEADER_BYTES: Final = 100_000_000
"""As safetensors has it."""

_EXPONENTS: Final[Mapping[str, tuple[str, int]]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("<u1", 0x7C),
    "F8_E4M3": ("<u1", 0x7F),  # NaN alone: it knows no infinity
}
"""Of safetensors' floating-point types: the unsigned integer of their width, and the bits that are
all set where a number is not finite, and nowhere else."""

_CHUNK_BYTES: Final = 2**20
"""Read at a time: it stays in the processor's cache."""


class TensorPlace(NamedTuple):
    """Where a tensor lies in its file: the name of its type, and the bytes from and to which."""

    dtype: str
    begin: int
    end: int


def tensor_places(path: Path) -> dict[str, TensorPlace]:
    """What the header of a safetensors file says, checked against the length of the file.

    Raises:
        MissingOutputError: it is not there.
        DamagedOutputError: it is no whole safetensors file.
    """
    require_outputs(path)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_HEADER_BYTES), "little")
            if length > min(size - _HEADER_BYTES, _MOST_HEADER_BYTES):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        start = _HEADER_BYTES + length
        places = {
            str(name): TensorPlace(
                str(said["dtype"]), *(start + int(offset) for offset in said["data_offsets"])
            )
            for name, said in header.items()
            if name != "__metadata__"
        }
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise DamagedOutputError(
            f"{path} is damaged (no whole safetensors file: {' '.join(str(error).split())}).", path
        ) from error
    expected = max((place.end for place in places.values()), default=start)
    if expected != size or any(not start <= place.begin <= place.end for place in places.values()):
        raise DamagedOutputError(
            f"{path} is damaged (no whole safetensors file: {size} bytes, expected {expected}).",
            path,
        )
    return places


def require_finite_weights(*paths: Path, without: Collection[str] = ()) -> None:
    """Check that every number in safetensors files is finite.

    It takes as long as reading them (some GB a second), once a process as long as no file changes.

    Args:
        paths: the files.
        without: what the names of tensors begin with that are not looked at.

    Raises:
        MissingOutputError: a file is not there.
        DamagedOutputError: it is no whole safetensors file, or a number in it is NaN or infinite;
            the tensor is named.
    """
    require_outputs(*paths)
    for path in paths:
        status = path.stat()
        stamp = status.st_size, status.st_mtime_ns, status.st_ino
        _require_finite_file(path.absolute(), path, tuple(without), stamp)


@cache
def _require_finite_file(
    path: Path, shown: Path, without: tuple[str, ...], stamp: tuple[int, ...]
) -> None:
    with path.open("rb", buffering=0) as file:
        for name, place in tensor_places(shown).items():
            if place.dtype not in _EXPONENTS or name.startswith(without):
                continue
            kind, exponent = _EXPONENTS[place.dtype]
            chunk = bytearray(min(_CHUNK_BYTES, place.end - place.begin))
            file.seek(place.begin)
            for begin in range(place.begin, place.end, _CHUNK_BYTES):
                taken = file.readinto(memoryview(chunk)[: place.end - begin]) or 0
                bits = np.frombuffer(chunk, kind, taken // np.dtype(kind).itemsize)
                if _any_set(bits, exponent):
                    raise DamagedOutputError(
                        f"{shown} is damaged (its tensor {name} has a number that is NaN or "
                        "infinite, and what is computed with that means nothing).",
                        path,
                    )


def _any_set(bits: NDArray[Any], mask: int) -> bool:
    """Whether all bits of ``mask`` are set in any number."""
    wanted = bits.dtype.type(mask)
    return bool(len(bits)) and bool((bits & wanted).max() == wanted)


def require_finite_rows(
    rows: NDArray[Any], names: Sequence[str], what: str, minus_infinity: bool = False
) -> None:
    """Check the floating-point fields of a structured array ``[n]``.

    Args:
        rows: of some items.
        names: of the items.
        what: they are, for the message.
        minus_infinity: whether there may be minus infinity, as of a maximum of nothing.

    Raises:
        ValueError: a number is NaN or infinite; the item is named.
    """
    for field in rows.dtype.names or ():
        values = rows[field]
        if values.dtype.kind != "f":
            continue
        finite = np.isfinite(values)
        if minus_infinity:
            finite |= np.isneginf(values)
        finite = finite.reshape(len(values), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{names[int(finite.argmin())]}: its {what} ({field}) is not finite (NaN or "
                "infinite): the model's weights are damaged, or it computes beyond its precision."
            )


def require_finite_values(what: str, *values: Any) -> None:
    """Check tensors or arrays of any shape.

    Args:
        what: they are, for the message.
        values: of floating point.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    for one in values:
        finite = one.isfinite() if hasattr(one, "isfinite") else np.isfinite(one)
        if not bool(finite.all()):
            numbers = math.prod(finite.shape)
            raise ValueError(
                f"{what}: {numbers - int(finite.sum())} of {numbers} numbers are NaN or infinite. "
                "Weights are damaged, or a model computes beyond its precision: set it to float32."
            )
