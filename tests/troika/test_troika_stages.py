"""From a catalog to named images: both stages on a small data set, and the zero-shot baseline."""

from __future__ import annotations

import io
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from curve_files import curve_rows
from PIL import Image
from trained_project import write_clip

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.catalog.splitting.split_tables import PAIRS, SPLITS
from compositional_prompts.clip.open_clip_model import Clip, load_clip
from compositional_prompts.files import tables as tables_module
from compositional_prompts.files.tables import read_table, write_table
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.troika import prediction as prediction_module
from compositional_prompts.troika.model.model_folder import load_model
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS
from compositional_prompts.troika.parameters import TroikaPredict
from compositional_prompts.troika.prediction import predict
from compositional_prompts.troika.training import pixel_cache as pixels_module
from compositional_prompts.troika.training import score_choice
from compositional_prompts.troika.training.pixel_cache import decode_pixels

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
PAIR_ROWS = [
    ("Canvas", "Shoes.Flats", "train", True),
    ("Canvas", "Slippers", "val", False),
    ("Faux.Leather", "Shoes.Flats", "train", True),
    ("Faux.Leather", "Slippers", "train", True),
    ("Wool", "Shoes.Flats", "test", False),
    ("Wool", "Slippers", "train", True),
]


def encoded_image(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((24, 18)).save(buffer, "PNG")
    return buffer.getvalue()


def image_rows() -> list[tuple[str, str | None, str | None, str | None]]:
    """image_id, attribute, object, pair_split; not in the order of the splits table."""
    rows: list[tuple[str, str | None, str | None, str | None]] = []
    for attribute, name, split, seen in PAIR_ROWS:
        splits = ["train"] * 4 + ["val", "test"] if seen else [split] * 3
        rows += [
            (f"{attribute}-{name}-{number}", attribute, name, part)
            for number, part in enumerate(splits)
        ]
    rows += [(f"unlabelled-{number}", None, None, None) for number in range(3)]
    order = np.random.default_rng(5).permutation(len(rows))
    return [rows[position] for position in order]


class Workspace:
    """A data set and a CLIP on disk, and the paths of what the stages write."""

    def __init__(self, root: Path, labelled: bool = True) -> None:
        self.root = root
        self.images = [row if labelled else (row[0], None, None, None) for row in image_rows()]
        self.catalog = root / "data" / "catalog"
        self.splits = root / "data" / "splits.parquet"
        self.pairs = root / "data" / "pairs.parquet"
        self.clip = root / "models" / "clip"
        self.model = root / "models" / "troika"
        self.prompts = root / "data" / "prompts" / "original.parquet"
        self.params = root / "params.yaml"
        write_clip(self.clip, 0, "shortest")
        self.write_catalog([row[0] for row in self.images])
        by_id = sorted(self.images)
        self.write_splits(by_id)
        columns = list(zip(*PAIR_ROWS, strict=True))
        table = pa.table([*columns, [1] * len(PAIR_ROWS)], schema=PAIRS)
        write_table(table, self.pairs, PAIRS)
        self.set_params()

    def write_catalog(self, image_ids: list[str]) -> None:
        with open_shards(self.catalog, shard_mib=1) as shards:
            for name in image_ids:
                shards.write(CatalogRow(name, name, encoded_image(sum(name.encode())), path=name))

    def write_splits(self, rows: list[tuple[str, str | None, str | None, str | None]]) -> None:
        ids, attributes, names, splits = zip(*rows, strict=True)
        table = pa.table(
            {
                "image_id": ids,
                "product_id": ids,
                "attribute": pa.array(attributes, pa.string()),
                "object": pa.array(names, pa.string()),
                "caption_split": ["train"] * len(ids),
                "pair_split": pa.array(splits, pa.string()),
                "pair_seen": pa.nulls(len(ids), pa.bool_()),
            },
            schema=SPLITS,
        )
        write_table(table, self.splits, SPLITS)

    def set_params(self, **training: Any) -> None:
        document = yaml.safe_load((ROOT / "params.yaml").read_text())
        document["base"]["checkpoint_seconds"] = 0
        document["base"]["rows"]["path"] = str(self.root / "rows")
        small = {"epochs": 2, "batch_size": 8, "adapter_dim": 4, "precision": "float32"}
        document["troika_train"].update({**small, "learning_rate": 0.01, **training})
        document["troika_predict"].update({"batch_size": 7, "top_k": 4})
        self.params.write_text(yaml.safe_dump(document))

    def arguments(self, stage: str, *names: str) -> list[str]:
        """The script of a stage and what it is called with."""
        paths = {
            "metrics": self.root / f"{stage}.json",
            "curve": self.root / "curve",
            "source": ROOT / "models" / "source" / "train" / "troika",
        }
        arguments = [str(ROOT / "stages" / f"{stage}.py"), "--params", str(self.params)]
        for name in ("catalog", "splits", "pairs", "clip", "model", *names):
            arguments += [f"--{name}", str(paths.get(name) or getattr(self, name))]
        return arguments

    def run(self, stage: str, monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, Any]:
        """Run a stage script; returns its metrics."""
        arguments = self.arguments(stage, *names)
        with monkeypatch.context() as patch:
            patch.chdir(self.root)  # a stage keeps its checkpoints where it is called
            patch.setattr(sys, "argv", arguments)
            runpy.run_path(arguments[0], run_name="__main__")
        timing = json.loads((self.root / "timing" / f"{stage}.json").read_text())
        assert timing["stage"] == stage
        metrics: dict[str, Any] = json.loads((self.root / f"{stage}.json").read_text())
        return {**metrics, "rows": timing["rows"]}

    def train(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        return self.run("troika_train", monkeypatch, "source", "metrics", "curve")

    def predict(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        return self.run("troika_predict", monkeypatch, "prompts", "metrics")

    def pixel_values(self, clip: Clip) -> torch.Tensor:
        images = [decode_rgb(encoded_image(sum(row[0].encode()))) for row in self.images]
        return torch.stack([clip.preprocess(image) for image in images])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def check_prompts(workspace: Workspace, scores: torch.Tensor) -> None:
    """The table must be what independently computed scores of every pair say."""
    rows = read_table(workspace.prompts, ORIGINAL_PROMPTS).to_pylist()
    assert [row["image_id"] for row in rows] == [row[0] for row in workspace.images]
    for row, values in zip(rows, scores.double().numpy(), strict=True):
        order = sorted(range(len(values)), key=lambda column: -values[column])[:4]
        exponents = np.exp(values - values.max())
        best = [PAIR_ROWS[column] for column in order]
        assert row["top_attributes"] == [pair[0] for pair in best]
        assert row["top_objects"] == [pair[1] for pair in best]
        assert row["original_prompt"] == f"A photo of {best[0][0]}_{best[0][1]}"
        assert (row["attribute"], row["object"]) == best[0][:2]
        probabilities = exponents[order] / exponents.sum()
        np.testing.assert_allclose(row["top_probabilities"], probabilities, rtol=1e-4)
        assert row["probability"] == row["top_probabilities"][0]


def closed_world_accuracy(workspace: Workspace, scores: torch.Tensor, world: list[int]) -> float:
    """Share of the images of unseen test pairs named rightly among the unseen pairs of a world."""
    pairs = [pair[:2] for pair in PAIR_ROWS]
    hits = []
    for row, values in zip(workspace.images, scores.tolist(), strict=True):
        if row[3] == "test" and not PAIR_ROWS[pairs.index((row[1], row[2]))][3]:  # type: ignore[arg-type]
            unseen = [column for column in world if not PAIR_ROWS[column][3]]
            best = max(unseen, key=lambda column: values[column])
            hits.append(pairs[best] == (row[1], row[2]))
    return sum(hits) / len(hits)


def test_train_and_predict(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = workspace.train(monkeypatch)
    assert trained["images"] == {"train": 16, "val": 7}
    assert trained["pairs"] == {"seen": 4, "all": 6}
    assert (trained["epochs"], trained["selection"], trained["rows"]) == (2, "val_auc", 46)
    rows = curve_rows(workspace.root / "curve")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    best = rows[trained["best_epoch"] - 1]
    assert float(best["train_loss"]) == trained["best"]["train_loss"]
    assert float(best["val_auc"]) == trained["best"]["val_auc"]

    predicted = workspace.predict(monkeypatch)
    assert predicted["rows"] == len(workspace.images)
    closed = predicted["closed"]
    assert predicted["trained"] is True
    assert set(closed) - {"minus"} == set(predicted["zero_shot_closed"])
    assert closed["products"] == 7
    lead = closed["minus"]["zero_shot"]
    assert lead["object_accuracy"] == pytest.approx(
        closed["object_accuracy"] - predicted["zero_shot_closed"]["object_accuracy"], abs=1e-4
    )
    # Closed world of the test images: 4 seen pairs and 1 unseen one; validation's is no candidate.
    counts = {"images": 7, "seen_images": 4, "unseen_images": 3, "pairs": 5, "seen_pairs": 4}
    assert {key: closed[key] for key in counts} == counts

    clip = load_clip(workspace.clip, CPU)
    vocabulary = Vocabulary.read(workspace.pairs)
    model = load_model(workspace.model, vocabulary, clip)
    assert model is not None
    total = sum(parameter.numel() for parameter in model.parameters())
    frozen = sum(parameter.numel() for parameter in clip.model.parameters())
    assert trained["parameters"] == {"total": total, "trainable": total - frozen}
    with torch.no_grad():
        pairs = torch.from_numpy(vocabulary.pair_indices)
        scores = model.pair_scores(model(workspace.pixel_values(clip), pairs), pairs)
    check_prompts(workspace, scores)
    assert closed["best_unseen"] == closed_world_accuracy(workspace, scores, [0, 2, 3, 4, 5])
    timing = workspace.root / "timing" / "troika_predict.json"
    assert json.loads(timing.read_text())["computed"] == len(workspace.images)
    written = workspace.prompts.read_bytes()
    assert workspace.predict(monkeypatch) == predicted
    assert json.loads(timing.read_text())["computed"] == 0
    assert workspace.prompts.read_bytes() == written


def test_labels_of_test_images_decide_nothing_of_the_model(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_choice, "LEAST_IMAGES", 7)

    def trained() -> list[bytes]:
        weights = workspace.train(monkeypatch)["score_weights"]
        assert weights["chosen_by"] == "validation"
        assert weights["val_auc"] >= weights["val_auc_fixed"]
        config = json.loads((workspace.model / "config.json").read_text())["config"]
        for name in ("composition", "primitives", "zero_shot"):
            assert config[f"{name}_score_weight"] == weights[name]
        return [path.read_bytes() for path in sorted(workspace.model.iterdir())]

    before = trained()
    of_test = [row[:2] for row in PAIR_ROWS if row[3] or row[2] == "test"]
    rows = [
        (row[0], *of_test[place % len(of_test)], "test") if row[3] == "test" else row
        for place, row in enumerate(sorted(workspace.images))
    ]
    assert rows != sorted(workspace.images)
    workspace.write_splits(rows)
    assert trained() == before


def test_a_training_has_a_seed_of_its_own(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_seed = yaml.safe_load(workspace.params.read_text())["base"]["seed"]
    weights = []
    for seed in (None, base_seed, base_seed + 1):
        workspace.set_params(seed=seed, epochs=1)
        workspace.train(monkeypatch)
        weights.append((workspace.model / "best.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_no_epochs_name_pairs_by_zero_shot_clip(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.set_params(epochs=0)
    trained = workspace.train(monkeypatch)
    assert (trained["trained"], trained["epochs"], trained["rows"]) == (False, 0, 0)
    assert trained["parameters"]["trainable"] == 0
    predicted = workspace.predict(monkeypatch)
    assert predicted["trained"] is False
    assert predicted["closed"] == predicted["zero_shot_closed"]

    clip = load_clip(workspace.clip, CPU)
    texts = [
        "a photo of canvas shoes flats",
        "a photo of canvas slippers",
        "a photo of faux leather shoes flats",
        "a photo of faux leather slippers",
        "a photo of wool shoes flats",
        "a photo of wool slippers",
    ]
    tokens = open_clip.SimpleTokenizer(context_length=16)(texts)
    with torch.no_grad():
        scores, _ = clip.model.get_logits(workspace.pixel_values(clip), tokens)  # type: ignore[operator]
    check_prompts(workspace, scores)
    assert scores.std() > 1e-3


def test_runs_repeat_whatever_the_number_of_workers(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []
    for workers in (1, 3):
        document = yaml.safe_load(workspace.params.read_text())
        document["base"]["workers"] = workers
        workspace.params.write_text(yaml.safe_dump(document))
        workspace.train(monkeypatch)
        workspace.predict(monkeypatch)
        files = (workspace.model / "best.safetensors", workspace.prompts)
        outputs.append([path.read_bytes() for path in files])
    assert outputs[0] == outputs[1]


def test_unlabelled_data_is_named_and_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path, labelled=False)
    with pytest.raises(SystemExit, match=r"troika_train\.epochs: 0"):
        workspace.train(monkeypatch)
    assert not workspace.model.exists()
    workspace.set_params(epochs=0)
    workspace.train(monkeypatch)
    metrics = workspace.predict(monkeypatch)
    assert metrics["closed"]["auc"] is None
    assert metrics["closed"]["images"] == 0
    assert read_table(workspace.prompts, ORIGINAL_PROMPTS).num_rows == len(workspace.images)


@pytest.mark.parametrize("split", ["train", "test"])
def test_labelled_images_must_be_in_the_catalog(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    lost = next(row[0] for row in workspace.images if row[3] == split)
    workspace.write_catalog([row[0] for row in workspace.images if row[0] != lost])
    workspace.set_params(epochs=1 if split == "train" else 0)
    with pytest.raises(
        SystemExit, match=f"catalog lacks 1 of the images of .*splits.parquet, .*{lost}"
    ):
        workspace.train(monkeypatch)
        workspace.predict(monkeypatch)
    assert not workspace.prompts.exists()


@pytest.mark.parametrize("in_memory", [True, False])
def test_cached_pixels_are_the_preprocessed_images(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.setattr(pixels_module, "MEMORY_BYTES", 0)
    clip = load_clip(workspace.clip, CPU)
    image_ids = [row[0] for row in reversed(workspace.images)][:10]
    pixels = decode_pixels(workspace.catalog, clip, image_ids, 2, workspace.root / "scratch")
    assert pixels.dtype == torch.uint8
    expected = workspace.pixel_values(clip).flip(0)[:10]
    found = pixels_module.Normalizer(clip, CPU).to_pixel_values(pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert list(workspace.root.glob("scratch/*")) == []


def test_a_full_disk_is_named_before_it_kills_the_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels_module, "MEMORY_BYTES", 0)
    free = SimpleNamespace(free=10 * 3 * 16 * 16 - 1)
    monkeypatch.setattr(pixels_module.shutil, "disk_usage", lambda _: free)
    clip = load_clip(workspace.clip, CPU)
    image_ids = [row[0] for row in workspace.images][:10]
    with pytest.raises(OSError, match=r"decoded images take .* GiB left: make room"):
        decode_pixels(workspace.catalog, clip, image_ids, 2, workspace.root / "scratch")


def test_prompts_are_written_in_row_groups(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.set_params(epochs=0)
    workspace.train(monkeypatch)
    for module in (prediction_module, tables_module):
        monkeypatch.setattr(module, "GROUP_ROWS", 10)
    params, base = read_params(workspace.params, TroikaPredict)
    outcome = predict(
        workspace.catalog,
        workspace.splits,
        workspace.pairs,
        workspace.clip,
        workspace.model,
        workspace.prompts,
        params.model_copy(update={"top_k": 100}),
        base,
    )
    file = pq.ParquetFile(workspace.prompts)
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert outcome.images == sum(groups) == len(workspace.images)
    assert groups[:2] == [10, 10]
    # More pairs are asked for than there are: all of them come, and their probabilities sum to 1.
    for values in read_table(workspace.prompts, ORIGINAL_PROMPTS)["top_probabilities"].to_pylist():
        assert len(values) == len(PAIR_ROWS)
        assert sum(values) == pytest.approx(1, abs=1e-5)
