"""Whatever reads a file names it where it is damaged: each reader, each kind of damage."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from small_catalog import write_catalog

from compositional_prompts.captioner.decoding.grammar_file import read_grammar, write_grammar
from compositional_prompts.captioner.features.feature_store import (
    METADATA_FILE,
    TENSOR,
    map_shard,
    read_metadata,
)
from compositional_prompts.captioner.model.weight_files import INDEX, tensor_shape, weight_files
from compositional_prompts.catalog.reading import count_rows, iterate_images, read_labels
from compositional_prompts.catalog.splitting.split_images import split_images
from compositional_prompts.catalog.truth import known_groups, read_truth
from compositional_prompts.compute.torch_files import read_state_dict
from compositional_prompts.compute.training.checkpoints import CHECKPOINT_FILE, Checkpoints
from compositional_prompts.datasets.compositional.ut_zappos import read_truth as zappos_truth
from compositional_prompts.datasets.feeds.merchant_xml import read_items
from compositional_prompts.datasets.folders.record_files import open_records
from compositional_prompts.enhancement.word_scorer import GroupScorer, WordScorer, load_word_scorer
from compositional_prompts.files.archives import open_archive
from compositional_prompts.files.records.json_objects import read_json_object
from compositional_prompts.files.tables import (
    count_table_rows,
    is_absent,
    iterate_table,
    parquet_schema,
    read_columns,
    read_table,
    required,
)
from compositional_prompts.labelling.hand_labels import read_hand_labels
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.yaml_file import read_yaml
from compositional_prompts.project.timing_table import timing_table
from compositional_prompts.reporting.browsing.photo_records import _rows_of
from compositional_prompts.reporting.browsing.set_aside import read_set_aside
from compositional_prompts.results.kept_models import ORIGIN_FILE, Origin, read_origin, write_origin
from compositional_prompts.results.stage_metrics import read_metrics
from compositional_prompts.troika.evaluation.glove import read_word_vectors
from compositional_prompts.troika.model.model_folder import CONFIG_FILE as TROIKA_CONFIG
from compositional_prompts.troika.model.model_folder import read_config

WORDS = pa.schema([required("image_id", pa.string()), required("word", pa.string())])


def write_words(path: Path) -> None:
    ids = [f"{number}.png" for number in range(3000)]
    pq.write_table(pa.table([ids, ids[::-1]], schema=WORDS), path, compression="zstd")


def write_json(document: Any) -> Callable[[Path], None]:
    return lambda path: path.parent.mkdir(exist_ok=True) or path.write_text(json.dumps(document))  # type: ignore[func-returns-value]


def write_tensors(path: Path) -> None:
    save_file({TENSOR: np.zeros((2, 3, 4), np.float32)}, path)


def write_torch(path: Path) -> None:
    torch.save({"weight": torch.zeros(64, 64)}, path)


def write_scorer(path: Path) -> None:
    WordScorer({"color": GroupScorer(("red", "blue"), "cosine", np.eye(2, dtype=np.float32))}).save(
        path.parent
    )


def write_archive(path: Path) -> None:
    content = bytes(range(256)) * 40
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("photo.jpg", content)
        return
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        member = tarfile.TarInfo("photo.jpg")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def write_text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def write_shards(path: Path) -> None:
    write_catalog(path.parent, 3)


def read_archive(path: Path) -> None:
    archive = open_archive(path, path.parent)
    try:
        assert archive.read("photo.jpg", 2**20) == bytes(range(256)) * 40
    finally:
        archive.close()


def read_records(path: Path) -> None:
    records = open_records(path)
    try:
        for _ in records.records():
            pass
    finally:
        records.close()


SHARD = "catalog/part-00000.parquet"
ROWS = "{}\n".format("\n".join(f"photo-{n:03}.jpg,red,Boots" for n in range(200)))
LINES = "\n".join(json.dumps({"image": f"{n}.jpg", "object": "Boots"}) for n in range(200))
ITEM = "<item><id>1</id><title>Boots of canvas</title></item>\n"
VECTORS = "".join(f"word{n} 0.1 0.2 0.3\n" for n in range(100))
TRUTH_ROWS = "CID,Material,Closure,HeelHeight,ToeStyle,Insole,Gender\n"
OTHER: Mapping[str, Any] = {"format": 99}
"""A file of another version of whatever it is."""


class Reader(NamedTuple):
    """Attributes:
    file: what it is called.
    write: makes a sound one.
    read: by its path.
    cut: whether half of it may be whole, as of a list of lines.
    other: what a file of another version holds, or None where there are no versions.
    """

    file: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    cut: bool = False
    other: bytes | None = None


def table(read: Callable[[Path], object], other: bool = True) -> Reader:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"number": [1, 2]}), buffer)
    return Reader("words.parquet", write_words, read, other=buffer.getvalue() if other else None)


def document(
    read: Callable[[Path], object], sound: Any, file: str = "it.json", other: Any = OTHER
) -> Reader:
    return Reader(file, write_json(sound), read, other=json.dumps(other).encode())


ORIGIN = Origin(**dict.fromkeys(Origin.__annotations__, "x"))  # type: ignore[arg-type]

READERS: dict[str, Reader] = {
    "read_table": table(lambda path: read_table(path, WORDS)),
    "iterate_table": table(lambda path: list(iterate_table(path, WORDS, 100))),
    "read_columns": table(lambda path: read_columns(path, ["image_id", "word"])),
    "parquet_schema": table(parquet_schema, other=False),
    "count_table_rows": table(count_table_rows, other=False),
    "is_absent": table(lambda path: is_absent(path, "word")),
    "split_images": table(lambda path: split_images(path, "test", None, 0)),
    "known_groups": table(known_groups),
    "read_truth": table(lambda path: read_truth(path, pa.array(["1"]), ["color"])),
    "polars, rows of the page": table(lambda path: _rows_of(path, WORDS, ["word"], ["1.png"])),
    "polars, what was set aside": table(read_set_aside, other=False),
    "catalog, labels": Reader(SHARD, write_shards, lambda path: read_labels(path.parent)),
    "catalog, images": Reader(
        SHARD, write_shards, lambda path: list(iterate_images(path.parent, ["image-0001.png"]))
    ),
    "catalog, rows": Reader(SHARD, write_shards, lambda path: count_rows(path.parent)),
    "read_json_object": document(lambda path: read_json_object(path, "cache"), {"cache": True}),
    "read_metrics": document(read_metrics, {"images": 1}, other=[1]),
    "features.json": document(
        lambda path: read_metadata(path.parent), {"cache": False}, METADATA_FILE
    ),
    "troika": document(lambda path: read_config(path.parent), {"format": 1}, TROIKA_CONFIG),
    "timing": document(lambda path: timing_table(path.parent), {}, "timing/infer.json"),
    "weight index": document(
        lambda path: weight_files(path.parent), {"weight_map": {"a": "a.safetensors"}}, INDEX
    ),
    "grammar": Reader(
        "grammar.json",
        lambda path: write_grammar([["a"], ["b", "c"]], path.parent),
        lambda path: read_grammar(path.parent),
        other=b"[]",
    ),
    "origin": Reader(
        ORIGIN_FILE,
        lambda path: write_origin(ORIGIN, path.parent),
        lambda path: read_origin(path.parent),
        other=b"[]",
    ),
    "word scorer": Reader(
        "scorer/config.json", write_scorer, lambda path: load_word_scorer(path.parent), other=b"{}"
    ),
    "word vectors of the scorer": Reader(
        "scorer/model.safetensors", write_scorer, lambda path: load_word_scorer(path.parent)
    ),
    "feature shard": Reader("features-00000.safetensors", write_tensors, map_shard),
    "tensor_shape": Reader(
        "model.safetensors", write_tensors, lambda path: tensor_shape([path], TENSOR)
    ),
    "state dict": Reader("model.pt", write_torch, read_state_dict),
    "checkpoint": Reader(
        CHECKPOINT_FILE, write_torch, lambda path: Checkpoints(path.parent, 0).load()
    ),
    "zip": Reader("photos.zip", write_archive, read_archive),
    "tar": Reader("photos.tar", write_archive, read_archive),
    "tar.gz": Reader("photos.tar.gz", write_archive, read_archive),
    "params.yaml": Reader("params.yaml", write_text("base:\n  seed: 1\n" * 1), read_yaml, cut=True),
    "labels by hand": Reader(
        "labels.csv",
        write_text("image_id,color\n" + "".join(f"{n}.jpg,red\n" for n in range(200))),
        lambda path: read_hand_labels(path.parent, {"color": ["red"]}),
        cut=True,
    ),
    "a table of photos": Reader(
        "photos.csv", write_text("image_path,attribute,object\n" + ROWS), read_records, cut=True
    ),
    "JSON Lines": Reader("photos.jsonl", write_text(LINES), read_records),
    "a JSON list": Reader(
        "photos.json", write_text("[" + LINES.replace("\n", ",") + "]"), read_records
    ),
    "a feed": Reader(
        "feed.xml",
        write_text("<rss><channel>" + ITEM * 50 + "</channel></rss>"),
        lambda path: list(read_items(path)),
    ),
    "word vectors": Reader(
        "glove.txt", write_text(VECTORS), lambda path: read_word_vectors(path, ["word7"]), cut=True
    ),
    "meta-data.csv": Reader(
        "meta-data.csv",
        write_text(TRUTH_ROWS),
        lambda path: zappos_truth(path.read_bytes(), str(path)),
        cut=True,
    ),
}


def damaged(sound: bytes, kind: str) -> bytes:
    third = len(sound) // 3
    return {
        "empty": b"",
        "begin": b"\xff" * min(64, third) + sound[min(64, third) :],
        "middle": sound[:third] + b"\xff" * third + sound[2 * third :],
        "end": sound[: len(sound) // 2],
        "text": b"<html>no such file</html>",
    }[kind]


def told(read: Callable[[], object], path: Path, patch: pytest.MonkeyPatch) -> str | None:
    """What a stage says that reads so; None where it reads. A traceback is an error."""
    patch.setattr(sys, "argv", ["stages/reader.py", "--file", str(path)])
    patch.delenv("COMPOSITIONAL_PROMPTS_TRACEBACK", raising=False)

    def main() -> None:
        read()

    try:
        run_script(main)
    except SystemExit as ended:
        return str(ended.code)
    return None


OF_OTHER_COLUMNS = {
    "known_groups",
    "read_truth",
    "split_images",
    "timing",
    "weight index",
    "polars, what was set aside",
}
"""Readers that refuse even the sound file of the test, which is for what they do with bytes."""

# Damage of bytes that a reader does not read, or that have no form which could be wrong.
MAY_READ = {
    ("parquet_schema", "begin"),
    ("count_table_rows", "begin"),
    ("is_absent", "begin"),
    ("catalog, rows", "begin"),
    ("parquet_schema", "middle"),
    ("count_table_rows", "middle"),
    ("is_absent", "middle"),
    ("catalog, rows", "middle"),
    ("feature shard", "middle"),
    ("tensor_shape", "middle"),
    ("word vectors of the scorer", "middle"),
    ("catalog, labels", "middle"),
    ("word vectors", "middle"),
    ("word vectors", "begin"),
    ("labels by hand", "empty"),
    # Their readers find no column or no item, and say so themselves.
    ("a table of photos", "empty"),
    ("a table of photos", "text"),
    ("JSON Lines", "empty"),
    ("a feed", "text"),
}


@pytest.mark.parametrize("kind", ["empty", "begin", "middle", "end", "text", "other version"])
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = READERS[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / reader.file
    path.parent.mkdir(exist_ok=True)
    reader.write(path)
    if kind == "other version":
        if reader.other is None:
            pytest.skip("knows no versions")
        path.write_bytes(reader.other)
    else:
        path.write_bytes(damaged(path.read_bytes(), kind))
    said = told(lambda: reader.read(path), path, monkeypatch)
    if said is None:
        assert (name, kind) in MAY_READ or (kind == "end" and reader.cut)
        return
    assert said.startswith("reader: ")
    assert str(path) in said or str(path.parent) in said
    assert "\n" not in said and "Traceback" not in said


@pytest.mark.parametrize("name", READERS)
def test_a_sound_file_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / READERS[name].file
    path.parent.mkdir(exist_ok=True)
    READERS[name].write(path)
    said = told(lambda: READERS[name].read(path), path, monkeypatch)
    assert said is None or name in OF_OTHER_COLUMNS
