"""Files of ``torch.save``, read without running anything that is in them.

``torch.load`` with ``weights_only`` reads both layouts, zip archives and what torch wrote before
1.6. Around it stand a comparison of the checksums that torch writes and does not read (the old
layout has none), and one error in place of the dozens that broken files raise.

Time and memory are bounded by the bytes read as far as torch's own reader bounds them: it makes
what a file asks for, so one made up for the purpose can exhaust memory, though never run code. It
knows pickle protocol 2, torch's own, and strings of Python 2 up to 255 bytes.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    from torch import Tensor

MAX_PLAIN_BYTES: Final = 512 * 2**20
"""The most bytes of plain values that are read: about three million images' labels."""

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the state dict beside other things."""

PARALLEL_PREFIX = "module."
"""What ``nn.DataParallel`` puts before every name."""

_ZIP_MAGIC: Final = b"PK\x03\x04"
_CONTAINERS: Final = (list, tuple, dict)
_NUMBERS: Final = (int, float, bool, type(None))
_SHOWN_KEYS: Final = 6

_Place = tuple["_Place", object] | None
"""Where a value stands: the place of what holds it, and its key there."""


class TorchFileError(ValueError):
    """The file is no whole file of ``torch.save``, or holds something else than is read."""


def read_torch_file(path: Path) -> Any:
    """What ``torch.save`` wrote, tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        TorchFileError: it is damaged, another format, or asks for Python code (never run).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is {'a folder' if path.is_dir() else 'missing'}.")
    with path.open("rb") as file:
        return _load(file, str(path))


def read_plain_values(content: bytes, name: str) -> Any:
    """What ``torch.save`` wrote, made of list, dict, tuple, str, int, float, bool and None.

    Args:
        content: the file, of at most :data:`MAX_PLAIN_BYTES`, as what is packed in it.
        name: of the file, for messages.

    Raises:
        TorchFileError: as :func:`read_torch_file`; or a value is of another kind, or a text is not
            UTF-8, with its place.
    """
    if len(content) > MAX_PLAIN_BYTES:
        raise TorchFileError(f"{name} has more than the {MAX_PLAIN_BYTES} bytes that are read.")
    value = _load(io.BytesIO(content), name, MAX_PLAIN_BYTES)
    _require_plain(value, name)
    return value


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name, on the CPU.

    It may lie under one of :data:`WRAPPERS`; the prefix of ``nn.DataParallel`` is taken off.

    Raises:
        FileNotFoundError: there is no such file.
        TorchFileError: as :func:`read_torch_file`; or it holds something else than dense tensors
            by name, or a number that is not finite.
    """
    import torch

    content = read_torch_file(path)
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        found = "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise TorchFileError(f"{path} holds {found}, expected tensors by name (a state dict).")
    for name, value in content.items():
        if not isinstance(name, str):
            raise TorchFileError(f"{path}: expected tensors by name, found the key {name!r}.")
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise TorchFileError(
                f"{path}: {name!r} is {getattr(value, 'layout', type(value).__name__)}, expected a "
                "dense tensor. Save `model.state_dict()` alone."
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise TorchFileError(
                f"{path}: the tensor {name!r} has a number that is not finite (NaN or infinite): "
                "take another checkpoint of that training."
            )
    if all(name.startswith(PARALLEL_PREFIX) for name in content):
        return {name.removeprefix(PARALLEL_PREFIX): value for name, value in content.items()}
    return dict(content)


def _load(file: BinaryIO, name: str, max_bytes: int | None = None) -> Any:
    import torch

    try:
        _require_whole(file, max_bytes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript and protocols: errors say it
            return torch.load(file, map_location="cpu", weights_only=True)
    # The content decides what is raised: a broken archive, pickle or tensor.
    except Exception as error:
        text = str(error)
        if code := re.search(r"GLOBAL (\S+)", text):
            raise TorchFileError(
                f"{name} asks for {code[1]}, and Python code is not run from a file: it is to be "
                "saved again with tensors and plain values alone, as `model.state_dict()` is."
            ) from error
        raise TorchFileError(
            f"{name} is no whole file of torch.save ({_reason(text) or type(error).__name__}): it "
            "is damaged, cut short or something else. Copy or download it again."
        ) from error


def _require_whole(file: BinaryIO, max_bytes: int | None) -> None:
    if file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if max_bytes is not None and size > max_bytes:
                raise ValueError(f"{size} bytes are packed in it, more than the {max_bytes} read")
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
    file.seek(0)


def _reason(text: str) -> str:
    """What torch found, without its advice to load the file with code."""
    inner = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    found = inner[1] if inner else text.removeprefix("Weights only load failed. ")
    return re.split(r"\.\s|\n", found.strip())[0].rstrip(".")[:200]


def _require_plain(value: object, name: str) -> None:
    """Check every value once, without recursion: they may be nested without end, in themselves."""
    seen: set[int] = set()
    rest: list[tuple[object, _Place]] = [(value, None)]
    while rest:
        item, place = rest.pop()
        if isinstance(item, str):
            if not _is_utf8(item):
                raise TorchFileError(f"{name}{_shown(place)}: a text that is not UTF-8.")
        elif type(item) in _CONTAINERS:
            if id(item) not in seen:
                seen.add(id(item))
                rest += _parts(item, place)
        elif type(item) not in _NUMBERS:
            raise TorchFileError(
                f"{name}{_shown(place)}: a {type(item).__name__}; only lists, dictionaries, "
                "strings and numbers are read."
            )


def _parts(container: Any, place: _Place) -> list[tuple[object, _Place]]:
    if type(container) is not dict:
        return [(item, (place, number)) for number, item in enumerate(container)]
    values = [(item, (place, key)) for key, item in container.items()]
    return values + [(key, place) for key in container]


def _is_utf8(text: str) -> bool:
    """Whether no half of a surrogate pair is in it, which torch lets pass and no table can hold."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _shown(place: _Place) -> str:
    keys: list[object] = []
    while place is not None:
        place, key = place
        keys.append(key)
    shown = "".join(f"[{key!r}]" for key in keys[: -_SHOWN_KEYS - 1 : -1])
    return f" at {shown}" + "..." * (len(keys) > _SHOWN_KEYS) if keys else ""
