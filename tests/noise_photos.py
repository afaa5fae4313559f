"""Photos of noise whose vectors hang on one pixel: made-up inputs of what alters photos."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from base_section import base_section
from numpy.typing import NDArray
from PIL import Image

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.schema import CATALOG
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.compute.rows.computation import Computation
from compositional_prompts.enhancement.altered.word_stability import (
    StabilityPaths,
    measure_stability,
)
from compositional_prompts.enhancement.word_scorer import GroupScorer, WordScorer
from compositional_prompts.files.digests import content_digest

WORDS = ("red", "green", "blue")
PALETTE = {
    word: np.eye(3, dtype=np.uint8)[place] * np.uint8(255) for place, word in enumerate(WORDS)
}


def corner(image: Image.Image) -> NDArray[np.float32]:
    """A vector that hangs on one pixel, so that everything changes it."""
    color = np.asarray(image)[1, 1].astype(np.float32) + 1
    return color / np.linalg.norm(color)


@dataclass(frozen=True)
class Corners(Computation):
    name: ClassVar[str] = "corners"

    batch_size: int = 8

    def settings(self) -> Mapping[str, Any]:
        return {}

    def start(self) -> _CornerWorker:
        return _CornerWorker()


class _CornerWorker:
    def prepare(self, value: bytes) -> NDArray[np.float32]:
        return corner(decode_rgb(value))

    def compute(self, prepared: Sequence[NDArray[np.float32]]) -> NDArray[Any]:
        return np.stack(prepared).view([("vector", np.float32, 3)])[:, 0]


class Project:
    """Photos of noise: half of them test, two of a product, truth of two in three."""

    def __init__(self, root: Path, photos: int = 60) -> None:
        rng = np.random.default_rng(5)
        self.root = root
        self.paths = StabilityPaths(
            root / "catalog", root / "splits.parquet", root / "truth.parquet", root / "scorer"
        )
        self.photos: dict[str, bytes] = {}
        for number in range(photos):
            pixels = rng.integers(0, 256, (44, 36, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            self.photos[f"photo-{number:02d}"] = file.getvalue()
        self.split = {name: ("test", "train")[i % 2] for i, name in enumerate(self.photos)}
        self.truth = {name: WORDS[rng.integers(3)] for i, name in enumerate(self.photos) if i % 3}
        self.write()

    def write(self) -> None:
        catalog = [
            {
                "image_id": name,
                "product_id": f"product {i // 4}",
                "content": content_digest(encoded),
                "image": {"bytes": encoded, "path": "a.png"},
            }
            for i, (name, encoded) in enumerate(self.photos.items())
        ]
        splits = [
            {"image_id": row["image_id"], "product_id": row["product_id"],
             "caption_split": self.split[str(row["image_id"])]}
            for row in catalog
        ]  # fmt: skip
        truth = [
            {"image_id": name, "group": "color", "word": word.upper()}
            for name, word in self.truth.items()
        ]
        self.paths.catalog.mkdir(exist_ok=True)
        for rows, path, schema in (
            (catalog, self.paths.catalog / "part-00000.parquet", CATALOG),
            (splits[::-1], self.paths.splits, SPLITS),
            (truth, self.paths.truth, TRUTH),
        ):
            pq.write_table(pa.Table.from_pylist(rows, schema), path)
        vectors = np.eye(3, dtype=np.float32)
        groups = {
            "color": GroupScorer(WORDS, "cosine", vectors),
            "shape": GroupScorer(("round", "flat", "long"), "zero_shot", vectors, 9 * vectors),
        }
        WordScorer(groups, {"color": PALETTE}).save(self.paths.scorer)

    def measure(self, images: int = 100, threshold: float = 0.0) -> Any:
        return measure_stability(
            self.paths,
            Corners(),
            images=images,
            threshold=threshold,
            base=base_section(self.root / "rows", workers=1),
        )
