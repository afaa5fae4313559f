"""The model card: what it tells, and that nothing of what it is given breaks out of it."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from trained_project import SEGMENTS, set_params, write_recommendation

from compositional_prompts.deployment.model_card import (
    BaseModel,
    Exported,
    escape_text,
    inline_code,
    python_literal,
    write_card,
)
from compositional_prompts.project.whole_params import read_all_params

ADAPTER: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 24,
    "lora_dropout": 0.05,
    "target_modules": ["v_proj", "q_proj"],
    "use_dora": True,
    "use_rslora": False,
}


def card(root: Path, **changes: Any) -> str:
    values: dict[str, Any] = {
        "name": "shoes",
        "merged": False,
        "base": BaseModel("Some/blip2", on_hub=True),
        "dtype": "float32",
        "begin": "</s>",
        "adapter": ADAPTER,
        "grammar": SEGMENTS,
        "license_id": None,
        "measured": True,
    }
    write_card(Exported(**(values | changes)), read_all_params(root / "params.yaml"), root)
    return (root / "README.md").read_text()


def matter(text: str) -> dict[str, Any]:
    found = re.match(r"(?s)---\n(.*?)\n---\n", text)
    assert found
    return yaml.safe_load(found[1])


def test_it_tells_the_metrics_and_parameters(own_project: Path) -> None:
    scores = json.loads(Path("metrics/scores.json").read_text())
    finetuned = json.loads(Path("metrics/finetune.json").read_text())
    scores["finetuned"]["bleu"]["mean"] = 0.1234
    scores["base"]["exact_match"] = 0.0567
    scores["finetuned"]["attributes"]["color"]["accuracy_vs_truth"] = None
    Path("metrics/scores.json").write_text(json.dumps(scores))
    text = card(own_project)
    assert re.search(r"\| BLEU \| [\d.]+ \| 0\.123 \|", text)
    assert re.search(r"\| exact match \| 5\.7 % \| [\d.]+ % \|", text)
    assert re.search(r"\| color true \| [\d.]+ % \| - \|", text)
    assert f"{finetuned['parameters']['trainable']:,} trained" in text
    assert "rank `8`, alpha `24`, dropout `0.05`, on `q_proj, v_proj`, with `use_dora`" in text
    assert "`A photo of Attribute_Object with COLOR color and MATERIAL material`" in text
    assert f"`{''.join(segment[0] for segment in SEGMENTS)}`" in text
    assert "| material | rubber |" in text
    assert "an unspecified color" in text
    found = {metric["type"]: metric["value"] for metric in
             matter(text)["model-index"][0]["results"][0]["metrics"]}  # fmt: skip
    assert found["bleu"] == 0.1234


def test_what_the_hub_reads(own_project: Path) -> None:
    read = matter(card(own_project))
    assert read["library_name"] == "peft"
    assert read["pipeline_tag"] == "image-to-text"
    assert {"blip-2", "lora"} <= set(read["tags"])
    assert "datasets" not in read
    assert matter(card(own_project, merged=True))["library_name"] == "transformers"
    assert matter(card(own_project, merged=True))["base_model_relation"] == "finetune"


def test_the_licence_is_claimed_only_for_what_was_made_here(own_project: Path) -> None:
    assert matter(card(own_project))["license"] == "mit"
    set_params(own_project / "params.yaml", download={"dataset": "fashion_products"})
    text = card(own_project)
    assert matter(text)["license"] == "other"
    assert matter(text)["datasets"] == ["ashraq/fashion-product-images-small"]
    assert "Not stated by the exporter" in text
    assert "real photographs" not in text
    assert matter(card(own_project, license_id="apache-2.0"))["license"] == "apache-2.0"


def test_a_local_data_set_is_not_taken_for_one_of_the_hub(own_project: Path) -> None:
    words = {"attributes": ["Canvas"], "objects": ["Boots"]}
    set_params(own_project / "params.yaml", download={"dataset": "folder"}, split=words)
    text = card(own_project)
    assert "datasets" not in matter(text)
    assert "the exporter's own photographs" in text


def test_a_merged_card_speaks_of_one_folder(own_project: Path) -> None:
    text = card(own_project, merged=True, base=BaseModel("models/blip2", on_hub=False))
    assert "peft" not in text
    assert "base =" not in text
    assert "dvc" not in text


HOSTILE = 'a|b `c` <img src=x onerror=alert(1)> [d](javascript:e) **f**\n---\n# "g" \\ ```'


def test_data_stays_data(own_project: Path) -> None:
    document = [
        {"name": "color", "words": [HOSTILE.replace("\n", " "), "red"]},
        {"name": "material", "words": ["`rubber`"]},
    ]
    set_params(own_project / "params.yaml", clip_embed={"attributes": document})
    base = BaseModel(HOSTILE, on_hub=False)
    text = card(own_project, name=HOSTILE, base=base, grammar=[[HOSTILE]])
    assert matter(text)["model-index"][0]["name"] == " ".join(HOSTILE.split())
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```$", text)
    assigned = {
        node.targets[0].id: node.value.value
        for node in ast.parse(code).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        and isinstance(node.targets[0], ast.Name)
    }  # fmt: skip
    assert assigned == {"folder": HOSTILE, "base": HOSTILE}
    running = re.sub(r"(?s)```python.*?\n```\n", "", text[len("---") :].split("\n---\n", 1)[1])
    running = re.sub(r"(`+) .*? \1(?!`)", "", running)  # code spans with a padded fence
    assert not re.search(r"(?<!\\)<img", running)
    assert not re.search(r"(?<!\\)\[d", running)
    assert "\n---" not in running


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("q_proj|*a*", r"q\_proj\|\*a\*"),
        ("<b>&amp;", r"\<b\>\&amp;"),
        ("two\nlines  and\tmore", "two lines and more"),
        ("back\\slash", r"back\\slash"),
    ],
)
def test_running_text_is_escaped(text: str, escaped: str) -> None:
    assert escape_text(text) == escaped


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("plain", "`plain`"),
        ("a`b", "``a`b``"),
        ("``", "``` `` ```"),
        ("two\nlines", "`two lines`"),
    ],
)
def test_code_spans_cannot_be_left(text: str, span: str) -> None:
    assert inline_code(text) == span


@pytest.mark.parametrize("value", ["a\"b'c\\d\n\te", "ü \x00\x7f\u2028", 16, None])
def test_literals_are_read_back(value: Any) -> None:
    literal = python_literal(value)
    assert ast.literal_eval(literal) == value
    assert "\n" not in literal


def test_what_plain_transformers_write_is_told_from_what_the_grammar_does(
    own_project: Path,
) -> None:
    scores = json.loads(Path("metrics/scores.json").read_text())
    scores["finetuned_free"] = json.loads(json.dumps(scores["finetuned"]))
    scores["base"]["exact_match"] = 0.0
    scores["finetuned_free"]["exact_match"] = 0.25
    scores["finetuned"]["exact_match"] = 0.75
    Path("metrics/scores.json").write_text(json.dumps(scores))
    text = card(own_project)
    assert "| | untrained | this model | this model, by the grammar |\n| --- | --- | --- |" in text
    assert "| exact match | 0.0 % | 25.0 % | 75.0 % |" in text
    found = {metric["type"]: metric["value"] for metric in
             matter(text)["model-index"][0]["results"][0]["metrics"]}  # fmt: skip
    assert found["exact_match"] == 0.25


def test_it_says_which_text_to_use_and_what_is_wrong_with_captions(own_project: Path) -> None:
    assert "**Which text to use:** the caption.\nSo it was seen." in card(own_project)
    write_recommendation(own_project, "enhanced", "Few photos.", "No *labels*.")
    text = card(own_project)
    assert "**Which text to use:** the enhanced prompt" in text
    assert "\n- Few photos.\n- No \\*labels\\*.\n" in text
    unknown = card(own_project, measured=False)
    assert "Which text to use" not in unknown
    assert "None are given" in unknown


def test_it_says_how_readable_texts_are_written(own_project: Path) -> None:
    assert "Attribute and object come first" in card(own_project)
    readable = {"template": "{object}`[ in {color}]", "names": [{"label": "a", "text": "b"}]}
    recommend = {"min_labelled": 1, "readable": readable}
    set_params(own_project / "params.yaml", recommend=recommend)
    text = card(own_project)
    assert (
        "The template is ``{object}`[ in {color}]``, with names of their own for 1 labels." in text
    )


def test_a_kept_adapter_is_told_by_the_data_and_parameters_of_its_training(
    own_project: Path,
) -> None:
    finetuned = json.loads(Path("metrics/finetune.json").read_text())
    downloaded = json.loads(Path("metrics/download.json").read_text())
    training = finetuned | {"epochs": 77, "train_images": 4321}
    origin = {
        **{"kept": "2026-01-05T08:00:00+00:00", "commit": "0123456789abcdef"},
        **{"committed": "2026-01-04T07:00:00+00:00", "images": 5432, "train_images": 4321},
        **{"training": training, "measured": {}},
        "params": {"batch_size": 99, "learning_rate": "5e-06", "schedule": "cosine"},
    }
    kept = {"mode": "keep", "origin": origin, "train_images": 4321}
    Path("metrics/finetune.json").write_text(json.dumps(kept))
    text = " ".join(card(own_project).split())
    assert "5432 images in all; 4321 to learn from" in text
    assert f"the data has {downloaded['images']} images by now" in text
    assert "That was commit `0123456789abcdef` of 2026-01-04T07:00:00+00:00" in text
    assert "77 epochs of batches of 99, learning rate 5e-06 (cosine schedule)" in text
    assert f"validation {finetuned['val_loss']['min']}" in text
    origin["commit"] = None
    Path("metrics/finetune.json").write_text(json.dumps(kept))
    assert "That was before 2026-01-05T08:00:00+00:00" in " ".join(card(own_project).split())
