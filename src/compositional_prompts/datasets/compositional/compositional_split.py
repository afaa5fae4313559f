"""The layout that data sets of compositional zero-shot learning share.

``compositional-split-natural`` (Purushwalkam et al., "Task-driven modular networks for zero-shot
compositional learning", ICCV 2019; C-GQA: Naeem et al., "Learning graph embeddings for
compositional zero-shot learning", CVPR 2021): a list of photos with attribute, object and set
(``metadata_compositional-split-natural.t7``), the pairs of each set
(``compositional-split-natural/{train,val,test}_pairs.txt``), and the photos.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from compositional_prompts.catalog.image_files import list_files
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.splitting.split_tables import SPLIT_NAMES
from compositional_prompts.compute.torch_files import MAX_PLAIN_BYTES, read_plain_values
from compositional_prompts.datasets.dataset import DataSet, ListedPair, Selection
from compositional_prompts.files.archives import Archive, ArchiveError, open_archive
from compositional_prompts.files.downloads import DOWNLOADS, Remote, fetch
from compositional_prompts.pipeline.section import Base, Positive, Section, Sha256
from compositional_prompts.prompt.pair import Pair, dotted

SPLIT: Final = "compositional-split-natural"
METADATA: Final = f"metadata_{SPLIT}.t7"
PAIR_FILES: Final = {name: f"{SPLIT}/{name}_pairs.txt" for name in SPLIT_NAMES}

NOT_KNOWN: Final = "NA"
"""What stands in the list of photos for an attribute or a set that there is none of."""

_IMAGE_BYTES: Final = 2**28
TEXT_BYTES: Final = 2**26

logger = logging.getLogger(__name__)


class CompositionalError(ValueError):
    """The data set is not there, or not in the layout."""


class ArchiveFile(Section):
    """A file of a data set's publisher; size in bytes."""

    url: str
    size: Positive | None
    sha256: Sha256 | None


class Layout(NamedTuple):
    """Where the files of a data set lie, in a local folder or within the publishers' archives.

    Attributes:
        roots: folders that may hold all of it.
        images: folders under a root that may hold the photos by ``image``,
        originals: and those that may hold them by ``_image``, the path in the original data set.
    """

    roots: tuple[str, ...]
    images: tuple[str, ...]
    originals: tuple[str, ...] = ()


class Entry(NamedTuple):
    """One photo of the list, as it stands there."""

    image: str
    original: str | None
    attribute: str
    object: str
    split: str


TruthOf = Callable[[Entry], Mapping[str, str]]


class _PairLists(NamedTuple):
    """The pairs of each split as the files list them."""

    by_split: Mapping[str, frozenset[Pair]]

    def closed_world(self) -> dict[Pair, str]:
        """Every pair and its split: train where training sees it."""
        return {pair: name for name in reversed(SPLIT_NAMES) for pair in self.by_split[name]}


class CompositionalDataSet(DataSet):
    """The photos of a data set with the field's own split, in the order of its list.

    As in the field's loaders, an entry takes no part if its attribute is ``NA``
    (``missing_label``), its pair is in none of the pair files (``unlisted_pair``), or its set is
    ``NA`` (``no_split``); each is counted in ``dropped`` under the first of these that holds. A
    photo that is listed and cannot be read becomes a row without bytes, which the ingestion sets
    aside. ``image_id`` is the ``image`` of the list.

    Attributes and objects are written as :func:`~compositional_prompts.prompt.pair.dotted` with
    dots for underscores too: an underscore would part attribute from object in a prompt.

    Attributes:
        layout: where its files lie.
        path: a local folder of it; None fetches the publishers' archives, which are the fields of
            type :class:`ArchiveFile`.
    """

    layout: ClassVar[Layout]

    path: str | None

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
        lists = _PairLists(
            {
                split: frozenset(_read_pairs(*files.text(self.layout, path)))
                for split, path in PAIR_FILES.items()
            }
        )
        _check_lists(lists, files.source)
        listed = lists.closed_world()
        names = _Names(listed)
        metadata, content = files.required(self.layout, METADATA, MAX_PLAIN_BYTES)
        entries, dropped = _select_entries(read_plain_values(content, metadata), metadata, lists)
        truth = self.read_truth(files)
        pairs = [ListedPair(*names.of(pair), split) for pair, split in sorted(listed.items())]
        rows = self._rows(files, entries, names, truth)
        return Selection(files.source, rows, len(entries), dropped, pairs)

    def _open_files(self) -> SplitFiles:
        if self.path is not None:
            root = Path(self.path).expanduser()
            if not root.is_dir():
                raise CompositionalError(
                    f"download.{self.name}.path: there is no directory {root} (relative paths "
                    "start at the root of the project); null fetches the publishers' archives."
                )
            return SplitFiles(str(root), [_Folder(root)])
        archives: list[Archive] = []
        for key, file in self:
            if isinstance(file, ArchiveFile):
                remote = Remote(file.url, file.size, file.sha256, f"download.{self.name}.{key}")
                archives.append(open_archive(fetch(remote, DOWNLOADS), DOWNLOADS))
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
                name = files.find(_candidates(entry, self.layout))
                attribute, object_ = names.of((entry.attribute, entry.object))
                yield CatalogRow(
                    image_id=entry.image,
                    product_id=self.product_of(entry.image),
                    image=_read_image(files, name),
                    path=name or entry.image,
                    attribute=attribute,
                    object=object_,
                    pair_split=entry.split,
                    truth=truth(entry),
                )
        finally:
            files.close()


class _Source(Protocol):
    """A folder or an archive; see :class:`~compositional_prompts.files.archives.Archive`."""

    @property
    def names(self) -> Collection[str]: ...
    def read(self, name: str, limit: int) -> bytes: ...
    def close(self) -> None: ...


class _Folder:
    """A local folder, as an open archive is."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.names = set(list_files(root))

    def read(self, name: str, limit: int) -> bytes:
        with (self._root / name).open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ArchiveError(f"{self._root / name}: longer than {limit} bytes.")
        return content

    def close(self) -> None:
        pass


class SplitFiles:
    """The files of a data set by their path, whatever they lie in; of two alike the first counts.

    Publishers, archives and file systems disagree on a few characters of folder names. A path that
    is not there as it stands is looked for by :func:`_canonical`.
    """

    def __init__(self, source: str, sources: Sequence[_Source]) -> None:
        self.source = source
        self._sources = sources
        self._places: dict[str, _Source] = {}
        for one in reversed(sources):
            self._places.update(dict.fromkeys(one.names, one))
        self._canonical: dict[str, list[str]] = {}
        for name in self._places:
            self._canonical.setdefault(_canonical(name), []).append(name)

    def find(self, paths: Iterable[str]) -> str | None:
        """The first of ``paths`` that is there, as it is written there."""
        tried = list(paths)
        for path in tried:
            if path in self._places:
                return path
        for path in tried:
            found = self._canonical.get(_canonical(path), [])
            if len(found) > 1:
                raise CompositionalError(
                    f"{self.source}: {path!r} may be {found[0]!r} or {found[1]!r}: remove one."
                )
            if found:
                return found[0]
        return None

    def read(self, name: str, limit: int) -> bytes:
        return self._places[name].read(name, limit)

    def required(self, layout: Layout, path: str, limit: int) -> tuple[str, bytes]:
        """A file's name, for messages, and its content."""
        name = self.find(f"{root}{path}" for root in layout.roots)
        if name is None:
            folders = " or ".join(root or "its root" for root in layout.roots)
            raise CompositionalError(f"{self.source}: there is no {path} in {folders}.")
        return f"{self.source}: {name}", self.read(name, limit)

    def text(self, layout: Layout, path: str) -> tuple[str, str]:
        """As :meth:`required`, decoded."""
        name, content = self.required(layout, path, TEXT_BYTES)
        try:
            return name, content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CompositionalError(f"{name}: byte {error.start} is not UTF-8.") from error

    def close(self) -> None:
        for source in self._sources:
            source.close()


def _canonical(path: str) -> str:
    """A path with its folders as all of them might be written.

    MIT-States' archive has ``ancient clock/`` where the list has ``ancient_clock/``; UT-Zap50K's
    has ``A.P.C%2E/`` where the list has ``A.P.C./`` or ``A.P.C/``.
    """
    *folders, name = path.split("/")
    return "/".join(
        [*(folder.replace("%2E", ".").rstrip(".").replace(" ", "_") for folder in folders), name]
    )


def _read_pairs(source: str, text: str) -> Iterator[Pair]:
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise CompositionalError(
                f"{source}, line {number}: {line.strip()!r} is not an attribute and an object "
                "with a blank between."
            )
        yield words[0], words[1]


def _check_lists(lists: _PairLists, source: str) -> None:
    train, val, test = (lists.by_split[name] for name in SPLIT_NAMES)
    if not train:
        raise CompositionalError(f"{source}: {PAIR_FILES['train']} lists no pair.")
    both = sorted((val & test) - train)
    if both:
        raise CompositionalError(
            f"{source}: the pair {' '.join(both[0])} is unseen in training and listed both in "
            f"{PAIR_FILES['val']} and in {PAIR_FILES['test']}: validation would give it away."
        )


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
            name = dotted(word.replace("_", " "))
        except ValueError as error:
            raise CompositionalError(f"{kind}: {word!r}: {error}") from error
        if name in taken:
            raise CompositionalError(
                f"{kind}: {taken[name]!r} and {word!r} would both be written {name!r}: rename one "
                "in the list of photos and in the pair files."
            )
        taken[name] = word
        names[word] = name
    return names


def _select_entries(
    document: Any, source: str, lists: _PairLists
) -> tuple[list[Entry], dict[str, int]]:
    """The entries that take part, and how many do not, by reason."""
    if not isinstance(document, list):
        raise CompositionalError(f"{source}: a {type(document).__name__}, expected a list.")
    listed = frozenset().union(*lists.by_split.values())
    dropped = dict.fromkeys(("missing_label", "unlisted_pair", "no_split"), 0)
    entries = []
    for number, item in enumerate(document):
        entry = _entry(item, f"{source}: entry {number}")
        pair = (entry.attribute, entry.object)
        if entry.attribute == NOT_KNOWN:
            dropped["missing_label"] += 1
        elif pair not in listed:
            dropped["unlisted_pair"] += 1
        elif entry.split == NOT_KNOWN:
            dropped["no_split"] += 1
        else:
            _check_split(entry, lists, f"{source}: entry {number} ({entry.image!r})")
            entries.append(entry)
    return entries, dropped


def _entry(item: Any, place: str) -> Entry:
    if not isinstance(item, dict):
        raise CompositionalError(f"{place}: a {type(item).__name__}, expected a dictionary.")
    values: dict[str, str] = {}
    for key in ("image", "attr", "obj", "set", "_image"):
        value = item.get(key)
        if key == "_image" and value is None:
            continue
        # Other values are not shown: they may be nested, and endless.
        if not isinstance(value, str):
            raise CompositionalError(f"{place}: {key!r} is a {type(value).__name__}, not a string.")
        values[key] = value
    for key in ("image", "_image"):
        path = PurePosixPath(values.get(key, "."))
        if path.is_absolute() or ".." in path.parts or values.get(key) == "":
            raise CompositionalError(f"{place}: {key} {values[key]!r} is no path in the data set.")
    return Entry(
        values["image"], values.get("_image"), values["attr"], values["obj"], values["set"]
    )


def _check_split(entry: Entry, lists: _PairLists, place: str) -> None:
    if entry.split not in SPLIT_NAMES:
        raise CompositionalError(
            f"{place}: set is {entry.split!r}, expected {', '.join(SPLIT_NAMES)} or {NOT_KNOWN}."
        )
    pair = (entry.attribute, entry.object)
    if pair not in lists.by_split["train"] and pair not in lists.by_split[entry.split]:
        raise CompositionalError(
            f"{place}: the set is {entry.split}, and {PAIR_FILES[entry.split]} does not list its "
            f"pair {' '.join(pair)}: list and pair files are of different splits."
        )


def _candidates(entry: Entry, layout: Layout) -> Iterator[str]:
    for root in layout.roots:
        for folder in layout.images:
            yield f"{root}{folder}{entry.image}"
        if entry.original is not None:
            for folder in layout.originals:
                yield f"{root}{folder}{entry.original}"


def _read_image(files: SplitFiles, name: str | None) -> bytes | None:
    """The photo, or None: the ingestion sets it aside as inaccessible and counts it."""
    if name is None:
        return None
    try:
        return files.read(name, _IMAGE_BYTES)
    except (OSError, ArchiveError) as error:
        logger.warning("%s", error)
        return None
