"""The Parquet files of a data set in the hub's layout: which are of which split, and their classes.

The layout (subsets and splits in the card, or in the names of files) is what the ``datasets``
library says it is, which is asked here. Nothing of a repository is ever run: its card is data, and
its files are Parquet or passed over.
"""

from __future__ import annotations

import glob
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa

if TYPE_CHECKING:
    from datasets import Features

log = logging.getLogger(__name__)

CARD: Final = "README.md"
EXTENSION: Final = ".parquet"
_EVERY_FILE: Final = f"*{EXTENSION}"


class HubError(ValueError):
    """A data set of the hub cannot be had, or is not in the expected layout."""


class SplitFile(NamedTuple):
    """A Parquet file of a data set.

    Attributes:
        path: where it is.
        name: its path below the data set's root, with ``/``.
        split: None where the layout puts it in none.
    """

    path: Path
    name: str
    split: str | None


class HubFiles(NamedTuple):
    """The files to read, by name, and the features that the card declares for their columns."""

    files: list[SplitFile]
    features: Mapping[str, Any]


class _Subset(NamedTuple):
    """Part of a data set, as its card says.

    Attributes:
        below: the folder of its files, relative to the root.
        patterns: of its files, by split, relative to that; None where names of files tell.
        features: declared for its columns.
    """

    below: str
    patterns: Mapping[str, Sequence[str]] | None
    features: Mapping[str, Any]


def find_files(
    source: str,
    revision: str | None,
    subset: str | None,
    splits: Sequence[str] | None,
    section: str,
) -> HubFiles:
    """The Parquet files of a local folder, or of a data set on the hub (fetched into its cache).

    Args:
        source: a folder, or a data set's name on the hub (OWNER/NAME).
        revision: branch, tag or commit on the hub; None for its newest.
        subset: what the hub calls a subset or config; None for the only or the default one.
        splits: the splits to read; None for all files.
        section: of the parameters, for messages.

    Raises:
        HubError: the data set cannot be had, has no such subset or split, or no Parquet; or its
            card cannot be read.
        FileNotFoundError, ValueError: the hub does not give it, as
            :func:`~compositional_prompts.files.hub.fetch_snapshot`.
    """
    # Links stay as they are: files of the hub's cache are links out of its folders.
    folder = Path(os.path.abspath(Path(source).expanduser()))  # noqa: PTH100
    if folder.is_dir():
        found = _subset(folder, subset, section)
    else:
        if source.startswith((".", "/", "~")) or source.count("/") != 1:
            raise HubError(
                f"{section}.source: there is no folder {source}, and a data set on the hub is "
                "named OWNER/NAME."
            )
        # Only where it is needed: the hub's client takes longer to import than most stages.
        from compositional_prompts.files.hub import fetch_snapshot

        # The card says which files are wanted; then both are of one commit.
        folder = _fetch_card(source, revision, section)
        found = _subset(folder, subset, section)
        wanted = _wanted(found, splits)
        folder = fetch_snapshot(source, folder.name, wanted, f"{section}.source", "dataset")
    files = _files(folder, found)
    if not files:
        raise HubError(
            f"empty data set: {source} holds no data/*{EXTENSION}, nor any other. Of what the hub "
            f"has in another form, it may have Parquet too: {section}.revision: "
            "refs/convert/parquet."
        )
    if splits is not None:
        known = sorted({file.split for file in files if file.split is not None})
        for name in splits:
            if name not in known:
                raise HubError(
                    f"{section}.splits: {source} has no split {name!r}; found "
                    f"{', '.join(known) or 'none'}."
                )
        files = [file for file in files if file.split in splits]
    return HubFiles(files, found.features)


def class_names(
    schema: pa.Schema, declared: Mapping[str, Any], file: str
) -> dict[str, Sequence[str]]:
    """The names of the classes that columns hold the numbers of.

    Args:
        schema: of a Parquet file, whose metadata may declare features, as ``datasets`` writes it.
        declared: features of the card, which count before those.
        file: its name, for messages.

    Raises:
        HubError: the features that the file declares cannot be read.
    """
    features = dict(_features_of(schema, file)) | dict(declared)
    names = {column: _names_of(feature) for column, feature in features.items()}
    return {column: found for column, found in names.items() if found is not None}


def _features_of(schema: pa.Schema, file: str) -> Features:
    from datasets import Features

    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info") or {}
        # Features.from_arrow_schema passes over columns declared not null, or of another width.
        return Features.from_dict(info.get("features") or {})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HubError(f"{file}: the features that it declares cannot be read: {error}") from error


def _names_of(feature: Any) -> Sequence[str] | None:
    from datasets import ClassLabel

    inner = getattr(feature, "feature", feature)  # of a list
    return inner.names if isinstance(inner, ClassLabel) else None


def _subset(folder: Path, subset: str | None, section: str) -> _Subset:
    """What the card of a data set says of a subset of it.

    Raises:
        HubError: the card cannot be read, has no such subset, several and none chosen, or names
            files outside of the data set.
    """
    from datasets.data_files import sanitize_patterns
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    card = folder / CARD
    configs, infos = MetadataConfigs(), DatasetInfosDict()
    try:
        text = card.read_text("utf-8") if card.is_file() else ""
        if text.lstrip().startswith("---"):
            data = DatasetCard(text).data
            configs = MetadataConfigs.from_dataset_card_data(data)
            infos = DatasetInfosDict.from_dataset_card_data(data)
        default = configs.get_default_config_name()
    # A card is written by people: what its readers raise for one has no common kind.
    except Exception as error:
        raise HubError(f"{card}: what it declares cannot be read: {error}") from error
    names = list(configs) or list(infos)
    if subset is None:
        subset = default or (names[0] if len(names) == 1 else None)
        if subset is None and names:
            raise HubError(f"{section}.subset: choose one of {', '.join(names)}.")
    elif not names:
        # Where the hub itself converts to Parquet, folders are subsets.
        return _Subset(_inside(subset, f"{section}.subset"), None, {})
    elif subset not in names:
        raise HubError(
            f"{section}.subset: the card names no subset {subset!r}; found {', '.join(names)}."
        )
    config = configs.get(subset or "", {})
    below = _inside(config.get("data_dir") or ".", str(card))
    features = (infos[subset].features if subset in infos else None) or {}
    if "data_files" not in config:
        return _Subset(below, None, features)
    patterns = sanitize_patterns(config["data_files"])
    for pattern in (one for found in patterns.values() for one in found):
        _inside(pattern, str(card))
    return _Subset(below, patterns, features)


def _inside(path: str, where: str) -> str:
    """A path or pattern that stays below the root of its data set.

    Raises:
        HubError: it does not; begins with ``where``.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "::" in path or "://" in path:
        raise HubError(f"{where}: {path!r} names files outside of the data set.")
    return path


def _wanted(subset: _Subset, splits: Sequence[str] | None) -> list[str]:
    """The patterns of the files to fetch, for the hub's client, whose ``*`` goes over ``/``."""
    chosen = [
        pattern
        for split, patterns in (subset.patterns or {}).items()
        if splits is None or split in splits
        for pattern in patterns
    ]
    # Where no file is chosen (the card names no files, or no such split), all are, and it is told.
    found = [(PurePosixPath(subset.below) / one).as_posix() for one in chosen or [_EVERY_FILE]]
    # To the library "**/" may be nothing at all.
    return [*found, *(one.replace("**/", "") for one in found if "**/" in one)]


def _files(folder: Path, subset: _Subset) -> list[SplitFile]:
    """The files of a subset, by name, each once."""
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    below = folder / subset.below
    # What stands for several names in a pattern may stand in the folder's own.
    root = glob.escape(below.as_posix())
    try:
        patterns = subset.patterns or get_data_patterns(root)
        found = DataFilesDict.from_patterns(
            {split: list(names) for split, names in patterns.items()},
            base_path=root,
            allowed_extensions=[EXTENSION],
        )
    except (EmptyDatasetError, FileNotFoundError):
        found = DataFilesDict()
    splits: dict[Path, str | None] = {}
    for split, paths in found.items():
        for path in map(Path, paths):
            if path.suffix == EXTENSION and splits.setdefault(path, str(split)) != str(split):
                raise HubError(f"{path} is of two splits: {splits[path]} and {split}.")
    if subset.patterns is None:
        for path in _every_file(below):
            splits.setdefault(path, None)
    if not any(splits.values()):
        # One split that no name tells is called train.
        splits = dict.fromkeys(splits, "train")
    names = {path.relative_to(folder).as_posix(): path for path in splits}
    for name in names:
        if not name.isprintable():
            raise HubError(f"{folder}: the name of {name!a} is not printable; rename the file.")
    return [SplitFile(names[name], name, splits[names[name]]) for name in sorted(names)]


def _every_file(folder: Path) -> Iterator[Path]:
    for path in folder.rglob(_EVERY_FILE):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith((".", "__")) for part in parts):
            yield path


def _fetch_card(repository: str, revision: str | None, section: str) -> Path:
    """The folder of a commit of a data set, with its card, if it has one.

    Raises:
        FileNotFoundError, ValueError: as
            :func:`~compositional_prompts.files.hub.fetch_snapshot`.
    """
    from huggingface_hub.errors import IncompleteSnapshotError

    from compositional_prompts.files.hub import fetch_snapshot

    try:
        return fetch_snapshot(repository, revision, [CARD], f"{section}.source", "dataset")
    except FileNotFoundError as error:
        cause = error.__cause__
        if not isinstance(cause, IncompleteSnapshotError):
            raise
        log.warning(
            "warning: the card of %s is not in the hub's cache, which is out of reach: names of "
            "files alone say what is of which split, and files what classes are called.",
            repository,
        )
        return Path(cause.snapshot_path)
