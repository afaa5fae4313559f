"""Records of JSON, one at a time."""

import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.files.records.json_records import (
    JsonError,
    JsonRecord,
    json_at,
    json_lines,
    json_lists,
)


def lists(text: str | bytes) -> list[JsonRecord]:
    """The records of a file, each the same when it is read again."""
    file = io.BytesIO(text.encode() if isinstance(text, str) else text)
    found = list(json_lists(file, "a.json"))
    assert [json_at(file, "a.json", one.start, one.size) for one in found] == [
        one.value for one in found
    ]
    return found


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(st.text(max_size=4), VALUE, max_size=4), max_size=5)


@given(RECORDS, st.sampled_from([None, 1, "\t"]), st.booleans(), st.sampled_from(["", "\ufeff"]))
def test_a_list_is_read_as_json_reads_it(
    records: list[dict[str, Any]], indent: Any, ascii_only: bool, mark: str
) -> None:
    try:
        text = mark + json.dumps(records, indent=indent, ensure_ascii=ascii_only)
        content = text.encode()
    except UnicodeEncodeError:
        return
    assert [one.value for one in lists(content)] == records
    assert [one.number for one in lists(content)] == list(range(1, len(records) + 1))


def test_lists_of_a_document_are_read_whatever_stands_beside_them() -> None:
    text = json.dumps(
        {"info": {"x": [1]}, "images": [{"id": 1}], "n": 12, "words": ["a"], "notes": [{"id": 2}]}
    )
    assert [(one.member, one.value) for one in lists(text)] == [
        ("images", {"id": 1}),
        ("notes", {"id": 2}),
    ]
    assert lists("{}") == lists("[]") == []


def test_records_that_lie_across_what_is_read_at_once() -> None:
    records = [{"n": n, "text": "\u9774" * (n % 7 * 9000)} for n in range(60)]
    assert [one.value for one in lists(json.dumps(records, ensure_ascii=False))] == records


def test_memory_does_not_grow_with_the_file() -> None:
    def peak(rows: int) -> int:
        file = io.BytesIO(
            json.dumps([{"caption": "a shoe " * 9, "id": n} for n in range(rows)]).encode()
        )
        tracemalloc.start()
        try:
            assert sum(1 for _ in json_lists(file, "a.json")) == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(40_000) < peak(4_000) + 2**16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: not JSON of records: expected '\{'"),
        ("7", r"line 1: .*expected '\{'"),
        ('[{"a": 1}\n{"a": 2}]', r"line 2: .*expected ','"),
        ('[{"a": 1},\n]', r"line 2: .*nothing follows the comma"),
        ('[{"a": 1},\n{"a": ]', r"line 2: .*Expecting value"),
        ('[{"a": 1}', r"line 1: .*expected ','"),
        ('[{"a": 1}, 5]', r"entry 2 is no object"),
        ('{"a": 1,\n7: 2}', r"line 2: .*expected the name of a member"),
        ('{"a" 1}', r"expected ':'"),
        ("[]\n[]", r"line 2: .*the document ends before this"),
        ("[" + "[" * 100_000, r"nested too deeply"),
        (b'[{"a": "\xff"}]', r"not UTF-8"),
        ("[]".encode("utf-16"), r"the file is UTF-16"),
    ],
)
def test_what_is_no_list_of_records_is_told_by_its_line(text: str | bytes, message: str) -> None:
    with pytest.raises(JsonError, match=rf"^a\.json.*{message}"):
        lists(text)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for text in (content, b"[" + content, b'{"a": [' + content):
        try:
            lists(text)
        except JsonError as error:
            assert str(error).startswith("a.json")


def test_lines() -> None:
    file = io.BytesIO(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": "\xc3\xa9"}')
    found = list(json_lines(file, "a.jsonl"))
    assert [(one.number, one.value) for one in found] == [(1, {"a": 1}), (3, {"a": "\xe9"})]
    assert [json_at(file, "a", one.start, one.size) for one in found] == [{"a": 1}, {"a": "\xe9"}]
    file.seek(found[1].start)
    file.write(b"{")
    file.write(b"}")
    with pytest.raises(JsonError, match="was changed while it was read"):
        json_at(file, "a", found[1].start, found[1].size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n[1]\n', "line 2: a list, expected an object"),
        (b'{"a": 1}\n{"a"\n', "line 2: not JSON"),
        (b'{"a": "\xff"}\n', "line 1: byte 0xff is not UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "line 1: not JSON"),
        (b'{"a": ' + b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_lines_that_are_no_records(content: bytes, message: str) -> None:
    with pytest.raises(JsonError, match=rf"^a\.jsonl, {message}"):
        list(json_lines(io.BytesIO(content), "a.jsonl"))
