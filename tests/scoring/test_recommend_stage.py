"""Stage recommend: a text of every image, why, and what is wrong with captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pydantic import ValidationError
from stage_script import run_stage

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.catalog.image_join import ImageJoinError
from compositional_prompts.catalog.schema import CATALOG
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.outputs import DamagedOutputError, MismatchedOutputsError
from compositional_prompts.files.tables import read_table, write_table
from compositional_prompts.prompt.readable_text import ReadableTemplateError
from compositional_prompts.scoring.parameters import Recommend
from compositional_prompts.scoring.recommended_texts import RECOMMENDED
from compositional_prompts.scoring.recommending import (
    Recommendation,
    RecommendPaths,
    recommend_texts,
)

ROOT = Path(__file__).parents[2]
FORM = "A photo of {}_{} with {} color"
SPLIT_OF = ("train", "val", "test")
IMAGES = 30
OBJECTS = ("Boots", "Sandals")


class Run:
    """Thirty images, ten a split; the enhanced prompt has every object right and the color wrong of
    every image whose number is even."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = RecommendPaths(
            catalog=root / "catalog",
            splits=root / "splits.parquet",
            truth=root / "truth.parquet",
            prompts=root / "prompts.parquet",
            captions=root / "captions.parquet",
            finetuning=root / "finetune.json",
        )
        self.ids = [f"i{number:02d}" for number in range(IMAGES)]
        self.objects = [OBJECTS[number % 2] for number in range(IMAGES)]
        self.labelled = True
        self.train_images = 2000
        self.captions: dict[str, str] = {
            image_id: FORM.format("Canvas", name, "red")
            for image_id, name in zip(self.ids, self.objects, strict=True)
        }
        self.free: dict[str, str] = {}
        self.settings: dict[str, Any] = {
            "min_labelled": 10,
            "readable": {"template": "{object}[ in {color}]", "names": []},
        }

    def enhanced(self, number: int) -> tuple[str, str, str, str]:
        color = ("blue", "red")[number % 2]
        name = self.objects[number]
        return "Canvas", name, color, FORM.format("Canvas", name, color)

    def write(self) -> None:
        prompts, labels, splits, truth = [], [], [], []
        for number, image_id in enumerate(self.ids):
            attribute, name, color, prompt = self.enhanced(number)
            prompts.append(
                {"image_id": image_id, "attribute": attribute, "object": name,
                 "original_prompt": f"A photo of {attribute}_{name}", "enhanced_prompt": prompt,
                 "color": color, "color_best": color, "color_score": 0.5, "color_margin": 0.1,
                 "color_scores": [0.5]}
            )  # fmt: skip
            label = {"attribute": "Canvas", "object": self.objects[number]}
            labels.append(
                {
                    "image_id": image_id,
                    "product_id": image_id,
                    "content": bytes(16),
                    "image": {"bytes": b"", "path": ""},
                }
                | (label if self.labelled else {})
            )
            splits.append(
                {
                    "image_id": image_id,
                    "product_id": image_id,
                    "caption_split": SPLIT_OF[number % 3],
                }
            )
            if self.labelled:
                truth.append({"image_id": image_id, "group": "color", "word": "Red"})
        captions = [
            {"image_id": image_id, "caption": text, "free_caption": self.free.get(image_id)}
            for image_id, text in self.captions.items()
        ]
        for path, rows, schema in (
            (self.paths.prompts, prompts, enhanced_prompts_schema(("color",))),
            (self.paths.catalog / "part-00000.parquet", labels[::-1], CATALOG),
            (self.paths.splits, splits[::-1], SPLITS),
            (self.paths.truth, truth, TRUTH),
            (self.paths.captions, captions[::-1], CAPTIONS),
        ):
            write_table(pa.Table.from_pylist(rows, schema), path, schema)
        self.paths.finetuning.write_text(json.dumps({"train_images": self.train_images}))

    def recommend(self) -> Recommendation:
        self.write()
        return recommend_texts(self.paths, Recommend.model_validate(self.settings))


@pytest.fixture
def made(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_captions_that_are_as_right_are_recommended(made: Run) -> None:
    result = made.recommend()
    metrics = result.metrics
    assert metrics["recommended"] == "caption"
    assert metrics["reason"] == (
        "Of the words known of 10 validation images, captions have 100.0% right and enhanced "
        "prompts 83.3%."
    )
    validation = metrics["validation"]
    assert (validation["images"], validation["labelled"]) == (10, 10)
    assert validation["known"] == {"attribute": 10, "object": 10, "color": 10}
    assert validation["products"] == 10
    places = validation["enhanced"]["places"]
    assert (places["attribute"], places["object"], places["color"]) == (1.0, 1.0, 0.5)
    assert places["object_interval"] == [1.0, 1.0]
    assert places["color_interval"][0] < 0.5 < places["color_interval"][1]
    assert validation["enhanced"]["right_words"] == pytest.approx(25 / 30)
    low, high = validation["enhanced"]["right_words_interval"]
    assert 0.7 < low < 25 / 30 < high < 1
    lead = validation["caption"]["minus"]["enhanced"]
    assert lead["right_words"] == pytest.approx(5 / 30)
    assert lead["right_words_interval"] == pytest.approx([1 - high, 1 - low])
    assert "minus" not in validation["enhanced"]
    assert validation["caption"]["as_enhanced"] == 0.5
    assert "free_caption" not in validation
    assert metrics["texts"] == {"caption": IMAGES, "enhanced": 0}
    assert metrics["warnings"] == []
    rows = result.table.to_pylist()
    assert [row["image_id"] for row in rows] == made.ids
    assert [row["split"] for row in rows] == [SPLIT_OF[i % 3] for i in range(IMAGES)]
    assert {row["source"] for row in rows} == {"caption"}
    assert rows[0] == {
        "image_id": "i00",
        "split": "train",
        "original": "A photo of Canvas_Boots",
        "enhanced": FORM.format("Canvas", "Boots", "blue"),
        "caption": FORM.format("Canvas", "Boots", "red"),
        "free_caption": None,
        "recommended": FORM.format("Canvas", "Boots", "red"),
        "source": "caption",
        "readable": "boots in red",
    }


def test_captions_less_right_than_the_prompts_they_were_learnt_from_are_not(made: Run) -> None:
    made.captions = dict.fromkeys(made.ids, FORM.format("Suede", "Boots", "red"))
    result = made.recommend()
    assert result.metrics["recommended"] == "enhanced"
    rows = result.table.to_pylist()
    assert [row["recommended"] for row in rows] == [made.enhanced(i)[3] for i in range(IMAGES)]
    assert rows[1]["readable"] == "sandals in red"
    poor, behind = result.metrics["warnings"]
    assert poor.startswith("Captions name the right object on 50% of the validation images: more")
    assert behind.startswith("Captions have 50% of the known words of the validation images right")
    assert "enhanced prompts 83%: use the enhanced prompts" in behind


def test_too_few_labelled_images_show_nothing(made: Run) -> None:
    made.settings["min_labelled"] = 11
    result = made.recommend()
    assert result.metrics["recommended"] == "enhanced"
    assert result.metrics["reason"].startswith("It takes 11 labelled validation images to say")
    assert "captions have 100.0% right and enhanced prompts 83.3%" in result.metrics["reason"]


def test_without_labels_the_enhanced_prompt_is_recommended(made: Run) -> None:
    made.labelled = False
    result = made.recommend()
    assert result.metrics["recommended"] == "enhanced"
    assert result.metrics["reason"].startswith("Nothing is known to be true")
    assert result.metrics["validation"]["caption"]["right_words"] is None
    assert result.metrics["warnings"][-1].startswith("No validation image has a label or truth")
    json.dumps(result.metrics, allow_nan=False)


def test_without_captions_of_validation_images_that_is_said(made: Run) -> None:
    made.captions = {name: text for name, text in made.captions.items() if int(name[1:]) % 3 != 1}
    metrics = made.recommend().metrics
    assert metrics["recommended"] == "enhanced"
    assert metrics["reason"].startswith("No validation image has a caption, so nothing shows")
    (warning,) = metrics["warnings"]
    assert warning.startswith("No validation image has a caption") and "split.fractions" in warning


@pytest.mark.parametrize("text", [" ", "-", "..!"])
def test_a_readable_name_of_nothing_to_read_is_refused(text: str) -> None:
    readable = {"template": None, "names": [{"label": "Boots", "text": text}]}
    with pytest.raises(ValidationError, match="a letter or a digit"):
        Recommend.model_validate({"min_labelled": 1, "readable": readable})


def test_few_training_images_are_said(made: Run) -> None:
    made.train_images = 48
    (warning,) = made.recommend().metrics["warnings"]
    assert warning.startswith("The captioner learnt from 48 images, and under 500 it")
    assert "more photos would help" in warning and "infer.num_beams: 1" in warning


def test_captions_off_the_template_are_replaced_and_said(made: Run) -> None:
    made.captions["i05"] = "a red boot"
    made.captions["i06"] = ""
    result = made.recommend()
    rows = {row["image_id"]: row for row in result.table.to_pylist()}
    assert rows["i05"]["source"] == rows["i06"]["source"] == "enhanced"
    assert rows["i05"]["recommended"] == rows["i05"]["enhanced"]
    assert rows["i04"]["source"] == "caption"
    assert result.metrics["off_template"] == 2
    (warning,) = result.metrics["warnings"]
    assert warning.startswith("2 of 30 captions do not follow the template")
    assert "infer.grammar" in warning


def test_images_without_a_caption_have_the_enhanced_prompt(made: Run) -> None:
    for number in range(0, IMAGES, 3):
        del made.captions[made.ids[number]]
    made.free = dict.fromkeys(made.captions, "a boot")
    result = made.recommend()
    rows = result.table.to_pylist()
    assert result.table.num_rows == IMAGES
    assert (rows[0]["caption"], rows[0]["source"]) == (None, "enhanced")
    assert result.metrics["texts"] == {"caption": 20, "enhanced": 10}
    assert result.metrics["captions"] == 20
    assert result.metrics["validation"]["free_caption"]["well_formed"] == 0


def test_no_validation_image_is_no_error(made: Run) -> None:
    made.captions = {made.ids[0]: made.captions[made.ids[0]]}
    result = made.recommend()
    assert result.metrics["recommended"] == "enhanced"
    assert result.metrics["validation"]["images"] == 0
    json.dumps(result.metrics, allow_nan=False)


def test_captions_of_another_catalog_are_refused(made: Run) -> None:
    made.captions["other"] = "x"
    with pytest.raises(MismatchedOutputsError, match=r"captions.parquet has 1 images.*'other'"):
        made.recommend()
    del made.captions["other"]
    made.write()
    splits = read_table(made.paths.splits, SPLITS).slice(1)
    write_table(splits, made.paths.splits, SPLITS)
    with pytest.raises(ImageJoinError, match=r"splits.parquet lacks 1"):
        recommend_texts(made.paths, Recommend.model_validate(made.settings))


@pytest.mark.parametrize("text", ["{}", "no JSON", "[]", '{"train_images": null}'])
def test_damaged_metrics_are_named(made: Run, text: str) -> None:
    made.write()
    made.paths.finetuning.write_text(text)
    with pytest.raises(DamagedOutputError, match=r"finetune.json must be JSON with"):
        recommend_texts(made.paths, Recommend.model_validate(made.settings))


def test_a_template_of_other_groups_is_refused(made: Run) -> None:
    made.settings["readable"]["template"] = "{object} of {material}"
    with pytest.raises(ReadableTemplateError, match=r"names \{material\}"):
        made.recommend()


def test_the_stage_writes_its_outputs_and_says_the_warnings(
    made: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made.train_images = 48
    made.write()
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["recommend"] = made.settings
    (made.root / "params.yaml").write_text(yaml.safe_dump(params))
    out = made.root / "out"
    arguments = {
        name: getattr(made.paths, name)
        for name in ("catalog", "splits", "truth", "prompts", "captions", "finetuning")
    }
    arguments |= {
        "texts": out / "recommended.parquet",
        "metrics": out / "recommend.json",
        "params": made.root / "params.yaml",
    }
    run_stage(monkeypatch, "recommend", arguments)
    assert read_table(out / "recommended.parquet", RECOMMENDED).num_rows == IMAGES
    metrics = json.loads((out / "recommend.json").read_text())
    assert metrics["validation"]["enhanced"]["right_words"] == 0.8333
    assert json.loads(Path("timing/recommend.json").read_text())["rows"] == IMAGES
    said = [f"recommend: {metrics['reason']}"]
    said += [f"recommend: warning: {sentence}" for sentence in metrics["warnings"]]
    # Between what every stage says of its begin and its end.
    assert capsys.readouterr().err.splitlines()[1:-1] == said
