"""Files of torch.save: read as written, or refused by one error; nothing in them is run."""

import io
import os
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compositional_prompts.compute import torch_files
from compositional_prompts.compute.torch_files import (
    TorchFileError,
    read_plain_values,
    read_state_dict,
)

MAGIC = 0x1950A86A20F9469CFC6C
FORMATS = pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
ENTRIES = [
    {
        "image": f"Faux.Leather_Boots.Ankle/{number}.{number % 3}.jpg",
        "_image": f"Boots/Ankle/Børn {number % 2}/{number}.jpg",
        "attr": "Faux.Leather",
        "obj": "Boots.Ankle",
        "set": ("train", "val", "NA")[number % 3],
    }
    for number in range(40)
]
STATE = {"weight": torch.randn(300, 300), "bias": torch.randn(300)}


def saved(value: Any, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def legacy(pickled: bytes) -> bytes:
    """A file of the old format around the pickle of its object."""
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    start = b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1001, info))
    return start + pickled + pickle.dumps([], 2)


def zipped(pickled: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def read(content: bytes) -> Any:
    return read_plain_values(content, "list.t7")


class Touch:
    """Unpickled by a loader that runs code, it makes a file."""

    def __init__(self, function: Callable[..., Any], *arguments: str) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


# --- Plain values --------------------------------------------------------------------------------


@FORMATS
def test_a_list_of_photos_is_read_back(zipped: bool) -> None:
    assert read(saved(ENTRIES, zipped)) == ENTRIES


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@FORMATS
@given(VALUES)
def test_any_plain_value_is_read_back_with_its_types(zipped: bool, value: Any) -> None:
    assert repr(read(saved(value, zipped))) == repr(value)


@pytest.mark.parametrize("wrap", [legacy, zipped])
def test_strings_of_python_2_are_utf8(wrap: Any) -> None:
    # [{'attr': 'Børn'}] with byte strings, as Python 2 pickled them.
    content = wrap(b"\x80\x02]q\x00}q\x01U\x04attrq\x02U\x05B\xc3\xb8rnq\x03sa.")
    assert read(content) == [{"attr": "Børn"}]
    with pytest.raises(TorchFileError, match=r"^list\.t7 is no whole file .*decode byte 0xff"):
        read(wrap(b"\x80\x02U\x01\xff."))


@FORMATS
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2), r"list\.t7: a Tensor; only lists"),
        ([{}, {"a": [1, torch.ones(2)]}], r"list\.t7 at \[1\]\['a'\]\[1\]: a Tensor; only lists"),
        ({"b": OrderedDict(a=1)}, r"list\.t7 at \['b'\]: a OrderedDict"),
        ([(1, {1, 2})], r"list\.t7 at \[0\]\[1\]: a set"),
        ([{torch.float32: 1}], r"list\.t7 at \[0\]: a dtype"),
        ([[[[[[[[b"bytes"]]]]]]]], r"list\.t7 at (\[0\]){6}\.\.\.: a bytes"),
        ([{"attr": "\ud800"}], r"list\.t7 at \[0\]\['attr'\]: a text that is not UTF-8"),
        ([{"\ud800": "attr"}], r"list\.t7 at \[0\]: a text that is not UTF-8"),
    ],
)
def test_other_values_are_refused_with_their_place(zipped: bool, value: Any, message: str) -> None:
    with pytest.raises(TorchFileError, match=f"^{message}"):
        read(saved(value, zipped))


def test_nesting_has_no_limit_and_values_may_hold_themselves() -> None:
    value = read(zipped(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."))
    depth = 0
    while value:
        (value,) = value
        depth += 1
    assert depth == 199_999
    # Lists of the same list twice, sixty deep: walked naively, 2 ** 60 lists.
    assert len(read(zipped(b"\x80\x02]q\x00" + b"](h\x00h\x00eq\x00" * 60 + b"."))) == 2
    itself = read(zipped(b"\x80\x02]q\x00h\x00a."))
    assert itself[0] is itself


def test_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipped(pickle.dumps("a" * 10**6, 2), zipfile.ZIP_DEFLATED)
    assert read(bomb) == "a" * 10**6
    monkeypatch.setattr(torch_files, "MAX_PLAIN_BYTES", 10**5)
    assert len(bomb) < 10**5
    with pytest.raises(TorchFileError, match=r"bytes are packed in it, more than the 100000 read"):
        read(bomb)
    with pytest.raises(TorchFileError, match="more than the 100000 bytes"):
        read(b"\x00" * 200_000)


# --- State dicts ---------------------------------------------------------------------------------


def in_parallel(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@FORMATS
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        in_parallel(STATE),
        {"epoch": 3, "state_dict": in_parallel(STATE)},
        {"model": STATE, "optimizer": {"lr": [5e-4], "name": "Adam"}},
    ],
)
def test_a_state_dict_is_found(zipped: bool, content: Any, tmp_path: Path) -> None:
    path = tmp_path / "val_best.pt"
    path.write_bytes(saved(content, zipped))
    found = read_state_dict(path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())


@FORMATS
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, expected tensors by name"),
        ({}, "holds nothing, expected tensors by name"),
        ({"a": 1.0}, "'a' is float, expected a dense tensor"),
        ({"a": torch.eye(2).to_sparse()}, r"'a' is torch\.sparse_coo, expected a dense tensor"),
        ({"key": {1: STATE}}, "'key' is dict"),
        ({1: STATE["bias"]}, "found the key 1"),
    ],
)
def test_what_is_no_state_dict_is_refused(
    zipped: bool, content: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "val_best.pt"
    path.write_bytes(saved(content, zipped))
    with pytest.raises(TorchFileError, match=f"^{re.escape(str(path))}.*{message}"):
        read_state_dict(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pt is missing"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_state_dict(tmp_path)


# --- Code, damage, and other files ---------------------------------------------------------------


# Of modules that torch blocks it says so in other words.
@pytest.mark.parametrize("name", ["posix.mknod", "shutil.copyfile"])
@FORMATS
def test_nothing_in_the_file_is_run(zipped: bool, name: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "val_best.pt", tmp_path / "executed"
    touch = (os.mknod,) if name == "posix.mknod" else (shutil.copyfile, __file__)
    path.write_bytes(saved({"weight": STATE["weight"], "hook": Touch(*touch, str(marker))}, zipped))
    asks = rf"asks for {re.escape(name)}, and Python code is not run"
    with pytest.raises(TorchFileError, match=rf"^{re.escape(str(path))} {asks}"):
        read_state_dict(path)
    with pytest.raises(TorchFileError, match=rf"^list\.t7 {asks}"):
        read(path.read_bytes())
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # it would have been


@pytest.mark.parametrize("wrap", [legacy, zipped])
@pytest.mark.parametrize(
    "pickled",
    [
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02Pname\n.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02]}b.",
        b"\x80\x05\x95\x00\x00\x00\x00\x00\x00\x00\x00\x97.",
        b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"abc.",
        b"\x80\x02X" + (2**31).to_bytes(4, "little") + b"abc.",
        b"\x80\x02K\x01K\x02a.",
        b"\x80\x02]K\x01K\x02s.",
        b"\x80\x02e.",
        b"\x80\x02h\x07.",
        b"\x80\x02.",
        b"\x80\x02]",
    ],
)
def test_instructions_that_make_no_plain_value_are_refused(wrap: Any, pickled: bytes) -> None:
    with pytest.raises(TorchFileError, match=r"^list\.t7 (is no whole file|asks for os\.system)"):
        read(wrap(pickled))


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


WHOLE = saved(STATE, zipped=True)
OLD = saved(STATE, zipped=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "EOFError"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Unsupported operand 118"),
        (pickle.dumps(ENTRIES, 2), "Invalid magic number; corrupt file?"),
        (pickle.dumps(MAGIC, 2) + pickle.dumps(1000, 2), "Invalid protocol version: 1000"),
        (OLD[:-1000], ""),
        (WHOLE[: len(WHOLE) // 2], "File is not a zip file"),
        (flipped(WHOLE, len(WHOLE) // 2), r"the checksum of \S+data/0 is wrong"),
        (flipped(WHOLE, WHOLE.rindex(b"PK\x01\x02")), "Bad magic number for central directory"),
        (zipped(b"").replace(b"data.pkl", b"data.txt"), "failed locating file data.pkl"),
        (script(), "Cannot use ``weights_only=True`` with TorchScript archives"),
    ],
)
def test_damage_and_other_files_are_told_without_bad_advice(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "val_best.pt"
    path.write_bytes(content)
    for reader, argument in ((read_state_dict, path), (read, content)):
        with pytest.raises(
            TorchFileError, match=rf"no whole file of torch\.save \(.*{message}"
        ) as e:
            reader(argument)
        assert "damaged, cut short or something else. Copy or download it again." in str(e.value)
        assert "weights_only=False" not in str(e.value)
        assert "trust" not in str(e.value)
        assert "\n" not in str(e.value)


LISTS = [saved(ENTRIES[:3], zipped) for zipped in (False, True)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(st.sampled_from(LISTS)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = start + draw(st.integers(0, 12))
        content[start:stop] = draw(st.binary(max_size=12))
    return bytes(content)


@given(damaged() | st.binary(max_size=200).map(legacy) | st.binary(max_size=200).map(zipped))
def test_any_bytes_are_plain_values_or_the_one_error(content: bytes) -> None:
    try:
        value = read(content)
    except TorchFileError as error:
        assert str(error).startswith("list.t7")
    else:
        kinds = (list, dict, tuple, str, int, float, bool, type(None))
        assert isinstance(value, kinds)
