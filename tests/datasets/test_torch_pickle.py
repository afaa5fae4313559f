"""Files of torch.save read as plain values: the same as torch reads, and nothing run in any."""

import io
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.datasets import torch_pickle
from compositional_prompts.datasets.torch_pickle import TorchPickleError, read_torch_pickle

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


def saved(value: Any, zipped: bool, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
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
    return buffer.getvalue()


def read(content: bytes) -> Any:
    return read_torch_pickle(content, "list.t7")


@FORMATS
@pytest.mark.parametrize("protocol", range(2, 6))
def test_what_torch_saves_is_read_back(zipped: bool, protocol: int) -> None:
    content = saved(ENTRIES, zipped, protocol)
    assert read(content) == ENTRIES
    if protocol == 2:  # torch's own safe reader knows no other
        assert read(content) == torch.load(io.BytesIO(content), weights_only=True)


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
@given(VALUES, st.integers(2, 5))
def test_any_plain_value_is_read_back_with_its_types(
    zipped: bool, value: Any, protocol: int
) -> None:
    assert repr(read(saved(value, zipped, protocol))) == repr(value)


@pytest.mark.parametrize("protocol", [0, 1])
def test_the_oldest_protocols_are_read(protocol: int) -> None:
    value = [{"é": [1, -2.5, None, True, "x" * 300], "t": (1,)}, {}]
    assert read(legacy(pickle.dumps(value, protocol))) == value


def test_strings_of_python_2_are_read_as_torch_reads_them() -> None:
    # [{'attr': 'Børn'}] with byte strings, as Python 2 pickled them.
    content = legacy(b"\x80\x02]q\x00}q\x01U\x04attrq\x02U\x05B\xc3\xb8rnq\x03sa.")
    assert read(content) == [{"attr": "Børn"}]
    assert read(content) == torch.load(io.BytesIO(content), weights_only=True)
    longer = b"\x80\x02T\x2c\x01\x00\x00" + b"B\xc3\xb8" * 100 + b"."
    assert read(legacy(longer)) == pickle.loads(longer, encoding="utf-8")


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_the_file_is_run(zipped: bool, protocol: int, tmp_path: Path) -> None:
    content = saved([ENTRIES[0], Evil(tmp_path / "run")], zipped, protocol)
    with pytest.raises(TorchPickleError, match=r"list\.t7: instruction (STACK_)?GLOBAL at byte"):
        read(content)
    assert not (tmp_path / "run").exists()
    torch.load(io.BytesIO(content), weights_only=False)
    assert (tmp_path / "run").exists()  # it would have been


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02Pname\n.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02]}b.",
        b"\x80\x05\x95\x00\x00\x00\x00\x00\x00\x00\x00\x97.",
    ],
    ids=["GLOBAL", "INST", "OBJ", "PERSID", "BINPERSID", "EXT1", "BUILD", "NEXT_BUFFER"],
)
@pytest.mark.parametrize("wrap", [legacy, zipped])
def test_every_instruction_that_is_not_for_plain_values_is_refused(
    wrap: Any, pickled: bytes
) -> None:
    with pytest.raises(
        TorchPickleError, match=r"list\.t7: instruction \w+ at byte \d+: only lists"
    ):
        read(wrap(pickled))


@FORMATS
@pytest.mark.parametrize("value", [torch.ones(2), {"a": [torch.ones(2)]}, OrderedDict(a=1), {1, 2}])
def test_tensors_and_classes_are_refused(zipped: bool, value: Any) -> None:
    with pytest.raises(TorchPickleError, match="nothing in the file is run"):
        read(saved(value, zipped))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"abc.", "damaged or cut off"),
        (b"\x80\x02X" + (2**31).to_bytes(4, "little") + b"abc.", "damaged or cut off"),
        (b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc.", "damaged or cut off"),
        (b"\x80\x02\x8b" + (2**30).to_bytes(4, "little") + b"abc.", "damaged or cut off"),
        (b"I" + b"9" * 10**5 + b"\n.", "damaged or cut off"),
        (b"\x80\x02}K\x01K\x01\x86q\x00" + b"h\x00\x86q\x00" * 60 + b"K\x01s.", "is a tuple, not"),
        (b"\x80\x02K\x01K\x02a.", "appends to a int"),
        (b"\x80\x02]K\x01K\x02s.", "sets a key of a list"),
        (b"\x80\x02(K\x01a.", "too few values"),
        (b"\x80\x02e.", "damaged or cut off"),
        (b"\x80\x02h\x07.", "damaged or cut off"),
        (b"\x80\x02}(U\x01au.", "damaged or cut off"),
        (b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80.", "damaged or cut off"),
        (b"\x80\x02U\x01\xff.", "damaged or cut off"),
        (b"\x80\x02.", "too few values"),
        (b"\x80\x02]", "damaged or cut off"),
    ],
)
def test_bombs_and_nonsense_are_told_within_little_memory(pickled: bytes, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(TorchPickleError, match=message):
        read(zipped(pickled))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_a_memo_index_allocates_nothing() -> None:
    # Python's own unpickler makes an array of as many places.
    assert read(zipped(b"\x80\x02]r\xff\xff\xff\x7f.")) == []


def test_nesting_has_no_limit_and_no_recursion() -> None:
    value = read(zipped(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."))
    depth = 0
    while value:
        (value,) = value
        depth += 1
    assert depth == 199_999


def test_a_protocol_of_endless_text_is_not_shown() -> None:
    # Lists of the same list twice, sixty deep: as text, 2 ** 60 brackets.
    doubled = b"\x80\x02]q\x00" + b"](h\x00h\x00eq\x00" * 60 + b"."
    with pytest.raises(TorchPickleError, match="protocol list, expected 1001"):
        read(pickle.dumps(MAGIC, 2) + doubled)


def test_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped(pickle.dumps([[]] * 3 + [{}, ()], 2), zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(torch_pickle, "_MAX_CONTAINERS", 4)
    assert read(content) == [[], [], [], {}, ()]
    monkeypatch.setattr(torch_pickle, "_MAX_CONTAINERS", 3)
    with pytest.raises(TorchPickleError, match="more than 3 lists"):
        read(content)
    bomb = zipped(pickle.dumps("a" * 10**6, 2), zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(torch_pickle, "MAX_BYTES", 10**5)
    assert len(bomb) < 10**5
    with pytest.raises(TorchPickleError, match=r"its data\.pkl has more than the 100000 bytes"):
        read(bomb)
    with pytest.raises(TorchPickleError, match="200000 bytes, more than"):
        read(b"\x00" * 200_000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or cut off"),
        (pickle.dumps(ENTRIES, 2), "does not begin as a file of torch.save does; a bare pickle"),
        (pickle.dumps(MAGIC, 2) + pickle.dumps(1000, 2), "protocol 1000, expected 1001"),
        (legacy(pickle.dumps(ENTRIES, 2))[:-6], "damaged or cut off"),
        (
            legacy(pickle.dumps(ENTRIES, 2)).removesuffix(pickle.dumps([], 2))
            + pickle.dumps(["0"], 2),
            "it holds tensors",
        ),
        (b"<!DOCTYPE html><html>", "damaged or cut off|instruction"),
    ],
)
def test_other_files_are_told(content: bytes, message: str) -> None:
    with pytest.raises(TorchPickleError, match=message):
        read(content)


def test_a_zip_without_or_with_two_data_is_told() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps([], 2))
        archive.writestr("b/data.pkl", pickle.dumps([], 2))
    with pytest.raises(TorchPickleError, match=r"one data\.pkl in the zip file, found 2"):
        read(buffer.getvalue())


WHOLE = [saved(ENTRIES[:3], zipped) for zipped in (False, True)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = start + draw(st.integers(0, 12))
        content[start:stop] = draw(st.binary(max_size=12))
    return bytes(content)


@given(damaged() | st.binary(max_size=200).map(legacy) | st.binary(max_size=200).map(zipped))
def test_any_bytes_are_plain_values_or_the_one_error(content: bytes) -> None:
    try:
        value = read(content)
    except TorchPickleError as error:
        assert str(error).startswith("list.t7: ")
    else:
        kinds = (list, dict, tuple, str, int, float, bool, type(None))
        assert isinstance(value, kinds)
