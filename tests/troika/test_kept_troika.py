"""A kept Troika in a catalogue that has grown: what it names, and what it is refused for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from growth.grown_catalogue import ORIGIN, write_kept
from trained_project import write_clip
from troika.training_run import VOCABULARY, make_params, new_model

from compositional_prompts.catalog.splitting.split_tables import PAIRS, SPLITS
from compositional_prompts.clip.open_clip_model import load_clip
from compositional_prompts.files.outputs import MismatchedOutputsError
from compositional_prompts.files.tables import write_table
from compositional_prompts.results.kept_models import CONTENTS_FILE, MODEL, KeptModelError
from compositional_prompts.troika.model.kept_troika import keep_troika
from compositional_prompts.troika.model.model_folder import (
    CheckpointError,
    TrainedState,
    load_model,
    save_model,
    vocabulary_to_name,
)
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary, labelled_images

Row = tuple[str, str, str, bool]

THEN: list[Row] = [
    (*pair, split, seen)
    for pair, split, seen in zip(VOCABULARY.pairs, VOCABULARY.splits, VOCABULARY.seen, strict=True)
]
GREW: list[Row] = [
    ("Canvas", "Boots", "train", True),
    # Canvas_Heels, which it has seen, has no photo left.
    ("Silk", "Boots", "train", True),
    ("Wool", "Boots", "train", True),
    ("Wool", "Heels", "train", True),  # unseen then
    ("Wool", "Slippers", "test", False),
]
PARAMS = make_params(mode="keep")


def write_pairs(path: Path, rows: Sequence[Row]) -> Path:
    columns = list(zip(*rows, strict=True))
    write_table(pa.table([*columns, [1] * len(rows)], schema=PAIRS), path, PAIRS)
    return path


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "clip"
    write_clip(folder, seed=0)
    return folder


@pytest.fixture
def source(clip_folder: Path, tmp_path: Path) -> Path:
    """A kept Troika of random weights."""
    clip = load_clip(clip_folder, torch.device("cpu"))
    model = new_model(clip, make_params())
    tensors = {name: tensor.clone() for name, tensor in model.trained_state().items()}
    folder = tmp_path / "keep" / "troika"
    write_kept(folder, ORIGIN, {"a": True})
    state = TrainedState(tensors, tensors, best_epoch=1, epochs=2)
    save_model(folder / MODEL, VOCABULARY, clip, model.config, state)
    return folder


def test_it_is_written_as_it_was_trained(source: Path, clip_folder: Path, tmp_path: Path) -> None:
    pairs, written = write_pairs(tmp_path / "pairs.parquet", GREW), tmp_path / "troika"
    written.mkdir()
    (written / "leftover").write_text("of another training")
    metrics = keep_troika(source, pairs, clip_folder, written, PARAMS)
    kept = {path.name: path.read_bytes() for path in (source / MODEL).iterdir()}
    assert {path.name: path.read_bytes() for path in written.iterdir()} == kept
    assert (metrics["mode"], metrics["trained"]) == ("keep", True)
    # Silk_Boots and Wool_Slippers have words that it does not know; Canvas_Heels stays its own.
    assert metrics["pairs"] == {"seen": 3, "all": 4, "unknown": 2}
    assert metrics["origin"]["kept"] == ORIGIN.kept
    assert "train_loss" not in metrics and "best" not in metrics


def test_it_names_pairs_of_the_words_that_it_knows(source: Path, tmp_path: Path) -> None:
    grown = vocabulary_to_name(source / MODEL, write_pairs(tmp_path / "pairs.parquet", GREW))
    assert (grown.attributes, grown.objects) == (("Canvas", "Wool"), ("Boots", "Heels"))
    assert grown.pairs == VOCABULARY.pairs
    assert grown.seen == VOCABULARY.seen
    # Wool_Heels trains by now, and has not been seen: it is judged on test images.
    assert grown.splits == ("train", "train", "train", "test")
    assert list(grown.world("test")) == [0, 1, 2, 3]

    # As long as nothing has grown, it is the table's, in the table's order.
    same = write_pairs(tmp_path / "same.parquet", THEN[:3])
    assert vocabulary_to_name(source / MODEL, same) == Vocabulary.read(same)


def test_a_new_pair_of_known_words_is_a_candidate() -> None:
    trained = Vocabulary.of(
        [("Canvas", "Boots"), ("Wool", "Heels")], [True, True], ["train"] * 2, ""
    )
    listed = Vocabulary.of(
        [("Wool", "Boots"), ("Silk", "Boots"), ("Canvas", "Heels")],
        [True, True, False],
        ["train", "train", "val"],
        "",
    )
    grown = trained.of_kept_model(listed)
    assert grown.pairs[:2] == trained.pairs
    assert grown.pairs[2:] == (("Canvas", "Heels"), ("Wool", "Boots"))
    assert grown.seen == (True, True, False, False)
    assert grown.splits[2:] == ("val", "test")


def test_images_of_unknown_words_are_not_measured(source: Path, tmp_path: Path) -> None:
    grown = vocabulary_to_name(source / MODEL, write_pairs(tmp_path / "pairs.parquet", GREW))
    rows = [("1", "Silk", "Boots"), ("2", "Wool", "Heels"), ("3", "Canvas", "Boots")]
    table = [
        {
            **{"image_id": name, "product_id": name, "attribute": attribute, "object": item},
            **{"caption_split": "test", "pair_split": "test", "pair_seen": True},
        }
        for name, attribute, item in rows
    ]
    splits = tmp_path / "splits.parquet"
    write_table(pa.Table.from_pylist(table, SPLITS), splits, SPLITS)
    found = labelled_images(splits, grown, "test")
    assert found.image_ids == ["2", "3"]
    assert np.array_equal(found.pairs, [3, 0])
    assert len(labelled_images(splits, grown, "val")) == 0
    # A model that was trained on these labels lacks none: then tables do not belong together.
    with pytest.raises(MismatchedOutputsError, match="'1' of split test has the pair Silk_Boots"):
        labelled_images(splits, VOCABULARY, "test")


def test_what_does_not_fit_is_refused(source: Path, clip_folder: Path, tmp_path: Path) -> None:
    pairs, written = write_pairs(tmp_path / "pairs.parquet", GREW), tmp_path / "troika"
    strangers = write_pairs(tmp_path / "other.parquet", [("Red", "Car", "train", True)])
    with pytest.raises(CheckpointError, match=r"none of the 1 pairs .+ 'Canvas', 'Wool'"):
        keep_troika(source, strangers, clip_folder, written, PARAMS)
    write_clip(tmp_path / "clip", seed=1)
    with pytest.raises(CheckpointError, match="was trained on the CLIP"):
        keep_troika(source, pairs, tmp_path / "clip", written, PARAMS)
    (source / CONTENTS_FILE).unlink()
    lacking = r"contents\.parquet is missing: fetch .+`dvc pull .+keep`, or set troika_train\.mode"
    with pytest.raises(KeptModelError, match=lacking):
        keep_troika(source, pairs, clip_folder, written, PARAMS)
    with pytest.raises(KeptModelError, match=r"troika_train\.mode is keep, and .+ is missing"):
        keep_troika(tmp_path / "nowhere" / "troika", pairs, clip_folder, written, PARAMS)
    assert not written.exists()


def test_zero_shot_clip_names_whatever_there_is(clip_folder: Path, tmp_path: Path) -> None:
    clip = load_clip(clip_folder, torch.device("cpu"))
    source = tmp_path / "troika"
    write_kept(source, ORIGIN, {})
    model = new_model(clip, make_params())
    save_model(source / MODEL, VOCABULARY, clip, model.config, None)
    pairs = write_pairs(tmp_path / "pairs.parquet", GREW)
    metrics = keep_troika(source, pairs, clip_folder, tmp_path / "written", PARAMS)
    assert metrics["trained"] is False
    assert metrics["pairs"] == {"seen": 4, "all": 5, "unknown": 0}
    vocabulary = vocabulary_to_name(tmp_path / "written", pairs)
    assert load_model(tmp_path / "written", vocabulary, clip) is None
