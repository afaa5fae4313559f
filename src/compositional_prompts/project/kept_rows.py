"""``compositional-prompts rows``: what the row store has, removing some of it, reading it all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compositional_prompts.compute.rows.row_store import Computed, RowStore
from compositional_prompts.pipeline.section import KeptRows
from compositional_prompts.project.run_sharing import counted

_SHOWN_DIGITS = 8
"""Of a digest: enough to tell two apart."""

_SHOWN_VALUES = 6
"""Of a list; of a longer one only how many."""

_DAY = 24 * 3600


def listing(kept: KeptRows, now: float) -> str:
    """Every computation: rows, size, when it was last used, and what decides its rows.

    Args:
        kept: the section ``base.rows``.
        now: seconds since 1970.

    Raises:
        RowStoreError: the path has something else.
    """
    store = _store(kept)
    computations = store.computations() if store else []
    if store is None or not computations:
        return f"{kept.path} holds no rows: the first `dvc repro` puts some there."
    lines, total = [], 0
    for computed in computations:
        rows = store.count_rows(computed)
        total += rows
        lines += [
            f"{_called(computed)}  {counted(rows, 'row')}, {_mib(computed.bytes)}, "
            f"{_ago(now - computed.used)}",
            *(f"    {words}" for words in _decided_by(computed.description)),
        ]
    size = sum(computed.bytes for computed in computations)
    lines.append(
        f"{kept.path}: {counted(len(computations), 'computation')}, {counted(total, 'row')}, "
        f"{_mib(size)} of at most {kept.max_gib:g} GiB."
    )
    return "\n".join(lines)


def pruned(
    kept: KeptRows,
    *,
    to_gib: float | None = None,
    only: str | None = None,
    everything: bool = False,
) -> tuple[list[str], bool]:
    """Remove rows; none that a process has open.

    Args:
        kept: the section ``base.rows``.
        to_gib: remove what was not used for longest until so much is left; by default
            ``base.rows.max_gib``.
        only: remove this computation, ``NAME`` or ``NAME/FINGERPRINT``, the latter's beginning.
        everything: remove all.

    Returns:
        What was done, a sentence each, and whether all of it could be.

    Raises:
        ValueError: there is no such computation.
        RowStoreError: the store cannot be used.
    """
    store = _store(kept)
    there = store.computations() if store else []
    if only is not None:
        asked = [computed for computed in there if _is_called(computed, only)]
        if not asked:
            names = ", ".join(dict.fromkeys(computed.name for computed in there)) or "none"
            raise ValueError(f"{kept.path} has no computation {only}; it has: {names}.")
        gone = [computed for computed in asked if store and store.remove(computed)]
    else:
        limit = 0.0 if everything else (kept.max_gib if to_gib is None else to_gib) * 2**30
        gone = store.prune(limit) if store else []
        left = [computed for computed in there if computed not in gone]
        asked = gone + (left if sum(computed.bytes for computed in left) > limit else [])
    said = [f"removed {_called(computed)}  {_mib(computed.bytes)}" for computed in gone]
    held = [computed for computed in asked if computed not in gone]
    said += [f"kept {_called(computed)}: a process has it open" for computed in held]
    return said or ["There is nothing to remove."], not held


def verified(kept: KeptRows, say: Callable[[str], object]) -> bool:
    """Read every row and compare it with its checksum; what is damaged is set aside.

    Args:
        kept: the section ``base.rows``.
        say: is told of every computation.

    Returns:
        Whether all is sound.

    Raises:
        RowStoreError: the store cannot be used.
    """
    store = _store(kept)
    damaged: list[Path] = []
    computations = store.computations() if store else []
    for computed in computations:
        found = store.verify(computed) if store else []
        damaged += found
        for path in found:
            say(f"{path} is damaged: the next run computes again what it needs of its rows")
        if not found:
            say(f"{_called(computed)}  {_mib(computed.bytes)} are sound")
    if not computations:
        say(f"{kept.path} holds no rows.")
    return not damaged


def _store(kept: KeptRows) -> RowStore | None:
    """The store as it is; None where it is not there, so that looking makes none."""
    return RowStore(kept.folder, math.inf) if kept.folder.exists() else None


def _called(computed: Computed) -> str:
    return f"{computed.name}/{computed.fingerprint[:_SHOWN_DIGITS]}"


def _is_called(computed: Computed, asked: str) -> bool:
    name, _, fingerprint = asked.partition("/")
    return computed.name == name and computed.fingerprint.startswith(fingerprint)


def _decided_by(description: Mapping[str, Any]) -> list[str]:
    """Settings in one line, libraries and code in another."""
    settings = _words(description.get("settings", {}))
    batch = description.get("batch")
    if batch is not None:
        settings.append(f"batch {batch}")
    rest = _words(description.get("libraries", {}))
    if "code" in description:
        rest.append(f"code {_value(description['code'])}")
    return [", ".join(words) for words in (settings, rest) if words]


def _words(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    words = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            words += _words(value, f"{prefix}{key}.")
        else:
            words.append(f"{prefix}{key} {_value(value)}")
    return words


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        plain = all(isinstance(one, str | int | float) for one in value)
        if plain and len(value) <= _SHOWN_VALUES:
            return "[" + ", ".join(map(_value, value)) + "]"
        return f"[{len(value)} values]"
    text = str(value)
    is_digest = len(text) >= 32 and not set(text) - set("0123456789abcdef")
    return text[:_SHOWN_DIGITS] if is_digest else text


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _ago(seconds: float) -> str:
    if seconds < _DAY:
        return time.strftime("used at %H:%M", time.localtime(time.time() - seconds))
    return f"used {counted(int(seconds // _DAY), 'day')} ago"
