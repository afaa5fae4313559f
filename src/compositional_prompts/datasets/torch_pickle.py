"""Plain values out of a file of ``torch.save``, without torch and without running anything in it.

A pickle is a program: unpickling a stranger's file runs what the stranger wrote. Python's own
unpickler can be told to look up no classes, but it still allocates whatever a length or a memo
index in the file asks for, and hashes whatever key it builds. So the few instructions that make
lists, dictionaries, tuples, strings and numbers are carried out here, in a loop whose time and
memory grow with the bytes of the file only; any other instruction is refused by name.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, Final

MAX_BYTES: Final = 512 * 2**20
"""The largest file, or ``data.pkl`` in it, that is read: about three million images' labels."""

# An empty list is one byte in a pickle and 56 in memory: so their number is bounded on its own.
_MAX_CONTAINERS: Final = 8_000_000
# torch/serialization.py: what a file of the format before 1.6 begins with.
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
_ZIP_MAGIC: Final = b"PK\x03\x04"


class TorchPickleError(ValueError):
    """The file is no ``torch.save`` of plain values, or is damaged."""


def read_torch_pickle(content: bytes, source: str) -> Any:
    """The object that ``torch.save`` wrote, made of list, dict, tuple, str, int, float, bool, None.

    Reads the zip format of torch 1.6 and later and the format before it, pickle protocols 0 to 5;
    byte strings (which Python 2 wrote) are taken as UTF-8, as ``torch.load`` does.

    Args:
        content: the file.
        source: its name, for messages.

    Raises:
        TorchPickleError: whatever is wrong with the bytes: another format, a tensor, class or
            call in it, a dictionary key that is no string, more than :data:`MAX_BYTES`, cut off,
            or damaged.
    """
    if len(content) > MAX_BYTES:
        raise TorchPickleError(f"{source}: {len(content)} bytes, more than the {MAX_BYTES} read.")
    try:
        if content.startswith(_ZIP_MAGIC):
            return _run(io.BytesIO(_zipped_pickle(content)))
        return _read_legacy(io.BytesIO(content))
    except TorchPickleError as error:
        raise TorchPickleError(f"{source}: {error}") from error
    # Damaged bytes make the parsers of zip and pickle raise whatever they run into (struct.error,
    # IndexError, zlib.error, NotImplementedError, ...): each of them says the same.
    except Exception as error:
        raise TorchPickleError(
            f"{source}: not a whole file of torch.save: {type(error).__name__}: {error}"
        ) from error


def _zipped_pickle(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        found = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
        if len(found) != 1:
            raise TorchPickleError(f"expected one data.pkl in the zip file, found {len(found)}.")
        with archive.open(found[0]) as file:
            pickled = file.read(MAX_BYTES + 1)
    if len(pickled) > MAX_BYTES:
        raise TorchPickleError(f"its data.pkl has more than the {MAX_BYTES} bytes that are read.")
    return pickled


def _read_legacy(stream: BinaryIO) -> Any:
    if _run(stream) != _MAGIC:
        raise TorchPickleError("does not begin as a file of torch.save does; a bare pickle?")
    protocol = _run(stream)
    if protocol != _PROTOCOL:
        # Only a number is shown: the text of nested lists may be longer than any memory.
        found = protocol if isinstance(protocol, int) else type(protocol).__name__
        raise TorchPickleError(f"torch.save protocol {found}, expected {_PROTOCOL}.")
    _run(stream)  # sizes of C types: of use to tensors only
    value = _run(stream)
    if _run(stream) != []:
        raise TorchPickleError("it holds tensors; lists, dictionaries and strings are expected.")
    return value


class _Machine:
    """The stack, marks and memo of a pickle under way."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.containers = 0

    def push_container(self, value: list[Any] | dict[str, Any] | tuple[Any, ...]) -> None:
        self.containers += 1
        if self.containers > _MAX_CONTAINERS:
            raise TorchPickleError(f"more than {_MAX_CONTAINERS} lists and dictionaries.")
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def pop(self, count: int) -> list[Any]:
        # Never below a mark, nor below the bottom, as a slice would silently do.
        if len(self.stack) - count < (self.marks[-1] if self.marks else 0):
            raise TorchPickleError("an instruction finds too few values.")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def top(self) -> Any:
        (value,) = self.pop(1)
        self.stack.append(value)
        return value

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise TorchPickleError(f"appends to a {type(target).__name__}.")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict):
            raise TorchPickleError(f"sets a key of a {type(target).__name__}.")
        target.update(_as_dict(items))

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()


def _as_dict(items: list[Any]) -> dict[str, Any]:
    keys = items[::2]
    for key in keys:
        # Hashing a tuple of tuples of one tuple takes for ever; and nothing else is expected.
        if not isinstance(key, str):
            raise TorchPickleError(f"a dictionary's key is a {type(key).__name__}, not a string.")
    return dict(zip(keys, items[1::2], strict=True))


def _text(value: str) -> str:
    if not value.isascii():
        value.encode()  # lone surrogates, which no table can hold
    return value


def _python2_text(value: str) -> str:
    # pickletools gives every byte of such a string as one character.
    return value.encode("latin-1").decode()


def _push(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


_INSTRUCTIONS: Final[dict[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "INT": _push,
    "LONG": _push,
    "LONG1": _push,
    "BININT": _push,
    "BININT1": _push,
    "BININT2": _push,
    "FLOAT": _push,
    "BINFLOAT": _push,
    "UNICODE": lambda machine, text: machine.stack.append(_text(text)),
    "SHORT_BINUNICODE": lambda machine, text: machine.stack.append(_text(text)),
    "BINUNICODE": lambda machine, text: machine.stack.append(_text(text)),
    "BINUNICODE8": lambda machine, text: machine.stack.append(_text(text)),
    "STRING": lambda machine, text: machine.stack.append(_python2_text(text)),
    "BINSTRING": lambda machine, text: machine.stack.append(_python2_text(text)),
    "SHORT_BINSTRING": lambda machine, text: machine.stack.append(_python2_text(text)),
    "EMPTY_LIST": lambda machine, _: machine.push_container([]),
    "EMPTY_DICT": lambda machine, _: machine.push_container({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push_container(()),
    "LIST": lambda machine, _: machine.push_container(machine.pop_to_mark()),
    "DICT": lambda machine, _: machine.push_container(_as_dict(machine.pop_to_mark())),
    "TUPLE": lambda machine, _: machine.push_container(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push_container(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push_container(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push_container(tuple(machine.pop(3))),
    "APPEND": lambda machine, _: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "PUT": lambda machine, index: machine.remember(index),
    "BINPUT": lambda machine, index: machine.remember(index),
    "LONG_BINPUT": lambda machine, index: machine.remember(index),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
}


def _run(stream: BinaryIO) -> Any:
    """Carry out one pickle, up to and with its STOP; the stream stands behind it."""
    machine = _Machine()
    try:
        for instruction, argument, position in pickletools.genops(stream):
            if instruction.name == "STOP":
                (value,) = machine.pop(1)
                return value
            carry_out = _INSTRUCTIONS.get(instruction.name)
            if carry_out is None:
                raise TorchPickleError(
                    f"instruction {instruction.name} at byte {position}: only lists, dictionaries, "
                    "strings and numbers are read, and nothing in the file is run."
                )
            carry_out(machine, argument)
    except (ValueError, IndexError, KeyError, struct.error) as error:
        if isinstance(error, TorchPickleError):
            raise
        raise TorchPickleError(f"damaged or cut off: {type(error).__name__}: {error}") from error
    raise TorchPickleError("ends without a STOP.")
