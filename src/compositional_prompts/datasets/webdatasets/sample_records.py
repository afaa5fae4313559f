"""What a sample of a tar says of its images, as a record: values by column."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from compositional_prompts.datasets.webdatasets.tar_samples import CLASS, JSON, Sample

KEY: Final = "__key__"
SHARD: Final = "__shard__"

_DOWNLOADED: Final = "success"
_SHOWN: Final = 200


def read_record(sample: Sample) -> dict[str, Any]:
    """The keys of its JSON; its other texts, by what stands behind the key; and its own names.

    What is not to be read is the sample's problem, and then is not in the record.

    Returns:
        :data:`KEY` is the sample's key, :data:`SHARD` its tar. ``cls`` is a number where it is
        written as one. Of a member and a key of the JSON of one name the member counts.
    """
    record: dict[str, Any] = {}
    for extension, content in sample.texts.items():
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            reason = "unreadable_json" if extension == JSON else "unreadable_text"
            sample.fail(reason, f"{extension}: byte {error.start} is not UTF-8")
            continue
        if extension == JSON:
            record = _json(sample, text) | record
        elif extension.rpartition(".")[2] == CLASS:
            record[extension] = _number(text.strip())
        else:
            record[extension] = text
    return record | {KEY: sample.key, SHARD: sample.shard.name}


def download_status(record: Mapping[str, Any]) -> str | None:
    """What img2dataset says of an image that it could not have."""
    status = record.get("status")
    if not isinstance(status, str) or status == _DOWNLOADED:
        return None
    said = (status, record.get("error_message"))
    return " ".join(one[:_SHOWN] for one in said if isinstance(one, str))


def _json(sample: Sample, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        # Halves of surrogate pairs, which no table can hold.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        sample.fail("unreadable_json", f"json: {str(error)[:_SHOWN]}")
        return {}
    if not isinstance(value, dict):
        sample.fail("unreadable_json", f"json: a {type(value).__name__}, expected an object")
        return {}
    return value


def _number(text: str) -> int | str:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 10 else text
