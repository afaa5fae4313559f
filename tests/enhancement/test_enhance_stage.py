"""The enhance stage, from its inputs on disk to its outputs."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from base_section import base_section
from PIL import Image, ImageDraw
from stage_script import run_stage

from compositional_prompts.catalog.image_join import ImageJoinError
from compositional_prompts.catalog.schema import CATALOG
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.catalog.truth import TRUTH, known_groups
from compositional_prompts.clip.vector_tables import image_embeddings, word_embeddings
from compositional_prompts.enhancement.calibration.group_calibration import NEVER
from compositional_prompts.enhancement.calibration.temperature import Temperature
from compositional_prompts.enhancement.colors.color_tables import wanted_palettes, write_colors
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.enhancement.enhancing import (
    EnhanceInputs,
    EnhancePlots,
    enhance_prompts,
)
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.word_scorer import GroupScorer, WordScorer
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.tables import read_table
from compositional_prompts.prompt.template import PromptError, PromptTemplate
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS

ROOT = Path(__file__).parents[2]
COLORS = ["black", "white", "red"]
MATERIALS = ["leather", "rubber"]
DIMENSION = 8
PARAMS = Enhance(
    method="cosine",
    methods=[],
    templates=["{}"],
    learn_images=1000,
    altered_copies=0,
    stability_images=100,
    abstain=None,
    threshold=0.2,
    fallback="unspecified",
    reference_colors=[],
)


def picture(color):
    image = Image.new("RGB", (40, 30), "white")
    ImageDraw.Draw(image).rectangle((10, 8, 30, 22), fill=color, outline="#808080")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write(path, rows, declared):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, declared), path)


class Inputs:
    """Twenty images whose vectors say plainly what CLIP would choose."""

    def __init__(self, folder):
        self.folder = folder
        self.prompts = folder / "prompts" / "original.parquet"
        self.catalog = folder / "catalog"
        self.splits = folder / "splits.parquet"
        self.truth_table = folder / "truth.parquet"
        self.embeddings = folder / "embeddings"
        self.colors = folder / "colors"
        self.scorer = folder / "scorer"
        random = np.random.default_rng(17)
        self.ids = [f"shoe-{number:02d}" for number in range(20)]
        self.color = random.choice(COLORS, 20).tolist()
        self.material = random.choice(MATERIALS, 20).tolist()
        words = np.eye(DIMENSION, dtype=np.float32)
        self.words = [
            *({"group": "color", "word": w, "embedding": words[i]} for i, w in enumerate(COLORS)),
            *(
                {"group": "material", "word": w, "embedding": words[3 + i]}
                for i, w in enumerate(MATERIALS)
            ),
        ]
        self.vectors = []
        for number, (color, material) in enumerate(zip(self.color, self.material, strict=True)):
            vector = np.full(DIMENSION, 0.01, dtype=np.float32)
            vector[COLORS.index(color)] = 0.6
            # The first image's material is below the threshold; the rest goes to no word.
            vector[3 + MATERIALS.index(material)] = 0.1 if number == 0 else 0.5
            vector[-1] = np.sqrt(1 - (vector[:-1] ** 2).sum())
            self.vectors.append({"image_id": self.ids[number], "embedding": vector})
        self.truth = [[color] for color in self.color]
        self.truth[1] = []
        self.truth[2] = ["mauve"]
        self.pairs = [("Canvas", "Sandals")] * 10 + [("Faux.Leather", "<b>Boots</b>")] * 10

    def write(self):
        self.write_catalog()
        self.write_splits()
        self.write_truth()
        self.write_prompts()
        write(
            self.embeddings / "images" / "part-00000.parquet",
            self.vectors[::-1],
            image_embeddings(DIMENSION),
        )
        write(self.embeddings / "words.parquet", self.words, word_embeddings(DIMENSION))

    def write_catalog(self):
        rows = [
            {
                "image_id": image_id,
                "product_id": image_id,
                "content": content_digest(picture(color)),
                "image": {"bytes": picture(color), "path": "a.png"},
            }
            for image_id, color in zip(self.ids, self.color, strict=True)
        ]
        write(self.catalog / "part-00000.parquet", rows, CATALOG)

    def write_splits(self):
        rows = [
            {
                "image_id": image_id,
                "product_id": f"product {number // 2}",
                "caption_split": "train" if number < 10 else "test",
            }
            for number, image_id in enumerate(self.ids)
        ]
        write(self.splits, rows, SPLITS)

    def write_truth(self):
        rows = [
            {"image_id": image_id, "group": "color", "word": word}
            for image_id, words in zip(self.ids, self.truth, strict=True)
            for word in words
        ]
        # Of a group that has no words in the vocabulary, and of images that are not there.
        strange = [{"image_id": i, "group": "sole", "word": "x"} for i in (self.ids[0], "no")]
        write(self.truth_table, rows[::-1] + strange, TRUTH)

    def write_prompts(self, drop=None):
        rows = [
            {
                "image_id": image_id,
                "attribute": attribute,
                "object": object_,
                "original_prompt": f"A photo of {attribute}_{object_}",
                "probability": 0.5,
                "top_attributes": [attribute],
                "top_objects": [object_],
                "top_probabilities": [0.5],
            }
            for image_id, (attribute, object_) in zip(self.ids, self.pairs, strict=True)
            if image_id != drop
        ]
        # The catalog's order is another: stages join on image_id.
        write(self.prompts, rows[5:] + rows[:5], ORIGINAL_PROMPTS)

    def look_at_colors(self, params=PARAMS):
        """What the stage ``colors`` does; how many photos were looked at."""
        vocabulary = {}
        for row in self.words:
            vocabulary.setdefault(row["group"], []).append(row["word"])
        palettes = wanted_palettes(vocabulary, known_groups(self.truth_table), params)
        base = base_section(self.folder / "rows")
        images, looked_at = write_colors(self.catalog, self.colors, vocabulary, palettes, base)
        assert images == len(self.ids)
        return looked_at

    def write_scorer(self, **calibration):
        vocabulary = read_vocabulary(self.embeddings / "words.parquet")
        groups = {
            group: GroupScorer(words, "cosine", vocabulary.vectors[group], **calibration)
            for group, words in vocabulary.words.items()
        }
        WordScorer(groups).save(self.scorer)

    def run(self, params=PARAMS):
        """What the stage returns, and its table."""
        self.look_at_colors(params)
        self.write_scorer()
        return self.enhance(params)

    def enhance(self, params=PARAMS):
        """As :meth:`run`, of colours and a scorer that are there."""
        read = EnhanceInputs(
            prompts=self.prompts,
            splits=self.splits,
            truth=self.truth_table,
            vectors=self.embeddings / "images",
            colors=self.colors,
            scorer=self.scorer,
        )
        plots = EnhancePlots(
            self.folder / "csv", self.folder / "reliability", self.folder / "risk_coverage"
        )
        result = enhance_prompts(read, self.folder / "enhanced", plots, params)
        return result, pq.read_table(self.folder / "enhanced")


def pop_intervals(metrics):
    """The intervals, by the figure that they are of."""
    names = [name for name in metrics if name.endswith("_interval")]
    return {name.removesuffix("_interval"): metrics.pop(name) for name in names}


@pytest.fixture
def inputs(tmp_path):
    made = Inputs(tmp_path)
    made.write()
    return made


def test_the_stage_writes_its_outputs(inputs, tmp_path, monkeypatch):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["base"]["workers"] = 2
    params["enhance"] = PARAMS.model_dump()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    out = tmp_path / "out"
    inputs.look_at_colors()
    inputs.write_scorer()
    arguments = {
        "prompts": inputs.prompts,
        "splits": inputs.splits,
        "truth": inputs.truth_table,
        "vectors": inputs.embeddings / "images",
        "colors": inputs.colors,
        "scorer": inputs.scorer,
        "enhanced": out / "enhanced.parquet",
        "metrics": out / "enhance.json",
        "confusion": out / "confusion",
        "reliability": out / "reliability",
        "risk-coverage": out / "risk_coverage",
        "params": tmp_path / "params.yaml",
    }
    run_stage(monkeypatch, "enhance", arguments)

    table = read_table(out / "enhanced.parquet", enhanced_prompts_schema(["color", "material"]))
    rows = {row["image_id"]: row for row in table.to_pylist()}
    assert list(rows) == inputs.ids[5:] + inputs.ids[:5]
    template = PromptTemplate(["color", "material"])
    for number, image_id in enumerate(inputs.ids):
        row = rows[image_id]
        material = None if number == 0 else inputs.material[number]
        attribute, object_ = inputs.pairs[number]
        assert row["enhanced_prompt"] == template.format(
            attribute, object_, {"color": inputs.color[number], "material": material}
        )
        assert row["original_prompt"] == f"A photo of {attribute}_{object_}"
        assert (row["color"], row["material"]) == (inputs.color[number], material)
        assert row["material_best"] == inputs.material[number]
        assert row["color_pixel"] == inputs.color[number]
        assert row["material_pixel"] is None
        assert row["color_score"] == pytest.approx(0.6)
        assert row["color_margin"] == pytest.approx(0.59)
        assert row["color_scores"] == pytest.approx(
            [0.6 if word == inputs.color[number] else 0.01 for word in COLORS]
        )
        assert len(row["material_scores"]) == 2
        assert row["color_probability"] is None  # nothing calibrates

    known = [c for n, c in enumerate(inputs.color) if n not in (1, 2)] + ["mauve"]
    metrics = json.loads((out / "enhance.json").read_text())
    intervals = {group: pop_intervals(values) for group, values in metrics.items()}
    leads = {group: values.pop("minus") for group, values in metrics.items()}
    counts = {"images": 20, "products": 10}
    held_out = {group: figures.pop("held_out") for group, figures in metrics.items()}
    assert held_out["color"]["images"] == 10
    assert held_out["color"]["precision"] == held_out["color"]["coverage"] == 1
    assert held_out["color"]["precision_interval"] == [1, 1]
    assert held_out["color"]["ece"] is None
    assert held_out["material"]["images"] == 0
    assert [figures.pop("abstained") for figures in metrics.values()] == [0, 0]
    for curves in ("reliability", "risk_coverage"):
        assert sorted(path.name for path in (out / curves).iterdir()) == [
            "color.csv",
            "material.csv",
        ]
    assert metrics == {
        "color": {
            "accuracy": round(18 / 19, 4),
            "accuracy_in_vocabulary": 1.0,
            "coverage": 1.0,
            "majority_accuracy": round(max(map(known.count, known)) / 19, 4),
            "pixel_accuracy": round(18 / 19, 4),
            "images_with_truth": 19,
            "products_with_truth": 10,
            **counts,
        },
        "material": {
            "accuracy": None,
            "accuracy_in_vocabulary": None,
            "coverage": 0.95,
            "majority_accuracy": None,
            "pixel_accuracy": None,
            "images_with_truth": 0,
            "products_with_truth": 0,
            **counts,
        },
    }
    assert intervals["color"]["accuracy_in_vocabulary"] == [1.0, 1.0]
    low, high = intervals["color"]["accuracy"]
    assert low < 18 / 19 < high == 1.0
    assert intervals["material"]["accuracy"] is intervals["material"]["pixel_accuracy"] is None
    low, high = intervals["material"]["coverage"]
    assert low < 0.95 < high == 1.0
    assert leads["color"]["pixel"] == {"accuracy": 0.0, "accuracy_interval": [0.0, 0.0]}
    lead = leads["color"]["majority"]
    difference = metrics["color"]["accuracy"] - metrics["color"]["majority_accuracy"]
    assert lead["accuracy"] == pytest.approx(difference, abs=1.1e-4)
    assert leads["material"]["majority"] == {"accuracy": None, "accuracy_interval": None}
    assert sorted(path.name for path in (out / "confusion").iterdir()) == [
        "color.csv",
        "material.csv",
    ]
    with (out / "confusion" / "color.csv").open(newline="") as file:
        confusion = list(csv.DictReader(file))
    assert len(confusion) == 19
    assert {"truth": "mauve", "predicted": inputs.color[2]} in confusion
    assert (out / "confusion" / "material.csv").read_text() == "truth,predicted\n"
    assert json.loads((tmp_path / "timing/enhance.json").read_text())["rows"] == 20


def test_photos_are_not_decoded_where_nothing_is_known_of_their_colour(inputs):
    inputs.truth = [[] for _ in inputs.ids]
    inputs.write_truth()
    rows = [
        {
            "image_id": i,
            "product_id": i,
            "content": content_digest(i.encode()),
            "image": {"bytes": b"no image", "path": ""},
        }
        for i in inputs.ids
    ]
    write(inputs.catalog / "part-00000.parquet", rows, CATALOG)
    assert inputs.look_at_colors() == 0
    result, table = inputs.run()
    assert table.column("color_pixel").null_count == 20
    assert result.metrics["color"]["pixel_accuracy"] is None
    assert result.images == 20


def test_the_colours_of_a_photo_are_looked_at_once(inputs):
    assert inputs.look_at_colors() == len(set(inputs.color))  # the photos of a colour are equal
    first = [path.read_bytes() for path in sorted(inputs.colors.iterdir())]
    assert inputs.look_at_colors() == 0
    assert [path.read_bytes() for path in sorted(inputs.colors.iterdir())] == first
    other = [{"word": "red", "rgb": [250, 0, 0]}]
    changed = Enhance.model_validate(PARAMS.model_dump() | {"reference_colors": other})
    assert inputs.look_at_colors(changed) == len(set(inputs.color))


def test_any_number_of_images_is_written_block_by_block(inputs, tmp_path, monkeypatch):
    inputs.run()
    whole = pq.read_table(tmp_path / "enhanced"), (tmp_path / "csv" / "color.csv").read_text()
    monkeypatch.setattr("compositional_prompts.enhancement.enhancing.ROWS", 3)
    _, table = inputs.run()
    assert table.drop_columns(["color_scores", "material_scores"]).num_rows == 20
    assert table.column("enhanced_prompt") == whole[0].column("enhanced_prompt")
    assert (tmp_path / "csv" / "color.csv").read_text() == whole[1]


def test_fallback_and_threshold_are_parameters(inputs):
    params = PARAMS.model_copy(update={"threshold": 0.55, "fallback": "undefined"})
    prompts = inputs.run(params)[1].column("enhanced_prompt").to_pylist()
    assert all(text.endswith(" color and {undefined} material") for text in prompts)


def test_words_that_are_not_sure_are_left_out(inputs):
    """The cosine of the best word is 0.6, and falls with the image's number."""
    for number, row in enumerate(inputs.vectors):
        row["embedding"] = row["embedding"] * np.float32(1)
        row["embedding"][COLORS.index(inputs.color[number])] -= np.float32(0.02 * number)
        row["embedding"][-1] = 0
        row["embedding"][-1] = np.sqrt(1 - (row["embedding"] ** 2).sum())
    inputs.write()
    inputs.look_at_colors()
    inputs.write_scorer(calibration=Temperature(0.1, 0.2))
    result, table = inputs.enhance()
    everything = {row["image_id"]: row for row in table.to_pylist()}
    assert result.metrics["color"]["abstained"] == 0
    probability = [everything[name]["color_probability"] for name in inputs.ids]
    assert probability == sorted(probability, reverse=True)
    assert 0.5 < probability[-1] < probability[0] < 0.8

    inputs.write_scorer(calibration=Temperature(0.1, 0.2), abstain_below=probability[14])
    result, table = inputs.enhance()
    rows = {row["image_id"]: row for row in table.to_pylist()}
    for number, name in enumerate(inputs.ids):
        written = number <= 14
        assert rows[name]["color"] == (inputs.color[number] if written else None)
        assert ("an unspecified color" in rows[name]["enhanced_prompt"]) is not written
        assert rows[name]["color_best"] == inputs.color[number]
        assert rows[name]["color_probability"] == probability[number]
    figures = result.metrics["color"]
    assert (figures["abstained"], figures["coverage"]) == (5, 0.75)
    assert figures["held_out"]["coverage"] == 0.5
    assert figures["held_out"]["precision"] == 1
    assert figures["held_out"]["ece"] == pytest.approx(1 - np.mean(probability[10:]))


@pytest.mark.parametrize("calibration", [None, Temperature(0.1, 0.2)])
def test_nothing_is_written_where_no_probability_will_do(inputs, calibration):
    inputs.look_at_colors()
    inputs.write_scorer(calibration=calibration, abstain_below=NEVER)
    result, table = inputs.enhance()
    assert table.column("color").null_count == 20
    # The first image's material is below the threshold too, and counts for that.
    assert [figures["abstained"] for figures in result.metrics.values()] == [20, 19]


def test_one_image_one_group_one_word(inputs):
    inputs.ids, inputs.pairs = inputs.ids[:1], inputs.pairs[:1]
    inputs.color, inputs.truth = inputs.color[:1], inputs.truth[:1]
    inputs.vectors, inputs.words = inputs.vectors[:1], inputs.words[4:]
    inputs.write()
    (row,) = inputs.run()[1].to_pylist()
    # One word leads over the lowest cosine there is.
    assert row["material_margin"] == pytest.approx(row["material_score"] + 1)
    assert row["enhanced_prompt"].startswith("A photo of Canvas_Sandals with ")


def test_images_that_are_not_in_all_inputs_are_named(inputs):
    inputs.write_prompts(drop="shoe-04")
    with pytest.raises(ImageJoinError, match=r"^\S+original.parquet lacks 1 .*colors, .*'shoe-04'"):
        inputs.run()
    inputs.write_prompts()
    write(
        inputs.embeddings / "images" / "part-00000.parquet",
        [row for row in inputs.vectors if row["image_id"] != "shoe-07"],
        image_embeddings(DIMENSION),
    )
    with pytest.raises(ImageJoinError, match=r"^\S+images lacks 1 .*original.parquet, .*'shoe-07'"):
        inputs.run()
    inputs.ids[3] = "stranger"
    inputs.write_prompts()
    with pytest.raises(ImageJoinError, match=r"colors lacks 1 .*original.parquet, .*'stranger'"):
        inputs.enhance()


def test_prompts_that_cannot_be_used_are_refused(inputs):
    table = pq.read_table(inputs.prompts)
    pq.write_table(pa.concat_tables([table, table.slice(3, 1)]), inputs.prompts)
    with pytest.raises(
        ImageJoinError, match=r"original.parquet has image 'shoe-08' in more than one row"
    ):
        inputs.run()
    pq.write_table(table.slice(0, 0), inputs.prompts)
    with pytest.raises(ValueError, match=r"original.parquet holds no prompts"):
        inputs.run()
    inputs.prompts.unlink()
    with pytest.raises(FileNotFoundError, match=r"original.parquet is missing"):
        inputs.run()


def test_words_that_break_the_sentence_are_refused_before_any_work(inputs):
    inputs.words[1]["word"] = "white with red"
    inputs.write()
    inputs.prompts.unlink()
    with pytest.raises(PromptError, match="'white with red' would be read as part"):
        inputs.run()
