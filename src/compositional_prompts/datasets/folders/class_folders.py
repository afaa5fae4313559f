"""Labels that are the names of the folders that images lie in."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from compositional_prompts.catalog.image_files import FolderError
from compositional_prompts.datasets.columns import ColumnReader, Columns, TruthColumn
from compositional_prompts.datasets.folders.image_labels import Said
from compositional_prompts.datasets.hub.hub_data_set import PAIR_SPLITS
from compositional_prompts.files.sorted_names import SortedNames

LEVELS: Final = ("attribute", "object", "product_id", "title", "split")
"""What the folders of a level may name, beside groups of truth."""

_PARAMETER: Final = "download.folder.labels"

log = logging.getLogger(__name__)


class FolderLabels:
    """What the names of folders say of the images in them.

    An image that lies in fewer folders than there are levels has no label. Of one that lies in
    more, the first count.
    """

    kept_out: Sequence[str] | None = None
    further_captions = 0
    nowhere: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        paths: SortedNames,
        levels: Sequence[str | None],
        truth: Sequence[str],
        missing: Sequence[str],
    ) -> None:
        """Look at all paths.

        Args:
            paths: of the images.
            levels: what the folder of each level names, from the outermost on: one of
                :data:`LEVELS` or of ``truth``; None where it is of no meaning.
            truth: groups of truth.
            missing: names that mean "not known".

        Raises:
            FolderError: no image lies so deep, or one is in no split though others are.
        """
        self._levels = levels
        named = {name: name if name in levels else None for name in LEVELS}
        self._reader = ColumnReader(
            Columns(
                image=None,
                image_id=None,
                product_id=named["product_id"],
                attribute=named["attribute"],
                object=named["object"],
                title=named["title"],
                truth=[TruthColumn(group=one, column=one) for one in truth if one in levels],
            ),
            missing,
        )
        self._named = 0
        deeper, first_deeper = 0, ""
        outermost: set[str] = set()
        for path in paths:
            folders = path.count("/")
            if folders < len(levels):
                if "split" in levels:
                    raise FolderError(
                        f"{_PARAMETER}: {path!r} lies in no folder of a split; move it, or leave "
                        "split out."
                    )
                continue
            self._named += 1
            if folders > len(levels):
                deeper += 1
                first_deeper = first_deeper or path
            if len(outermost) <= len(PAIR_SPLITS):
                outermost.add(path.partition("/")[0])
        self._check(outermost)
        if deeper:
            log.warning(
                "warning: %d images lie in more folders than %s names (first: %r): the inner ones "
                "say nothing",
                deeper,
                _PARAMETER,
                first_deeper,
            )

    def _check(self, outermost: set[str]) -> None:
        if not self._named:
            raise FolderError(
                f"{_PARAMETER}: no image lies in {len(self._levels)} folders, of which the names "
                f"would be {', '.join(name or 'null' for name in self._levels)}."
            )
        if self._levels[0] == "object" and {name.casefold() for name in outermost} <= {
            *PAIR_SPLITS
        }:
            raise FolderError(
                f"{_PARAMETER}: the folders are named {', '.join(sorted(outermost))}, which are "
                "splits and no objects; write [split, object], or [null, object] not to keep them."
            )

    def __len__(self) -> int:
        return self._named

    def of(self, position: int, path: str) -> Said | None:
        """See :class:`~...image_labels.Labels`.

        Raises:
            FolderError: a folder of a split is of none that is known.
        """
        folders = path.split("/")[:-1]
        if len(folders) < len(self._levels):
            return None
        values = {level: name for level, name in zip(self._levels, folders, strict=False) if level}
        described = self._reader.describe(values, path)
        return Said(
            described.product_id,
            self._reader.label(values, "attribute", path),
            self._reader.label(values, "object", path),
            described.title,
            self._split(values, path),
            described.truth,
        )

    def close(self) -> None:
        pass

    def _split(self, values: Mapping[str, str], path: str) -> str | None:
        name = values.get("split")
        if name is None:
            return None
        split = PAIR_SPLITS.get(name.casefold())
        if split is None:
            raise FolderError(
                f"{_PARAMETER}: {path!r} is of the split {name!r}, expected one of "
                f"{', '.join(PAIR_SPLITS)}."
            )
        return split
