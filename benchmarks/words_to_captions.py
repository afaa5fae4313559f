"""How much of better words in the prompts reaches the captions that are learnt from them.

    python benchmarks/words_to_captions.py PROJECT --group color

PROJECT has run all stages up to ``blip2_features``. BLIP-2 is fine-tuned on its photos by its own
parameters three times: on prompts whose words are by ``cosine``, by ``probe``, and on prompts that
say the truth where it is known and what ``cosine`` says elsewhere. What the three write of the test
photos, freely and by the grammar, is held against the truth of the group, and so are the prompts
themselves. Test products are in none of the three trainings. Intervals are of 95 %, by bootstrap
over products.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.catalog.truth import read_truth
from compositional_prompts.files.tables import read_table
from compositional_prompts.prompt.template import PromptTemplate
from compositional_prompts.reporting.content.galleries import attribute_groups
from compositional_prompts.results.bootstrap import Bootstrap

ROOT: Final = Path(__file__).resolve().parents[1]
TRUTH: Final = "truth"
WAYS: Final = ("cosine", "probe", TRUTH)


class Run:
    """A finished run, and a folder for what is learnt anew from it."""

    def __init__(self, project: Path, scratch: Path, group: str) -> None:
        """Read what is true of its photos."""
        self._project, self._scratch, self._group = project, scratch, group
        self._data = project / "data"
        splits = pl.read_parquet(self._data / "splits.parquet")
        self.images = splits.select("image_id", "product_id", "caption_split")
        ids = pa.array(self.images["image_id"].to_list(), pa.string())
        self._true = dict(
            zip(
                self.images["image_id"],
                read_truth(self._data / "truth.parquet", ids, [group])[group],
                strict=True,
            )
        )
        # As score reads captions: what an attribute is called tells where it ends.
        self._names = pl.read_parquet(self._data / "pairs.parquet")["attribute"].to_list()

    def stage(self, name: str, params: Path, **paths: Path) -> None:
        """Run the script of a stage."""
        options = [f"--{key.replace('_', '-')}={path}" for key, path in paths.items()]
        subprocess.run(
            [sys.executable, str(ROOT / "stages" / f"{name}.py"), f"--params={params}", *options],
            cwd=self._scratch,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            check=True,
        )

    def parameters(self, way: str) -> Path:
        """The project's, but for how words of the group are chosen."""
        editor = YAML()
        document: dict[str, Any] = editor.load(self._project / "params.yaml")
        document["enhance"]["method"] = "cosine"
        method = "cosine" if way == TRUTH else way
        document["enhance"]["methods"] = [{"group": self._group, "method": method}]
        path = self._scratch / f"{way}.yaml"
        editor.dump(document, path)
        return path

    def prompts(self, way: str, params: Path) -> Path:
        """The table of enhanced prompts."""
        out = self._scratch / way
        if way == TRUTH:
            return self._true_prompts(self._scratch / "cosine" / "enhanced.parquet", out)
        common = {
            "splits": self._data / "splits.parquet",
            "truth": self._data / "truth.parquet",
            "vectors": self._data / "embeddings/images",
            "colors": self._data / "colors",
            "scorer": out / "word_scorer",
        }
        self.stage(
            "word_scorer",
            params,
            **common,
            catalog=self._data / "catalog",
            words=self._data / "embeddings/words.parquet",
            clip=self._project / "models/clip",
            metrics=out / "word_scorer.json",
        )
        self.stage(
            "enhance",
            params,
            **common,
            prompts=self._data / "prompts/original.parquet",
            enhanced=out / "enhanced.parquet",
            metrics=out / "enhance.json",
            confusion=out / "confusion",
            reliability=out / "reliability",
            risk_coverage=out / "risk_coverage",
        )
        return out / "enhanced.parquet"

    def _true_prompts(self, prompts: Path, out: Path) -> Path:
        table = pq.read_table(prompts)
        groups = attribute_groups(table.column_names)
        template = PromptTemplate(groups, attributes=self._names)
        texts, words = [], []
        for row in table.select(["image_id", "attribute", "object", *groups]).to_pylist():
            true = self._true[row["image_id"]]
            word = true[0] if true else row[self._group]
            chosen = {name: row[name] for name in groups} | {self._group: word}
            texts.append(template.format(row["attribute"], row["object"], chosen))
            words.append(word)
        for name, values in (("enhanced_prompt", texts), (self._group, words)):
            place = table.column_names.index(name)
            table = table.set_column(place, table.schema.field(place), [pa.array(values)])
        out.mkdir(parents=True)
        pq.write_table(table, out / "enhanced.parquet")
        return out / "enhanced.parquet"

    def captions(self, way: str, params: Path, prompts: Path) -> pa.Table:
        """Of a BLIP-2 that learnt from these prompts, of the schema CAPTIONS."""
        out = self._scratch / way
        shared = {
            "features": self._data / "features",
            "catalog": self._data / "catalog",
            "splits": self._data / "splits.parquet",
            "blip2": self._project / "models/blip2",
            "adapter": out / "blip2_lora",
        }
        kept = self._project / "models/source/train/captioner"
        self.stage(
            "finetune",
            params,
            **shared,
            prompts=prompts,
            pairs=self._data / "pairs.parquet",
            words=self._data / "embeddings/words.parquet",
            source=kept,
            metrics=out / "finetune.json",
            curve=out / "curve",
        )
        self.stage("infer", params, **shared, captions=out / "captions.parquet")
        return read_table(out / "captions.parquet", CAPTIONS)

    def accuracy(self, texts: dict[str, str | None], groups: Sequence[str], split: str) -> str:
        """How often the word of the group is true in what is said of images with truth."""
        template = PromptTemplate(groups, attributes=self._names)
        rows = self.images.filter(
            (pl.col("caption_split") == split)
            & pl.col("image_id").is_in([name for name, true in self._true.items() if true])
        )
        right = []
        for image_id in rows["image_id"]:
            slots = template.read_slots(texts[image_id] or "") or {}
            true = {word.casefold() for word in self._true[image_id]}
            right.append((slots.get(self._group) or "").casefold() in true)
        codes = np.unique(rows["product_id"].to_numpy(), return_inverse=True)[1]
        found = Bootstrap(codes).mean(np.array(right, np.float64))
        low, high = found.bounds or (float("nan"), float("nan"))
        return f"{found.value:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a project")
    parser.add_argument("--group", default="color")
    parser.add_argument("--scratch", type=Path, help="where to work, and leave what was made")
    arguments = parser.parse_args()
    scratch = arguments.scratch or Path(tempfile.mkdtemp())
    scratch.mkdir(parents=True, exist_ok=True)
    run = Run(arguments.run.resolve(), scratch.resolve(), arguments.group)
    print(f"{arguments.group} of prompts and captions, right by the truth\n")
    print("| prompts by | prompts, training | prompts, test | captions, test | written freely |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for way in WAYS:
        params = run.parameters(way)
        prompts = run.prompts(way, params)
        captions = run.captions(way, params, prompts)
        enhanced = pq.read_table(prompts)
        groups = attribute_groups(enhanced.column_names)
        said = dict(
            zip(
                enhanced["image_id"].to_pylist(),
                enhanced["enhanced_prompt"].to_pylist(),
                strict=True,
            )
        )
        ids = captions["image_id"].to_pylist()
        written = dict(zip(ids, captions["caption"].to_pylist(), strict=True))
        freely = dict(zip(ids, captions["free_caption"].to_pylist(), strict=True))
        figures = [
            run.accuracy(said, groups, "train"),
            run.accuracy(said, groups, "test"),
            run.accuracy(written, groups, "test"),
            run.accuracy(freely, groups, "test") if any(freely.values()) else "the same",
        ]
        print(f"| {way} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
