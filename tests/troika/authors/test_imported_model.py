"""A checkpoint of the authors' in place of a training: what is written, and what DVC records."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from curve_files import curve_rows
from dvc_project import Project, ran
from troika.authors.authors_files import (
    BOTTLENECK,
    DIMENSION,
    PAIR_ROWS,
    TRACTION,
    State,
    trained_shapes,
    write_pairs,
)  # fmt: skip

from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.clip.open_clip_model import load_clip
from compositional_prompts.files.tables import write_table
from compositional_prompts.troika.authors.authors_checkpoint import ReferenceCheckpointError
from compositional_prompts.troika.authors.imported_model import import_reference
from compositional_prompts.troika.model.model_folder import CheckpointError, load_model
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.parameters import TroikaTrain

CPU = torch.device("cpu")
SOURCE = Path("models/source")
REFERENCE = SOURCE / "reference" / "troika"


def test_the_model_folder_is_a_trained_one(
    clip_folder: Path, params: TroikaTrain, saved: Any, state: State, tmp_path: Path
) -> None:
    pairs, folder = tmp_path / "pairs.parquet", tmp_path / "troika"
    write_pairs(pairs)
    folder.mkdir()
    (folder / "leftover").write_text("of an earlier training")
    metrics = import_reference(saved(), pairs, clip_folder, folder, params)
    names = {file.name for file in folder.iterdir()}
    assert names == {"config.json", "best.safetensors", "last.safetensors"}
    assert (folder / "best.safetensors").read_bytes() == (folder / "last.safetensors").read_bytes()
    model = load_model(folder, Vocabulary.read(pairs), load_clip(clip_folder, CPU))
    assert model is not None
    assert torch.equal(model.traction.gain, state["lamda"])

    frozen = sum(part.numel() for part in model.clip.parameters())
    trained = sum(
        int(np.prod(shape)) for name, shape in trained_shapes(6).items() if "bn1_fc." not in name
    )
    trained += 4 * DIMENSION  # weight and bias of both batch norms; statistics are no parameters
    assert metrics == {
        "mode": params.mode,
        "trained": True,
        "selection": "imported",
        "pairs": {"seen": 3, "all": 4},
        "parameters": {"total": frozen + trained, "trainable": trained},
        "score_weights": {
            "chosen_by": "fixed",
            "composition": 1.0,
            "primitives": 1.0,
            "zero_shot": 0.0,
        },
    }


def test_nothing_is_written_when_it_fails(
    clip_folder: Path, params: TroikaTrain, saved: Any, tmp_path: Path
) -> None:
    write_pairs(tmp_path / "pairs.parquet")
    path = saved(lambda state: {**state, "extra": torch.zeros(1)})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ReferenceCheckpointError, match=r"left over \(1\): extra"):
        import_reference(path, tmp_path / "pairs.parquet", clip_folder, tmp_path / "troika", params)
    assert set(tmp_path.rglob("*")) == before


def test_it_belongs_to_its_clip_and_its_labels(
    clip_folder: Path, params: TroikaTrain, saved: Any, tmp_path: Path
) -> None:
    pairs, folder = tmp_path / "pairs.parquet", tmp_path / "troika"
    write_pairs(pairs)
    import_reference(saved(), pairs, clip_folder, folder, params)
    labels = Vocabulary.read(pairs)
    other = load_clip(clip_folder, CPU)
    other.model.logit_scale.data.add_(1e-3)
    with pytest.raises(CheckpointError, match="was trained on the CLIP"):
        load_model(folder, labels, other)
    renamed = Vocabulary.of(
        [(a.replace("Wool", "Silk"), o) for a, o in labels.pairs], labels.seen, labels.splits, ""
    )
    message = r"other attributes .+ only in the model \['Wool'\], only in the table \['Silk'\]"
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, renamed, load_clip(clip_folder, CPU))


# --- The stage, as DVC runs it -------------------------------------------------------------------


@pytest.fixture
def project(project_root: Path, clip_folder: Path, tmp_path: Path) -> Project:
    """The stage ``troika_train`` alone, as it stands in dvc.yaml, with what it reads."""
    root = tmp_path / "project"
    for name in ("src", "stages", SOURCE):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "keep")
        shutil.copytree(project_root / name, root / name, ignore=ignored)
    shutil.copy(project_root / "params.yaml", root)
    stage = yaml.safe_load((project_root / "dvc.yaml").read_text())["stages"]["troika_train"]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"troika_train": stage}}))
    shutil.copytree(clip_folder, root / "models" / "troika_clip")
    (root / "data" / "catalog").mkdir(parents=True)
    (root / "data" / "catalog" / "part-00000.parquet").write_bytes(b"not read without training")
    write_pairs(root / "data" / "pairs.parquet")
    rows = [
        {
            **dict.fromkeys(("image_id", "product_id"), str(number)),
            **{"attribute": attribute, "object": name, "caption_split": "train"},
            **{"pair_split": split, "pair_seen": seen},
        }
        for number, (attribute, name, seen, split) in enumerate(PAIR_ROWS)
    ]
    write_table(pa.Table.from_pylist(rows, SPLITS), root / "data" / "splits.parquet", SPLITS)
    project = Project(root, tmp_path / "home")
    project.git("init", "--quiet")
    project.dvc("init", "--quiet")
    project.change(
        {
            "troika_train.epochs": 0,
            "troika_train.adapter_dim": BOTTLENECK,
            "troika_train.traction_layers": TRACTION,
        }
    )
    return project


def recorded(project: Project, kind: str) -> Mapping[str, str]:
    """The md5 in dvc.lock of what the stage reads or writes, by path."""
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())
    return {entry["path"]: entry["md5"] for entry in lock["stages"]["troika_train"][kind]}


@pytest.mark.end_to_end
def test_the_checkpoint_is_a_dependency_while_it_is_the_source(
    project: Project, state: State
) -> None:
    reference = project.root / REFERENCE
    assert ran(project.dvc("repro")) == ["troika_train"]
    trained = recorded(project, "outs")
    assert not any("reference" in path for path in recorded(project, "deps"))

    # Nothing is asked of a file that is not used, there or not.
    torch.save(state, reference)
    assert "up to date" in project.dvc("status")
    assert project.git("check-ignore", str(REFERENCE)).strip()

    project.change({"troika_train.mode": "reference"})
    assert ran(project.dvc("repro")) == ["troika_train"]
    imported = recorded(project, "outs")
    assert imported.keys() == trained.keys()
    assert imported["models/troika"] != trained["models/troika"]
    md5 = hashlib.md5(reference.read_bytes()).hexdigest()
    assert recorded(project, "deps")[str(REFERENCE)] == md5
    assert project.metrics("troika_train")["selection"] == "imported"
    assert curve_rows(project.root / "metrics/curves/troika_train") == []
    assert "up to date" in project.dvc("status")

    torch.save({**state, "lamda": state["lamda"] + 1}, reference)
    assert ran(project.dvc("repro")) == ["troika_train"]
    assert recorded(project, "outs")["models/troika"] != imported["models/troika"]

    # The cache of runs has the trained model; going back computes nothing.
    project.change({"troika_train.mode": "train"})
    output = project.dvc("repro")
    assert (ran(output), recorded(project, "outs")) == ([], trained), output
    assert project.metrics("troika_train")["trained"] is False
    project.change({"troika_train.mode": "reference"})
    reference.unlink()
    status, output = project.attempt("dvc", "repro")
    assert status != 0
    assert str(REFERENCE) in output


@pytest.mark.end_to_end
def test_the_source_is_shared_as_dvc_shares_data(project: Project, state: State) -> None:
    """A file that ``dvc add`` keeps, and a link to a file elsewhere, may be the checkpoint."""
    elsewhere = project.home / "val_best.pt"
    elsewhere.parent.mkdir(exist_ok=True)
    torch.save(state, elsewhere)
    reference = project.root / REFERENCE
    reference.symlink_to(elsewhere)
    project.change({"troika_train.mode": "reference"})
    assert ran(project.dvc("repro")) == ["troika_train"]
    imported = recorded(project, "deps")
    reference.unlink()
    shutil.copy(elsewhere, reference)
    project.dvc("add", str(REFERENCE))
    assert "up to date" in project.dvc("status")
    assert recorded(project, "deps") == imported
