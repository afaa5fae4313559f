"""What the parameters ask of the data is told before anything costly, by its words and counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from compositional_prompts.captioner.parameters import Target
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.catalog.splitting.split_tables import PAIRS, SPLITS
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.files.tables import read_table, write_table
from compositional_prompts.project.data_checks import (
    DataError,
    DataPaths,
    Findings,
    check_data,
    judge_data,
)
from compositional_prompts.project.whole_params import checked

ROOT = Path(__file__).parents[2]
PARAMS = checked(yaml.safe_load((ROOT / "params.yaml").read_text()), "params.yaml")
LABELS = [("Canvas", "Boots", "train"), ("Suede", "Boots", "train"), ("Canvas", "Boots", "val")]

Label = tuple[str | None, str | None, str | None]


def tables(
    folder: Path,
    labels: Sequence[Label] = LABELS,
    truth: Sequence[tuple[int, str, str]] = (),
    added: Sequence[tuple[str, str]] = (),
) -> DataPaths:
    """Images with attribute, object and pair split; true words by image; pairs without images."""
    images = [
        (str(number), str(number), attribute, name, "train", split, split == "train")
        for number, (attribute, name, split) in enumerate(labels)
    ]
    pairs = sorted({(a, o) for a, o, _ in labels if a and o} | set(added))
    names = ("splits", "pairs", "truth")
    paths = DataPaths(*(folder / f"{name}.parquet" for name in names), folder / "catalog")
    write_table(_table(images, SPLITS), paths.splits, SPLITS)
    write_table(_table([(a, o, "train", True, 1) for a, o in pairs], PAIRS), paths.pairs, PAIRS)
    write_table(_table([(str(image), *rest) for image, *rest in truth], TRUTH), paths.truth, TRUTH)
    return paths


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def vocabulary(**groups: list[str]) -> ClipEmbed:
    attributes = [{"name": name, "words": words} for name, words in groups.items()]
    return ClipEmbed.model_validate(PARAMS.clip_embed.model_dump() | {"attributes": attributes})


def judged(
    paths: DataPaths,
    clip_embed: ClipEmbed = PARAMS.clip_embed,
    troika: Mapping[str, Any] | None = None,
    feasibility: Mapping[str, Any] | None = None,
    method: str = "cosine",
    target: Target = "enhanced",
) -> Findings:
    predict = PARAMS.troika_predict
    return judge_data(
        paths,
        clip_embed,
        PARAMS.enhance.model_copy(update={"method": method}),
        PARAMS.troika_train.model_copy(update=dict(troika or {})),
        predict.model_copy(
            update={"feasibility": predict.feasibility.model_copy(update=dict(feasibility or {}))}
        ),
        PARAMS.finetune.model_copy(update={"target": target}),
    )


def test_a_probe_without_two_words_to_tell_apart_learns_nothing(tmp_path: Path) -> None:
    words = vocabulary(color=["black", "red"])
    few = [(0, "color", "Black"), (1, "color", "mauve"), (2, "color", "black")]
    both = judged(tables(tmp_path, truth=few), words, method="probe").doubts
    (doubt,) = [one for one in both if "the method of" in one]
    for said in ("'color'", "fewer than two", "zero-shot", "truth.parquet", "another method"):
        assert said in doubt
    paths = tables(tmp_path, truth=[*few, (2, "color", "RED")])
    for method in ("probe", "cosine"):
        found = judged(paths, words, method=method).doubts
        assert not [one for one in found if "the method of" in one]


def test_sound_data_has_nothing_to_say(tmp_path: Path) -> None:
    truth = [(0, "color", "Black"), (1, "color", " red "), (2, "sole", "rubber")]
    assert judged(tables(tmp_path, truth=truth)) == Findings([], [])
    assert judged(tables(tmp_path)) == Findings([], [])


def test_truth_without_any_word_of_the_vocabulary_is_a_fault(tmp_path: Path) -> None:
    truth = [(0, "closure", "Lace up"), (1, "closure", "Lace up"), (2, "closure", "Zip")]
    found = judged(tables(tmp_path, truth=truth), vocabulary(closure=["laces", "zipper", "buckle"]))
    (fault,) = found.faults
    for part in (
        "none of the 2 words",
        "truth.parquet",
        "group 'closure'",
        "clip_embed.attributes (laces, zipper, buckle)",
        "'Lace up' (2 images, closest 'laces')",
        "'Zip' (1 image, closest 'zipper')",
    ):
        assert part in fault


def test_words_that_the_vocabulary_lacks_are_counted(tmp_path: Path) -> None:
    truth = [(0, "color", "navy"), (1, "color", "RED"), (2, "color", "navy"), (2, "color", "red")]
    found = judged(tables(tmp_path, truth=truth), vocabulary(color=["red", "navy blue"]))
    assert not found.faults
    (doubt,) = found.doubts
    assert "1 of the 3 words" in doubt and "true of 1 of 3 images" in doubt
    assert "'navy' (2 images, closest 'navy blue')" in doubt


def test_a_misspelt_group_is_seen(tmp_path: Path) -> None:
    (doubt,) = judged(tables(tmp_path, truth=[(0, "colour", "red")])).doubts
    assert "group 'colour'" in doubt and "'color'" in doubt


@pytest.mark.parametrize("group", ["Color", " color", "COLOR\u200b"])
def test_a_group_of_another_spelling_is_a_fault(tmp_path: Path, group: str) -> None:
    found = judged(tables(tmp_path, truth=[(0, group, "red")]))
    (fault,) = found.faults
    assert repr(group) in fault and "clip_embed.attributes has 'color'" in fault
    assert not found.doubts


def test_sentences_and_words_have_one_order(tmp_path: Path) -> None:
    groups = [f"group{letter}" for letter in "hcagbfed"]
    truth = [(image, group, "x") for image, group in enumerate(groups)]
    truth += [(image, "color", word) for image, word in enumerate(["teal", "lime", "aqua"])]
    paths = tables(tmp_path, LABELS * 4, [*truth, (0, "color", "black")])
    words = vocabulary(color=["black"], **{f"{group}s": ["x"] for group in groups})
    doubts = judged(paths, words).doubts
    (lacking,) = [doubt for doubt in doubts if "'color'" in doubt]
    assert lacking.index("'aqua'") < lacking.index("'lime'") < lacking.index("'teal'")
    named = [doubt.split("'")[1] for doubt in doubts if "has the group 'group" in doubt]
    assert named == sorted(groups)


def test_labels_that_differ_in_case_alone_are_named_and_so_are_words_beside_them(
    tmp_path: Path,
) -> None:
    labels = [(word, "Sandals", "train") for word in ("Canvas", "canvas", "CANVAS")]
    paths = tables(tmp_path, labels, added=[("Canvas", "sandals")])
    attributes, objects = judged(paths).doubts
    assert "attributes are written in several ways" in attributes
    for word in ("Canvas", "canvas", "CANVAS"):
        assert f"'{word}' (1 image)" in attributes
    assert "'Sandals' (3 images) and 'sandals' (0 images)" in objects


def test_words_for_not_known_are_told(tmp_path: Path) -> None:
    labels: list[Label] = [*LABELS, ("N/A", "Boots", "train"), ("Not.specified", "Boots", "train")]
    label, word = judged(tables(tmp_path, labels), vocabulary(closure=["laces", "None"])).doubts
    assert "'N/A' (1 image), 'Not.specified' (1 image)" in label
    assert "with None closure" in word


@pytest.mark.parametrize(
    ("labels", "troika", "said"),
    [
        ([(None, None, None)] * 3, {}, "no labelled training image"),
        ([("Canvas", "Boots", "train")], {}, "one labelled training image"),
        (LABELS[:2], {"early_stopping": 2}, "troika_train.early_stopping"),
        ([(None, None, None)] * 3, {"epochs": 0}, None),
        ([(None, None, None)] * 3, {"mode": "reference"}, None),
        ([(None, None, None)] * 3, {"mode": "keep"}, None),
        (LABELS, {"early_stopping": 2}, None),
    ],
)
def test_what_troika_needs(
    labels: Sequence[Label], troika: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    found = judged(tables(tmp_path, labels, added=[("A", "B")]), troika=troika).faults
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_a_glove_file_is_read_before_troika_trains(tmp_path: Path) -> None:
    glove = tmp_path / "glove.txt"
    chosen = {"vectors": "glove", "glove": str(glove)}
    paths = tables(tmp_path)
    assert "no file" in judged(paths, feasibility=chosen).faults[0]
    glove.write_text("canvas 1 2\nboots 2 1\n")
    assert "lacks 'suede' (Suede)" in judged(paths, feasibility=chosen).faults[0]
    assert judged(paths, feasibility=chosen | {"vectors": "clip"}).faults == []
    glove.write_text("canvas 1 2\nboots 2 1\nsuede 0 1\n")
    assert judged(paths, feasibility=chosen).faults == []


def test_the_proof_is_written_only_without_faults_and_doubts_beside_it(tmp_path: Path) -> None:
    proof, doubts = tmp_path / "proof.txt", tmp_path / "doubts.json"
    sections = (
        PARAMS.clip_embed,
        PARAMS.enhance,
        PARAMS.troika_train,
        PARAMS.troika_predict,
        PARAMS.finetune,
    )
    paths = tables(tmp_path, [("N/A", "Boots", "train")])
    with pytest.raises(DataError, match="one labelled"):
        check_data(paths, *sections, proof=proof, doubts=doubts)
    assert not proof.exists() and not doubts.exists()
    paths = tables(tmp_path, [("N/A", "Boots", "train")] * 2)
    check_data(paths, *sections, proof=proof, doubts=doubts)
    before = proof.read_bytes()
    assert len(json.loads(doubts.read_text())["warnings"]) == 1
    check_data(tables(tmp_path), *sections, proof=proof, doubts=doubts)
    assert proof.read_bytes() == before
    assert json.loads(doubts.read_text()) == {"warnings": []}


def test_titles_are_asked_for_before_anything_costly(tmp_path: Path) -> None:
    """And nobody opens the catalog where they are not what is learnt."""
    paths = tables(tmp_path)
    splits = read_table(paths.splits, SPLITS).to_pylist()
    for row, name in zip(splits, ("train", "val", "test"), strict=True):
        row["caption_split"] = name
    write_table(pa.Table.from_pylist(splits, SPLITS), paths.splits, SPLITS)
    assert judged(paths) == Findings([], [])
    with open_shards(paths.catalog, 1) as shards:
        for number, title in enumerate(("A shoe", None, "  ")):
            name = str(number)
            shards.write(CatalogRow(name, name, b"photo" + name.encode(), name, title=title))
    (fault,) = judged(paths, target="title").faults
    for part in ("finetune.target is title", "no image of val nor of test", "catalog", "enhanced"):
        assert part in fault
