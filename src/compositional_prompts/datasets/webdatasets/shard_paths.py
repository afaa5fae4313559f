"""The tar files that a pattern names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from braceexpand import braceexpand

_ENDINGS: Final = (".tar", ".tar.gz", ".tgz")
_SPECIAL: Final = re.compile(r"[*?\[{]")
_ADDRESS: Final = re.compile(r"pipe:|[A-Za-z][A-Za-z0-9+.-]*://")
_NAMED: Final = 3


class ShardError(ValueError):
    """The tar files of a data set are not there, or hold no samples as expected."""


class Shard(NamedTuple):
    """A tar file.

    Attributes:
        path: of it.
        name: its path below the folder that the pattern begins with, without the ending: the same
            whatever other shards there are.
    """

    path: Path
    name: str


def find_shards(pattern: str, parameter: str) -> list[Shard]:
    """The tar files that ``pattern`` names, in its order, those of a wildcard sorted.

    Args:
        pattern: a local path with braces (``{00000..00012}``, ``{train,val}``), wildcards (``*``,
            ``?``, ``[0-9]``, ``**``) and ``~``.
        parameter: its name, for messages.

    Raises:
        ShardError: it names an address, a file that is not there, or one twice; or none at all.
    """
    if _ADDRESS.match(pattern):
        raise ShardError(
            f"{parameter} is {pattern!r}: tars are read from local paths alone; fetch them first."
        )
    expanded = str(Path(pattern).expanduser())
    special = _SPECIAL.search(expanded)
    fixed = expanded[: special.start()] if special else expanded
    folder = Path(fixed[: fixed.rfind("/") + 1])
    try:
        patterns = list(braceexpand(expanded))
    except ValueError as error:
        raise ShardError(f"{parameter} is {pattern!r}: a brace is not closed.") from error
    paths = [path for one in patterns for path in _matching(one, parameter)]
    shards: list[Shard] = []
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ShardError(f"{parameter} names {path} twice.")
        seen.add(path.resolve())
        name = path.relative_to(folder).as_posix()
        ending = next((one for one in sorted(_ENDINGS, key=len) if name.endswith(one)), "")
        shards.append(Shard(path, name.removesuffix(ending)))
    twice = {shard.name for shard in shards}
    if len(twice) < len(shards):
        raise ShardError(
            f"{parameter}: two of the tars differ in their ending alone (.tar and .tar.gz)."
        )
    return shards


def _matching(path: str, parameter: str) -> Iterator[Path]:
    if not glob.has_magic(path):
        if not Path(path).is_file():
            raise ShardError(
                f"{parameter}: there is no file {path} (relative paths start at the root of the "
                "project)."
            )
        yield Path(path)
        return
    found = [Path(one) for one in sorted(glob.glob(path, recursive=True))]  # noqa: PTH207
    files = [one for one in found if one.is_file()]
    if not files:
        raise ShardError(
            f"{parameter}: no file is like {path} (relative paths start at the root of the "
            "project)."
        )
    others = [str(one) for one in files if not one.name.endswith(_ENDINGS)]
    if others:
        raise ShardError(
            f"{parameter}: {path} also fits {', '.join(others[:_NAMED])}, which ends in none of "
            f"{', '.join(_ENDINGS)}: write the pattern closer."
        )
    yield from files
