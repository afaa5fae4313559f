"""A small project with every file that the report reads, made from random numbers."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.catalog.schema import CATALOG
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import write_table
from compositional_prompts.project.whole_params import read_all_params
from compositional_prompts.reporting.content.limits import limits
from compositional_prompts.reporting.page import PageSettings, ReportPaths, build_report
from compositional_prompts.scoring.recommended_texts import RECOMMENDED
from compositional_prompts.scoring.score_table import SCORES
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS

ROOT = Path(__file__).parents[2]
COLORS = ("black", "white", "brown", "red", "blue", "green")
MATERIALS = ("leather", "fabric", "rubber", "synthetic")
OBJECTS = ("Sandals", "Boots.Ankle", "Shoes.Oxfords", "Shoes.Sneakers.and.Athletic.Shoes")
ATTRIBUTES = ("Canvas", "Leather", "Suede", "Rubber")
VOCABULARY = {
    "color": (*COLORS, "yellow", "pink", "grey", "orange", "purple", "beige"),
    "material": MATERIALS,
}
"""As params.yaml has it."""
SPLIT_OF = ("test", "val", "train", "test")
"""Of the images, in turn."""
SPREAD = (
    *("bleu", "rouge1", "rouge2", "rougeL", "cider_d", "meteor_stem", "cosine"),
    *("clip_score", "ref_clip_score"),
)
"""What scores.json has the best, mean and worst of, without BERTScore."""
HOSTILE = '<script>alert("x")</script> & <b>bold</b>'

DVC_YAML = """
stages:
  download:
    desc: Photos and labels
    cmd: python stages/download.py
    outs: [data/catalog, data/rejected.parquet]
    metrics: [{metrics/download.json: {cache: false}}]
  split:
    desc: Training, validation and test images
    cmd: python stages/split.py
    deps: [data/catalog]
    outs: [data/splits.parquet, data/corpus.parquet]
  weights:
    cmd: python stages/weights.py
    deps: [data/corpus.parquet]
    outs: [models/clip, models/blip2]
  troika_train:
    cmd: python stages/troika_train.py
    deps: [data/catalog, data/splits.parquet, models/clip]
    outs: [models/troika]
  troika_predict:
    cmd: python stages/troika_predict.py
    deps: [data/catalog, models/clip, models/troika]
    outs: [data/prompts/original.parquet]
  clip_embed:
    cmd: python stages/clip_embed.py
    deps: [data/catalog, models/clip]
    outs: [data/embeddings]
  enhance:
    cmd: python stages/enhance.py
    deps: [data/prompts/original.parquet, data/embeddings/images]
    outs: [data/prompts/enhanced.parquet]
  blip2_features:
    cmd: python stages/blip2_features.py
    deps: [data/catalog, models/blip2]
    outs: [data/features]
  finetune:
    cmd: python stages/finetune.py
    deps: [data/features, data/prompts/enhanced.parquet, data/splits.parquet, models/blip2]
    outs: [models/blip2_lora]
  infer:
    desc: Captions of the untrained and the fine-tuned model
    matrix: {captioner: [base, finetuned]}
    cmd: python stages/infer.py
    deps: [data/features, models/blip2, models/blip2_lora]
    outs: ["data/captions/${item.captioner}.parquet"]
  score:
    cmd: python stages/score.py
    deps: [data/captions, data/prompts/enhanced.parquet, data/embeddings, models/clip]
    outs: [data/scores.parquet]
  report:
    cmd: python stages/report.py
    deps: [data/catalog, data/splits.parquet, data/prompts/enhanced.parquet, data/captions,
           data/scores.parquet]
    outs: [reports/index.html, reports/figures]
"""


@dataclass(frozen=True)
class Project:
    """A project on disk; ``rows`` are its images with their labels."""

    paths: ReportPaths
    rows: Sequence[dict[str, Any]]

    def build(self, title: str = "A report", seed: int = 7, photos: int = 3000) -> str:
        """Build the report and return the page."""
        params = read_all_params(self.paths.params)
        shown = limits(params.download, params.weights, params.blip2_features)
        settings = PageSettings(
            title=title,
            gallery_images=3,
            photos=photos,
            vocabulary=VOCABULARY,
            threshold=0.2,
            seed=seed,
            workers=2,
        )
        build_report(self.paths, shown, settings)
        return self.paths.page.read_text(encoding="utf-8")

    def metrics(self, name: str) -> dict[str, Any]:
        document = json.loads((self.paths.metrics / name).read_text(encoding="utf-8"))
        assert isinstance(document, dict)
        return document

    def change_metrics(self, name: str, document: dict[str, Any]) -> None:
        write_metrics(document, self.paths.metrics / name)


def draw_photo(rng: random.Random, size: tuple[int, int] = (68, 51)) -> bytes:
    image = Image.new("RGB", size, "white")
    color = tuple(rng.randrange(200) for _ in range(3))
    width, height = size
    ImageDraw.Draw(image).ellipse((5, height // 3, width - 5, height - 5), fill=color)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG")
    return buffer.getvalue()


def prompt_of(row: dict[str, Any]) -> str:
    return (
        f"A photo of {row['attribute']}_{row['object']} "
        f"with {row['color']} color and {row['material']} material"
    )


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


EPOCHS = range(1, 6)


def write_curve(folder: Path, figures: dict[str, dict[int, float]]) -> None:
    for name, values in figures.items():
        path = folder / "plots/metrics" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (f"{step}\t{value}\n" for step, value in values.items())
        path.write_text(f"step\t{name}\n" + "".join(rows))


def write_project(root: Path, images: int = 24, seed: int = 0) -> Project:
    """A project of ``images`` images in two shards, all of them captioned; one has no label."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = [
        {
            "image_id": f"image-{index:03d}",
            "product_id": f"product-{index // 2}",
            "attribute": rng.choice(ATTRIBUTES),
            "object": rng.choice(OBJECTS),
            "color": rng.choice(COLORS),
            "material": rng.choice(MATERIALS),
        }
        for index in range(images)
    ]
    rows[0] |= {"attribute": HOSTILE, "object": "Sandals"}
    paths = ReportPaths(
        dvc_yaml=root / "dvc.yaml",
        params=root / "params.yaml",
        catalog=root / "data/catalog",
        truth=root / "data/truth.parquet",
        rejected=root / "data/rejected.parquet",
        splits=root / "data/splits.parquet",
        original=root / "data/prompts/original.parquet",
        recommended=root / "data/recommended.parquet",
        prompts=root / "data/prompts/enhanced.parquet",
        captions=root / "data/captions",
        scores=root / "data/scores.parquet",
        metrics=root / "metrics",
        page=root / "reports/index.html",
        figures=root / "reports/figures",
    )
    root.mkdir(parents=True, exist_ok=True)
    paths.dvc_yaml.write_text(DVC_YAML, encoding="utf-8")
    paths.params.write_bytes((ROOT / "params.yaml").read_bytes())
    _write_tables(paths, rows, rng)
    _write_metrics(paths.metrics, rows, rng)
    return Project(paths, rows)


def _write_tables(paths: ReportPaths, rows: list[dict[str, Any]], rng: random.Random) -> None:
    half = len(rows) // 2
    for shard, part in enumerate((rows[:half], rows[half:])):
        entries = [
            dict.fromkeys(CATALOG.names)
            | row
            | {"content": content_digest(row["image_id"].encode())}
            | {"image": {"bytes": draw_photo(rng, size), "path": f"{row['image_id']}.jpg"}}
            for row, size in zip(part, itertools.cycle(((68, 51), (51, 68))), strict=False)
        ]
        path = paths.catalog / f"part-{shard:05d}.parquet"
        write_table(pa.Table.from_pylist(entries, CATALOG), path, CATALOG)
    splits = [
        dict.fromkeys(SPLITS.names)
        | {key: row[key] for key in ("image_id", "product_id", "attribute", "object")}
        | {"caption_split": SPLIT_OF[index % 4]}
        for index, row in enumerate(rows)
    ]
    splits[1] |= {"attribute": None, "object": None}
    write_table(pa.Table.from_pylist(splits, SPLITS), paths.splits, SPLITS)

    schema = enhanced_prompts_schema(["color", "material"])
    prompts = []
    for row in reversed(rows):
        prompt = dict.fromkeys(schema.names) | {
            "image_id": row["image_id"],
            "attribute": row["attribute"],
            "object": row["object"],
            "original_prompt": f"A photo of {row['attribute']}_{row['object']}",
            "enhanced_prompt": prompt_of(row),
        }
        for group in ("color", "material"):
            prompt |= {
                group: row[group],
                f"{group}_best": row[group],
                f"{group}_score": 0.25 + rng.random() / 10,
                f"{group}_margin": 0.1,
                f"{group}_scores": [
                    0.3 if word == row[group] else 0.2 for word in VOCABULARY[group]
                ],
            }
        prompts.append(prompt)
    write_table(pa.Table.from_pylist(prompts, schema), paths.prompts, schema)

    _write_photo_tables(paths, rows, rng)
    captions: dict[str, list[dict[str, Any]]] = {"base": [], "finetuned": []}
    scores = []
    for index, row in enumerate(rows):
        texts = {
            "base": f"a {row['color']} shoe on a white background",
            "finetuned": prompt_of(row | {"material": rng.choice(MATERIALS)}),
        }
        if index == 2:
            texts["finetuned"] = HOSTILE
        for captioner, text in texts.items():
            captions[captioner].append({"image_id": row["image_id"], "caption": text})
            equal = text == prompt_of(row)
            scores.append(
                dict.fromkeys(SPREAD, rng.random())
                | {
                    "image_id": row["image_id"],
                    "captioner": captioner,
                    "caption": text,
                    "reference": prompt_of(row),
                    "exact_match": equal,
                    "clip_caption": 0.31,
                    "clip_reference": 0.31 if equal else 0.3 + 0.02 * (index % 2),
                    "clip_preference": "tie" if equal else ("caption", "enhanced")[index % 2],
                }
            )
    for name, entries in captions.items():
        table = pa.Table.from_pylist(entries, CAPTIONS)
        write_table(table, paths.captions / f"{name}.parquet", CAPTIONS)
    write_table(pa.Table.from_pylist(scores, SCORES), paths.scores, SCORES)


def _write_photo_tables(paths: ReportPaths, rows: list[dict[str, Any]], rng: random.Random) -> None:
    """What only the list of photos needs; the truth has words of all but the last image."""
    original = [
        {
            "image_id": row["image_id"],
            "attribute": row["attribute"],
            "object": row["object"],
            "original_prompt": f"A photo of {row['attribute']}_{row['object']}",
            "probability": 0.5,
            "top_attributes": [row["attribute"], "Canvas"],
            "top_objects": [row["object"], "Sandals"],
            "top_probabilities": [0.2 + index / 100, 0.1],
        }
        for index, row in enumerate(rows)
    ]
    write_table(pa.Table.from_pylist(original, ORIGINAL_PROMPTS), paths.original, ORIGINAL_PROMPTS)
    truth = [
        {"image_id": row["image_id"], "group": group, "word": word}
        for row in rows[:-1]
        for group, vocabulary in VOCABULARY.items()
        for word in [row[group] if rng.random() < 0.7 else rng.choice(vocabulary)]
    ]
    write_table(pa.Table.from_pylist(truth, TRUTH), paths.truth, TRUTH)
    recommended = [
        {
            "image_id": row["image_id"],
            "split": SPLIT_OF[index % 4],
            "original": f"A photo of {row['attribute']}_{row['object']}",
            "enhanced": prompt_of(row),
            "caption": prompt_of(row),
            "free_caption": f"=free {row['object']}" if index % 4 == 0 else None,
            "recommended": prompt_of(row),
            "source": "enhanced",
            "readable": f"{row['color']} {row['material']} {row['object'].lower()}",
        }
        for index, row in enumerate(rows)
    ]
    recommended[0] |= {"recommended": HOSTILE, "readable": HOSTILE, "source": "caption"}
    write_table(pa.Table.from_pylist(recommended, RECOMMENDED), paths.recommended, RECOMMENDED)
    rejected = [
        {"image_id": f"bad-{index}", "path": f"photos/{HOSTILE}{index}.jpg", "reason": "truncated"}
        for index in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(rejected), paths.rejected)


def _write_metrics(metrics: Path, rows: list[dict[str, Any]], rng: random.Random) -> None:
    def shares(*names: str) -> dict[str, float]:
        return {name: rng.random() for name in names}

    def world() -> dict[str, Any]:
        swept = ("best_seen", "best_unseen", "best_hm", "auc")
        exact = shares(*swept, "attribute_accuracy", "object_accuracy")
        return {**exact, "images": len(rows), "pairs": 9, "sampled": shares(*swept)}

    def open_world() -> dict[str, Any]:
        chosen = {"threshold": 0.123, "feasible_unseen_pairs": 5}
        return world() | chosen | {"unthresholded": shares("best_unseen", "best_hm", "auc")}

    def text_scores() -> dict[str, Any]:
        slots = ("attribute", "object", "color", "material")
        return {
            **{name: {"best": 1.0, "mean": rng.uniform(0.3, 0.9), "worst": 0.1} for name in SPREAD},
            "indistinct_references": 3,
            "exact_match": rng.random(),
            "well_formed": rng.random(),
            "images": len(rows),
            "clip_preference": {"caption": 4, "enhanced": 5, "tie": 15},
            "attributes": {
                slot: {
                    "accuracy_vs_enhanced": rng.random(),
                    "accuracy_vs_truth": None if slot == "material" else rng.random(),
                    "mention_accuracy_vs_truth": rng.random(),
                }
                for slot in slots
            },
        }

    def group() -> dict[str, float]:
        keys = ("accuracy", "accuracy_in_vocabulary", "coverage", "majority_accuracy")
        held_out = shares("precision", "coverage", "ece", "ece_by_chance", "aurc")
        return {key: rng.random() for key in keys} | {
            "images_with_truth": len(rows),
            "abstained": 7,
            "held_out": held_out | {"images": 6, "precision_interval": [0.25, 0.75]},
        }

    losses = {"min": 0.02, "max": 0.9, "mean": 0.2}
    documents: dict[str, dict[str, Any]] = {
        "download.json": {
            "images": len(rows),
            "products": 12,
            "pairs": 9,
            "rejected": {"truncated": 2, "empty_file": 1},
            "dropped": {"rare_pair": 4},
        },
        "split.json": {"caption_split": {"train": 0, "test": len(rows)}, "pairs": {"seen": 9}},
        "troika_train.json": {"parameters": {"total": 1_000_000, "trainable": 65_432}},
        "troika.json": {
            "trained": True,
            "closed": world(),
            "zero_shot_closed": world(),
            "open": open_world(),
            "zero_shot_open": open_world() | {"threshold": None},
            "feasibility": {"vectors": "clip", "masking": "exclude", "thresholds": 50},
        },
        "enhance.json": {
            "color": group() | {"pixel_accuracy": rng.random()},
            "material": group() | {"pixel_accuracy": None},
            "closure": dict.fromkeys((*group(), "pixel_accuracy")),
        },
        "stability.json": {
            "color": {
                "method": "probe",
                "methods": {
                    method: {
                        "accuracy": rng.random(),
                        **{
                            name: {"same": rng.random(), "accuracy": rng.random()}
                            for name in ("jpeg", "resize", "crop")
                        },
                    }
                    for method in ("cosine", "probe")
                },
            },
        },
        "word_scorer.json": {
            "color": {
                "method": "probe",
                "calibration": {"abstain": {"precision": 0.875}, "warnings": []},
            },
            "material": {
                "method": "cosine",
                "calibration": {"abstain": None, "warnings": ["No <material> is written."]},
            },
            "closure": {"method": "cosine", "calibration": {"abstain": None, "warnings": []}},
        },
        "finetune.json": {
            "parameters": {"total": 3_749_922_816, "trainable": 5_242_880},
            "train_loss": losses,
            "val_loss": losses,
            "epochs": 5,
            "best_epoch": 4,
        },
        "drift.json": {
            **{"troika": {"kept": False}, "captioner": {"kept": False}},
            "warnings": ["New photos are <unsure>."],
        },
        "scores.json": {"base": text_scores(), "finetuned": text_scores()},
        "check_data.json": {"warnings": ["No truth says <teal>."]},
        "recommend.json": {"source": "enhanced", "warnings": ["Label more photos <now>."]},
    }
    for name, document in documents.items():
        write_metrics(document, metrics / name)
    write_curve(
        metrics / "curves/finetune",
        {
            "train_loss": {epoch: 2 / epoch for epoch in EPOCHS},
            "val_loss": {epoch: 2.2 / epoch for epoch in EPOCHS},
            "train_token_accuracy": {epoch: 1 - 0.5 / epoch for epoch in EPOCHS},
            "val_token_accuracy": {epoch: 1 - 0.6 / epoch for epoch in EPOCHS[1:]},
            "val_bleu": {epoch: 0.9 - 0.3 / epoch for epoch in EPOCHS if epoch % 2 == 0},
        },
    )
    write_curve(
        metrics / "curves/troika_train",
        {
            "train_loss": {epoch: 3 / epoch for epoch in EPOCHS},
            "val_auc": {epoch: 0.1 * epoch for epoch in EPOCHS},
            "val_hm": {epoch: 0.12 * epoch for epoch in EPOCHS},
            "val_object_accuracy": {epoch: 0.1 * epoch for epoch in EPOCHS},
        },
    )
    for name, vocabulary in (("color", COLORS), ("material", MATERIALS)):
        write_csv(
            metrics / f"plots/confusion/{name}.csv",
            [
                {
                    "truth": row[name],
                    "predicted": row[name] if rng.random() < 0.8 else rng.choice(vocabulary),
                }
                for row in rows
            ],
        )
    for folder, header, point in (
        ("reliability", "probability,accuracy,low,high,images", "0.5,0.4,0.3,0.6,9"),
        ("risk_coverage", "coverage,risk,threshold", "1,0.25,0.1"),
    ):
        (metrics / "plots" / folder).mkdir(parents=True)
        for name in ("color", "material", "closure"):
            text = f"{header}\n{point}\n" if name == "color" else f"{header}\n"
            (metrics / f"plots/{folder}/{name}.csv").write_text(text)


@pytest.fixture(scope="session")
def write_report_project() -> Callable[[Path], Project]:
    """:func:`write_project`, for modules that need a project of their own."""
    return write_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return write_project(tmp_path)


@pytest.fixture(scope="session")
def built_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose report is built; tests of it must not change it."""
    project = write_project(tmp_path_factory.mktemp("report"))
    project.build(title=HOSTILE)
    return project
