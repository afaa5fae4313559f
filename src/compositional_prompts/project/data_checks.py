"""What the parameters ask of the data, told once that is split and before anything costly."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.catalog.splitting.split_tables import (
    PAIRS_OF_OBJECTS,
    SPLIT_NAMES,
    SPLITS,
)
from compositional_prompts.catalog.titles import untitled_images
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.files.outputs import atomic_file, write_metrics
from compositional_prompts.files.tables import read_table
from compositional_prompts.prompt.text_form import label_form, word_form
from compositional_prompts.troika.evaluation.glove import label_vectors
from compositional_prompts.troika.parameters import TroikaPredict, TroikaTrain, training_fault

log = logging.getLogger(__name__)

NOT_KNOWN: Final = frozenset(
    [
        "-",
        "?",
        "n/a",
        "na",
        "nan",
        "nil",
        "none",
        "not known",
        "not specified",
        "null",
        "other",
        "undefined",
        "unknown",
        "unspecified",
    ]
)
"""What people write where they know nothing, in lower case."""

SHOWN: Final = 5
"""How many words a message names."""


class DataError(ValueError):
    """The data lacks what the parameters need."""


@dataclass(frozen=True)
class Findings:
    """What must be put right, and what is hardly meant: sentences with words, counts and remedy."""

    faults: list[str]
    doubts: list[str]


@dataclass(frozen=True)
class DataPaths:
    """``splits.parquet``, ``pairs.parquet``, ``truth.parquet``, and ``catalog/``."""

    splits: Path
    pairs: Path
    truth: Path
    catalog: Path


def judge_data(
    paths: DataPaths,
    clip_embed: ClipEmbed,
    enhance: Enhance,
    troika_train: TroikaTrain,
    troika_predict: TroikaPredict,
    finetune: Finetune,
) -> Findings:
    """Hold labels, truth and splits against the parameters; reads tables of text alone, and the
    titles of the catalog where they are what is learnt.

    Raises:
        MissingOutputError: a table is not there.
        SchemaError: it is not as declared.
    """
    columns = ["image_id", "attribute", "object", "caption_split", "pair_split"]
    splits = read_table(paths.splits, SPLITS, columns)
    pairs = read_table(paths.pairs, PAIRS_OF_OBJECTS, ["attribute", "object"])
    truth = read_table(paths.truth, TRUTH)
    known = _truth_words(truth)
    faults = [
        *_troika_images(splits, troika_train),
        *_titles_to_learn(splits, paths, finetune),
        *_glove_words(pairs, troika_predict),
        *_strange_truth(known, clip_embed.vocabulary, paths.truth),
        *_groups_spelt_otherwise(known, clip_embed.vocabulary, paths.truth),
    ]
    doubts = [
        *_missing_words(known, clip_embed.vocabulary, truth, paths.truth),
        *_misspelt_groups(known, clip_embed.vocabulary, paths.truth),
        *_alike_labels(splits, pairs),
        *_labels_not_known(splits),
        *_words_not_known(clip_embed.vocabulary),
        *_words_to_learn(clip_embed.vocabulary, enhance, splits, truth, paths.truth),
    ]
    return Findings(faults, doubts)


def check_data(
    paths: DataPaths,
    clip_embed: ClipEmbed,
    enhance: Enhance,
    troika_train: TroikaTrain,
    troika_predict: TroikaPredict,
    finetune: Finetune,
    *,
    proof: Path,
    doubts: Path,
) -> int:
    """As :func:`judge_data`; write the doubts, and that there is no fault.

    Args:
        paths: the tables.
        clip_embed: its vocabulary.
        enhance: which groups learn from truth.
        troika_train: whether it can train.
        troika_predict: its GloVe file.
        finetune: whether titles are learnt.
        proof: file to write; always the same, so that nothing that depends on it runs again.
        doubts: JSON to write, ``{"warnings": [sentence, ...]}``.

    Returns:
        The number of sentences.

    Raises:
        DataError: a line for every fault.
    """
    found = judge_data(paths, clip_embed, enhance, troika_train, troika_predict, finetune)
    for doubt in found.doubts:
        log.warning("warning: %s", doubt)
    if found.faults:
        raise DataError("\n".join(found.faults))
    write_metrics({"warnings": found.doubts}, doubts)
    with atomic_file(proof) as temporary:
        temporary.write_text("The data has what the parameters need.\n")
    return len(found.doubts)


def _troika_images(splits: pa.Table, troika_train: TroikaTrain) -> Iterator[str]:
    counts = Counter(splits.column("pair_split").to_pylist())
    if fault := training_fault(counts["train"], counts["val"], troika_train):
        yield fault


def _titles_to_learn(splits: pa.Table, paths: DataPaths, finetune: Finetune) -> Iterator[str]:
    if finetune.target != "title":
        return
    untitled = untitled_images(paths.catalog, paths.splits)
    counts = Counter(splits.column("caption_split").to_pylist())
    missing = [name for name in SPLIT_NAMES if counts[name] and untitled[name] == counts[name]]
    if missing:
        yield (
            f"finetune.target is title, and no image of {' nor of '.join(missing)} has one in "
            f"{paths.catalog}: bring titles with the data set, or set it to enhanced."
        )


def _glove_words(pairs: pa.Table, troika_predict: TroikaPredict) -> Iterator[str]:
    feasibility = troika_predict.feasibility
    if feasibility.glove is None or feasibility.vectors != "glove":
        return
    names = [*_distinct(pairs, "attribute"), *_distinct(pairs, "object")]
    try:
        label_vectors(Path(feasibility.glove), names)
    except (OSError, ValueError) as error:
        yield f"troika_predict.feasibility.glove: {error}"


def _distinct(table: pa.Table, column: str) -> list[str]:
    words: list[str] = table.column(column).drop_null().unique().to_pylist()
    return words


def _truth_words(truth: pa.Table) -> dict[str, Counter[str]]:
    """By group, how many images each word is true of."""
    found: dict[str, Counter[str]] = {}
    counted = truth.group_by(["group", "word"]).aggregate([([], "count_all")])
    # Arrow's threads decide the order of groups.
    for row in counted.sort_by([("group", "ascending"), ("word", "ascending")]).to_pylist():
        found.setdefault(row["group"], Counter())[row["word"]] = row["count_all"]
    return found


def _outside(words: Mapping[str, int], vocabulary: Sequence[str]) -> Counter[str]:
    """Those that the vocabulary lacks, in any spelling."""
    inside = {word_form(word) for word in vocabulary}
    return Counter({word: count for word, count in words.items() if word_form(word) not in inside})


def _strange_truth(
    known: Mapping[str, Counter[str]], vocabulary: Mapping[str, Sequence[str]], source: Path
) -> Iterator[str]:
    for group, words in vocabulary.items():
        true = known.get(group, Counter())
        if true and len(_outside(true, words)) == len(true):
            yield (
                f"none of the {len(true)} words that {source} has of the group {group!r} is among "
                f"its words in clip_embed.attributes ({_listed(words)}), so that every accuracy "
                f"would be 0: {_with_closest(true, words)}. Write them alike in both, or leave the "
                "truth of this group out."
            )


def _missing_words(
    known: Mapping[str, Counter[str]],
    vocabulary: Mapping[str, Sequence[str]],
    truth: pa.Table,
    source: Path,
) -> Iterator[str]:
    for group, words in vocabulary.items():
        true = known.get(group, Counter())
        outside = _outside(true, words)
        if 0 < len(outside) < len(true):
            of_group = truth.filter(pc.equal(truth.column("group"), group))
            inside = pc.is_in(of_group.column("word"), pa.array(list(true.keys() - outside.keys())))
            images = pc.count_distinct(of_group.column("image_id")).as_py()
            right = pc.count_distinct(of_group.filter(inside).column("image_id")).as_py()
            yield (
                f"{len(outside)} of the {len(true)} words that {source} has of the group {group!r} "
                f"are not among its words in clip_embed.attributes; nothing else is true of "
                f"{images - right} of {images} images, which count as wrong: "
                f"{_with_closest(outside, words)}. Add them there, or write them alike."
            )


def _groups_spelt_otherwise(
    known: Mapping[str, Counter[str]], vocabulary: Mapping[str, Sequence[str]], source: Path
) -> Iterator[str]:
    """Truth under another spelling of a group's name would be known, and never compared."""
    forms = {word_form(group): group for group in vocabulary}
    for group in sorted(known.keys() - vocabulary.keys()):
        meant = forms.get(word_form(group))
        if meant is not None:
            yield (
                f"{source} has the group {group!r}, and clip_embed.attributes has {meant!r}, which "
                "is the same name but for letter case, spaces or encoding: write it alike in both."
            )


def _misspelt_groups(
    known: Mapping[str, Counter[str]], vocabulary: Mapping[str, Sequence[str]], source: Path
) -> Iterator[str]:
    """Truth of other groups is kept and does no harm, but one may be meant for a group."""
    forms = set(map(word_form, vocabulary))
    for group in sorted(known.keys() - vocabulary.keys()):
        if word_form(group) in forms:
            continue
        without = [other for other in vocabulary if other not in known]
        if close := _closest(group, without):
            yield (
                f"{source} has the group {group!r}, and clip_embed.attributes has {close!r} "
                "without any truth: if they are one, give them one name."
            )


def _alike_labels(splits: pa.Table, pairs: pa.Table) -> Iterator[str]:
    """Labels that differ in what people do not see as a difference are classes of their own."""
    for column in ("attribute", "object"):
        counts = Counter(splits.column(column).drop_null().to_pylist())
        alike: dict[str, list[str]] = {}
        for word in sorted({*counts, *_distinct(pairs, column)}):
            plain = "".join(letter for letter in word.casefold() if letter.isalnum())
            alike.setdefault(plain, []).append(word)
        groups = [words for words in alike.values() if len(words) > 1]
        if groups:
            shown = "; ".join(
                " and ".join(f"{word!r} ({_images(counts[word])})" for word in words)
                for words in groups[:SHOWN]
            )
            yield (
                f"{column}s are written in several ways, each a class of its own: "
                f"{shown}{_more(len(groups))}. Write each in one way, in the labels and in "
                f"split.{column}s."
            )


def _labels_not_known(splits: pa.Table) -> Iterator[str]:
    for column in ("attribute", "object"):
        counts = Counter(splits.column(column).drop_null().to_pylist())
        found = {word: n for word, n in counts.items() if label_form(word) in NOT_KNOWN}
        if found:
            yield (
                f"the {column} {_counted(found)} reads as 'not known', and is learnt and predicted "
                "like any other: leave the label of these images empty."
            )


def _words_not_known(vocabulary: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for group, words in vocabulary.items():
        for word in words:
            if word_form(word) in NOT_KNOWN:
                yield (
                    f"clip_embed.attributes: the group {group!r} has the word {word!r}, and "
                    f'prompts would say "with {word} {group.replace("_", " ")}": remove it; where '
                    "no word fits, enhance.threshold leaves it unspecified."
                )


def _words_to_learn(
    vocabulary: Mapping[str, Sequence[str]],
    enhance: Enhance,
    splits: pa.Table,
    truth: pa.Table,
    source: Path,
) -> Iterator[str]:
    """A probe without labels is no fault: they may be on their way, and it scores all the same."""
    groups = [group for group in vocabulary if enhance.method_of(group) == "probe"]
    if not groups:
        return
    training = splits.filter(pc.equal(splits.column("caption_split"), "train"))
    learnt = truth.filter(pc.is_in(truth.column("image_id"), training.column("image_id")))
    known = _truth_words(learnt)
    for group in groups:
        true = known.get(group, Counter())
        outside = _outside(true, vocabulary[group])
        if len({word_form(word) for word in true.keys() - outside.keys()}) < 2:
            yield (
                f"the method of the group {group!r} is probe (enhance.methods, enhance.method), "
                f"and {source} has fewer than two of its words for training images, so that "
                "nothing is learnt and the words keep their zero-shot scores: add truth of some "
                "photos (`compositional-prompts label` says of which), or take another method."
            )


def _most_common(words: Mapping[str, int]) -> list[tuple[str, int]]:
    """Those that a message names, equally common ones by the alphabet."""
    return sorted(words.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]


def _with_closest(words: Mapping[str, int], vocabulary: Sequence[str]) -> str:
    shown = []
    for word, count in _most_common(words):
        close = _closest(word, vocabulary)
        shown.append(f"{word!r} ({_images(count)}{f', closest {close!r}' if close else ''})")
    return ", ".join(shown) + _more(len(words))


def _closest(word: str, others: Iterable[str]) -> str | None:
    """The most similar spelling, or one that holds the word or is in it."""
    by_key = {word_form(other): other for other in others}
    key = word_form(word)
    found = difflib.get_close_matches(key, by_key, 1)
    held = [other for other in by_key if other in key or key in other]
    return by_key[(found or held)[0]] if found or held else None


def _counted(words: Mapping[str, int]) -> str:
    shown = [f"{word!r} ({_images(count)})" for word, count in _most_common(words)]
    return ", ".join(shown) + _more(len(words))


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:SHOWN]) + _more(len(words))


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _more(found: int) -> str:
    return f" and {found - SHOWN} more" if found > SHOWN else ""
