"""Reading ``metrics/*.json``, where each stage leaves what it measured.

A file that is not there is an error. Single metrics may be null or absent where a data set gives
nothing to measure; they read as None.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compositional_prompts.files.outputs import DamagedOutputError, require_outputs

Metrics = Mapping[str, Any]


class ReportInputError(DamagedOutputError):
    """A file that stages measured into is not as its stage writes it."""


def number(metrics: Metrics, *keys: str) -> float | None:
    """The number at a path of keys; None where it is null or the path ends early.

    Raises:
        ReportInputError: something other than a number stands there.
    """
    value: Any = metrics
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReportInputError(f"metric {'.'.join(keys)} must be a number, found {value!r}.")
    return float(value)


def bounds(metrics: Metrics, *keys: str) -> tuple[float, float] | None:
    """The interval of the figure at a path of keys; None where it has none.

    Raises:
        ReportInputError: something other than two numbers stands there.
    """
    *path, name = keys
    value: Any = metrics
    for key in (*path, f"{name}_interval"):
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
    ):
        raise ReportInputError(
            f"metric {'.'.join(keys)}_interval must be two numbers, found {value!r}."
        )
    low, high = value
    return float(low), float(high)


def numbers(metrics: Metrics, *keys: str) -> dict[str, float]:
    """All numbers below a path of keys, nested names joined by a dot; nothing where it is null."""
    value: Any = metrics
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(_flatten(value, "")) if isinstance(value, Mapping) else {}


def _flatten(value: Metrics, prefix: str) -> Iterator[tuple[str, float]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{key}.")
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield f"{prefix}{key}", float(item)


def read_metrics(path: Path) -> Metrics:
    """The metrics of one stage.

    Raises:
        MissingOutputError: the file is missing.
        ReportInputError: it holds no JSON object.
    """
    require_outputs(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportInputError(f"{path} is not JSON: {error}.", path) from error
    if not isinstance(document, dict):
        raise ReportInputError(
            f"{path} must hold a JSON object, found {type(document).__name__}.", path
        )
    return document
