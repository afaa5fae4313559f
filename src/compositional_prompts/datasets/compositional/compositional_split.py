"""The layout that data sets of compositional zero-shot learning share.

``compositional-split-natural`` (Purushwalkam et al., "Task-driven modular networks for zero-shot
compositional learning", ICCV 2019; C-GQA: Naeem et al., "Learning graph embeddings for
compositional zero-shot learning", CVPR 2021; VAW-CZSL: Saini et al., "Disentangling visual
embeddings for attributes and objects", CVPR 2022): a list of photos with attribute, object and set
(``metadata_compositional-split-natural.t7``), the pairs of each set
(``compositional-split-natural/{train,val,test}_pairs.txt``), and the photos.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.compute.torch_files import MAX_PLAIN_BYTES, read_plain_values
from compositional_prompts.datasets.compositional.photo_list import (
    METADATA,
    PAIR_FILES,
    SPLIT,
    Entry,
    PairLists,
    derive_pairs,
    read_entries,
    read_pairs,
    select_entries,
)
from compositional_prompts.datasets.compositional.split_files import (
    IMAGE_BYTES,
    CompositionalError,
    Layout,
    LocalFolder,
    SplitFiles,
)
from compositional_prompts.datasets.dataset import DataSet, ListedPair, Selection
from compositional_prompts.files.archives import Archive, ArchiveError, open_archive
from compositional_prompts.files.downloads import DOWNLOADS, Remote, fetch
from compositional_prompts.pipeline.section import Base, ByteCount, Section, Sha256, in_project
from compositional_prompts.prompt.pair import Pair, dotted
from compositional_prompts.prompt.text_form import clean_text, label_form

OTHER_SPLIT: Final = "other_split"
"""Why a photo is set aside whose pair is listed, though not by the files of its set."""

_LIST_ENDINGS: Final = (".t7", ".pkl", ".pickle", ".pt", ".pth")

logger = logging.getLogger(__name__)


class ArchiveFile(Section):
    """A file of a data set's publisher; size in bytes."""

    url: str
    size: ByteCount | None
    sha256: Sha256 | None


TruthOf = Callable[[Entry], Mapping[str, str]]


class CompositionalDataSet(DataSet):
    """The photos of a data set with the field's own split, in the order of its list.

    As in the field's loaders, an entry takes no part if its attribute is ``NA``
    (``missing_label``), its pair is in none of the pair files (``unlisted_pair``), or its set is
    ``NA`` (``no_split``); each is counted in ``dropped`` under the first of these that holds. A
    photo that is listed and cannot be read becomes a row without bytes, which the ingestion sets
    aside; so does one whose pair is listed, though neither for train nor for its own set
    (:data:`OTHER_SPLIT`). ``image_id`` is the ``image`` of the list.

    Without pair files, the pairs of a split are those of its photos.

    Attributes and objects are written as :func:`~compositional_prompts.prompt.pair.dotted` with
    dots for underscores too: an underscore would part attribute from object in a prompt.

    Attributes:
        layout: where its files lie.
        pair_separator: what parts attribute from object in its pair files; None: a blank.
        path: a local folder of it; None fetches the publishers' archives, which are the fields of
            type :class:`ArchiveFile`.
    """

    layout: ClassVar[Layout]
    pair_separator: ClassVar[str | None] = None

    path: str | None

    def brings_splits(self) -> bool:
        return True

    def files(self) -> list[tuple[str, str]]:
        return [] if self.path is None else [("path", self.path)]

    def product_of(self, image: str) -> str:
        """The product that a photo of the list shows: by default each photo is one."""
        return image

    def read_truth(self, files: SplitFiles) -> TruthOf:
        """What is true of a photo, as in a row of the catalog: by default nothing is known."""
        return lambda entry: {}

    def select(self, base: Base) -> Selection:
        """See the class.

        Raises:
            CompositionalError: a file is missing, or not as expected; names file, line or entry.
            DownloadError: an archive cannot be had, or has another size or checksum than pinned.
            ArchiveError: an archive is damaged, or not one that can be trusted.
            ValueError: the list of photos is no ``torch.save`` of plain values, or truth is not
                as published.
        """
        files = self._open_files()
        if not files.has(self.layout, METADATA):
            raise CompositionalError(self._without_list(files))
        metadata, content = files.required(self.layout, METADATA, MAX_PLAIN_BYTES)
        listed_photos = read_entries(read_plain_values(content, metadata), metadata)
        lists = self._read_pair_lists(files, listed_photos)
        lists.check(files.source)
        listed = lists.closed_world()
        names = _Names(listed)
        entries, dropped = select_entries(listed_photos, metadata, lists)
        truth = self.read_truth(files)
        pairs = [ListedPair(*names.of(pair), split) for pair, split in sorted(listed.items())]
        rows = self._rows(files, entries, names, truth)
        return Selection(files.source, rows, len(entries), dropped, pairs)

    def _read_pair_lists(self, files: SplitFiles, entries: Sequence[Entry]) -> PairLists:
        if any(files.has(self.layout, path) for path in PAIR_FILES.values()):
            return PairLists(
                {
                    split: frozenset(
                        read_pairs(*files.text(self.layout, path), self.pair_separator)
                    )
                    for split, path in PAIR_FILES.items()
                }
            )
        lists = derive_pairs(entries)
        logger.info(
            "%s has no %s: the pairs of a split are those of its photos (%s)",
            files.source,
            ", ".join(PAIR_FILES.values()),
            ", ".join(f"{len(pairs)} of {split}" for split, pairs in lists.by_split.items()),
        )
        return lists

    def _without_list(self, files: SplitFiles) -> str:
        """What is said where there is no list of photos, by what there is in its place."""
        roots = " or ".join(root or "its root" for root in self.layout.roots)
        said = f"{files.source}: there is no {METADATA} in {roots}."
        alike = files.named_like("metadata", _LIST_ENDINGS)
        deeper = [path for path in alike if path.endswith(f"/{METADATA}")]
        if deeper:
            folder = deeper[0].removesuffix(METADATA)
            said += f" There is one in {folder}: name that folder as download.{self.name}.path."
        elif alike:
            said += (
                f" There is {', '.join(alike[:3])}, as an older layout, another split or a renamed "
                f"copy has it. If it is the list of {SPLIT}, rename it to {METADATA}; a pickle of "
                "another kind is not read, since it is a program."
            )
        return f"{said} {self._where_it_is_published()}"

    def _where_it_is_published(self) -> str:
        archives = {key: file for key, file in self if isinstance(file, ArchiveFile)}
        if not archives:
            return f"It is fetched from its authors, for download.{self.name}.path."
        key = "splits" if "splits" in archives else next(iter(archives))
        return f"It is published in {archives[key].url} (download.{self.name}.{key})."

    def _open_files(self) -> SplitFiles:
        if self.path is not None:
            root = Path(self.path).expanduser()
            if not root.is_dir():
                raise CompositionalError(
                    f"download.{self.name}.path: there is no directory {root} (relative paths "
                    "start at the root of the project); null fetches the publishers' archives."
                )
            return SplitFiles(str(root), [LocalFolder(root)])
        archives: list[Archive] = []
        downloads = in_project(DOWNLOADS)
        for key, file in self:
            if isinstance(file, ArchiveFile):
                remote = Remote(file.url, file.size, file.sha256, f"download.{self.name}.{key}")
                archives.append(open_archive(fetch(remote, downloads), downloads))
        if not archives:
            raise CompositionalError(
                f"download.{self.name}: neither a local folder (path) nor an archive is named."
            )
        return SplitFiles(f"the archives of {self.name}", archives)

    def _rows(
        self,
        files: SplitFiles,
        entries: Sequence[Entry],
        names: _Names,
        truth: TruthOf,
    ) -> Iterator[CatalogRow]:
        try:
            for entry in entries:
                yield self._row(files, entry, names.of(entry.pair), truth)
        finally:
            files.close()

    def _row(self, files: SplitFiles, entry: Entry, names: Pair, truth: TruthOf) -> CatalogRow:
        row = CatalogRow(
            image_id=entry.image,
            product_id=self.product_of(entry.image),
            image=None,
            path=entry.image,
            attribute=names[0],
            object=names[1],
            pair_split=entry.split,
        )
        if entry.listed_by:
            return row._replace(path=_why_not(entry), rejection=OTHER_SPLIT)
        name = files.find(self.layout.places(entry.image, entry.original))
        if name is None:
            looked = self.layout.described(entry.image, entry.original)
            return row._replace(path=f"not found: {looked}")
        return row._replace(image=_read_image(files, name), path=name, truth=truth(entry))


class _Names:
    """Attributes and objects as prompts write them, by what the pair files call them."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        attributes, objects = (sorted(set(words)) for words in zip(*pairs, strict=True))
        self._attributes = _named(attributes, "attributes")
        self._objects = _named(objects, "objects")

    def of(self, pair: Pair) -> Pair:
        return self._attributes[pair[0]], self._objects[pair[1]]


def _named(words: Sequence[str], kind: str) -> dict[str, str]:
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for word in words:
        try:
            name = dotted(clean_text(word.replace("_", " ")))
        except ValueError as error:
            raise CompositionalError(f"{kind}: {word!r}: {error}") from error
        form = label_form(name)
        if form in taken:
            raise CompositionalError(
                f"{kind}: {taken[form]!r} and {word!r} would both be written {name!r}: rename one "
                "in the list of photos and in the pair files."
            )
        taken[form] = word
        names[word] = name
    return names


def _why_not(entry: Entry) -> str:
    return (
        f"{entry.image}: entry {entry.number} is of set {entry.split}, and its pair "
        f"{' '.join(entry.pair)} is neither in {PAIR_FILES['train']} nor in "
        f"{PAIR_FILES[entry.split]}, but in that of {' and '.join(entry.listed_by)}"
    )


def _read_image(files: SplitFiles, name: str) -> bytes | None:
    """The photo, or None: the ingestion sets it aside as inaccessible and counts it."""
    try:
        return files.read(name, IMAGE_BYTES)
    except (OSError, ArchiveError) as error:
        logger.warning("%s", error)
        return None
