"""JSON files that are an object each: what a stage or a library says of what lies beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compositional_prompts.files.outputs import DamagedOutputError, reading, require_outputs


def read_json_object(path: Path, *keys: str) -> dict[str, Any]:
    """What a JSON file says.

    Args:
        path: the file, in UTF-8.
        keys: those that it must have.

    Raises:
        MissingOutputError: it is not there.
        DamagedOutputError: it is no JSON object, or lacks a key.
    """
    require_outputs(path)
    with reading(path, "JSON object in UTF-8"):
        document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise DamagedOutputError(
            f"{path} holds a {type(document).__name__}: expected a JSON object.", path
        )
    lacking = [key for key in keys if key not in document]
    if lacking:
        raise DamagedOutputError(
            f"{path} is of another version: it has no {lacking[0]!r}, expected a JSON object with "
            f"{', '.join(keys)}.",
            path,
        )
    return document
