"""Tables as the stages before a round of labelling leave them, without any model."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.clip.vector_tables import image_embeddings
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.enhancement.word_scorer import GroupScorer, WordScorer
from compositional_prompts.files.tables import write_table

ROOT = Path(__file__).parents[2]
WORDS = {"color": ["black", "white", "navy blue"], "material": ["leather", "fabric"]}


@dataclass(frozen=True)
class Shoe:
    """A photo: its id, split and product, and its true words by group."""

    image_id: str
    split: str = "train"
    product_id: str | None = None
    truth: Mapping[str, str] | None = None

    @property
    def product(self) -> str:
        return self.product_id or f"product of {self.image_id}"


def photo(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def write_catalog(path: Path, shoes: Sequence[Shoe]) -> None:
    with open_shards(path, 1) as shards:
        for number, shoe in enumerate(shoes):
            path_ = f"{number}.png"
            shards.write(CatalogRow(shoe.image_id, shoe.product, photo(number), path_))


def write_truth(path: Path, shoes: Sequence[Shoe]) -> None:
    rows = [
        {"image_id": shoe.image_id, "group": group, "word": word}
        for shoe in shoes
        for group, words in (shoe.truth or {}).items()
        for word in words.split(";")
    ]
    write_table(pa.Table.from_pylist(rows, TRUTH), path, TRUTH)


def write_labelling_project(root: Path, shoes: Sequence[Shoe], seed: int = 0) -> None:
    """A project whose images have random vectors and cosines."""
    random = np.random.default_rng(seed)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root / name)
    text = (root / "params.yaml").read_text()
    words = "\n".join(f"    - {{name: {g}, words: [{', '.join(w)}]}}" for g, w in WORDS.items())
    start = text.index("    - name: color")
    end = text.index("  batch_size: ", start)
    (root / "params.yaml").write_text(f"{text[:start]}{words}\n{text[end:]}")
    (root / "labels").mkdir()
    data = root / "data"
    write_catalog(data / "catalog", shoes)
    write_truth(data / "truth.parquet", shoes)
    splits = [
        dict.fromkeys(SPLITS.names)
        | {"image_id": shoe.image_id, "product_id": shoe.product, "caption_split": shoe.split}
        for shoe in shoes
    ]
    write_table(pa.Table.from_pylist(splits, SPLITS), data / "splits.parquet", SPLITS)
    schema = enhanced_prompts_schema(list(WORDS))
    prompts = []
    for shoe in reversed(shoes):  # tables are joined, whatever their order
        row = dict.fromkeys(schema.names, "x") | {"image_id": shoe.image_id}
        for group, words_ in WORDS.items():
            scores = random.normal(0.2, 0.01, len(words_))
            row |= {
                f"{group}_score": float(scores.max()),
                f"{group}_margin": 0.01,
                f"{group}_probability": None,
                f"{group}_scores": scores.tolist(),
            }
        prompts.append({name: row[name] for name in schema.names})
    path = data / "prompts" / "enhanced.parquet"
    write_table(pa.Table.from_pylist(prompts, schema), path, schema)
    words_ = {group: np.eye(len(w), 8, dtype=np.float32) for group, w in WORDS.items()}
    WordScorer(
        {group: GroupScorer(tuple(WORDS[group]), "cosine", words_[group]) for group in WORDS}
    ).save(root / "models" / "word_scorer")
    vectors = random.normal(size=(len(shoes), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    schema = image_embeddings(8)
    columns = [
        pa.array([shoe.image_id for shoe in shoes]),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 8),
    ]
    path = data / "embeddings" / "images" / "part-00000.parquet"
    write_table(pa.table(columns, schema=schema), path, schema)
