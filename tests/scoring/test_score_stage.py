"""The score stage, from its inputs on disk to its outputs."""

import csv
import json
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from stage_script import run_stage

from compositional_prompts.captioner.captions_table import CAPTIONS as CAPTIONS_SCHEMA
from compositional_prompts.catalog.image_join import ImageJoinError
from compositional_prompts.catalog.schema import CATALOG
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.clip.open_clip_model import load_clip, save_clip
from compositional_prompts.clip.vector_tables import image_embeddings
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.tables import SchemaError, read_table
from compositional_prompts.prompt.template import slot_reader
from compositional_prompts.prompt.text_metrics import TEXT_METRICS, score_texts
from compositional_prompts.scoring.caption_metrics.cider import cider_d
from compositional_prompts.scoring.caption_metrics.meteor import meteor_stem
from compositional_prompts.scoring.caption_scores import score_captions, write_means
from compositional_prompts.scoring.parameters import Score
from compositional_prompts.scoring.score_table import SCORES
from compositional_prompts.scoring.scoring_inputs import read_inputs

ROOT = Path(__file__).parents[2]
CLIP_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8,
    },
    "text_cfg": {
        "context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
    },
}  # fmt: skip
FORM = "A photo of {}_{} with {} color and {} material"
# image_id, attribute, object, enhanced color and material, then what is true of them.
IMAGES = [
    ("i0", "Canvas", "Sandals", "white", "fabric", "Canvas", "Sandals", "white", None),
    ("i1", "Suede", "Boots.Ankle", "black", None, "Suede", "Boots.Ankle", "brown", "leather"),
    ("i2", "Faux_Fur", "Slippers", None, "synthetic", None, None, None, "synthetic"),
    ("i3", "Canvas", "Sandals", "white", "fabric", "Leather", "Sandals", "red", "leather"),
]
REFERENCES = {
    "i0": FORM.format("Canvas", "Sandals", "white", "fabric"),
    "i1": "A photo of Suede_Boots.Ankle with black color and an unspecified material",
    "i2": "A photo of Faux_Fur_Slippers with an unspecified color and synthetic material",
    "i3": FORM.format("Canvas", "Sandals", "white", "fabric"),
}
CAPTIONS = {
    "base": {
        "i0": "white canvas sandals",
        "i1": "",
        "i2": "brown leather boots with a very long description that goes beyond the context",
        "i3": "red leather sandals",
    },
    "finetuned": {
        **REFERENCES,
        "i1": FORM.format("Suede", "Boots.Ankle", "black", "leather"),
    },
}


def write(path, rows, declared):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, declared), path)


def write_captions(folder, captioner, captions, free=None):
    rows = [
        {"image_id": key, "caption": text, "free_caption": (free or {}).get(key)}
        for key, text in captions.items()
    ]
    write(folder / "captions" / f"{captioner}.parquet", rows, CAPTIONS_SCHEMA)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    model = open_clip.CLIP(**CLIP_CONFIG)
    open_clip.set_model_preprocess_cfg(
        model,
        {"size": 16, "mode": "RGB", "mean": (0.5,) * 3, "std": (0.5,) * 3,
         "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0},
    )  # fmt: skip
    save_clip(model, CLIP_CONFIG, folder)
    return folder


@pytest.fixture
def project(tmp_path):
    groups = ("color", "material")
    prompts, labels, truths = [], [], []
    extra = ("unscored", "Wool", "Flats", "red", "fabric", "Wool", "Flats", "red", "fabric")
    for row in [extra, *IMAGES[::-1]]:
        image_id, attribute, object_, color, material, *truth = row
        prompts.append(
            {
                "image_id": image_id,
                "attribute": attribute,
                "object": object_,
                "original_prompt": f"A photo of {attribute}_{object_}",
                "enhanced_prompt": REFERENCES.get(image_id, "another"),
                "color": color,
                "material": material,
                **{f"{group}_best": "x" for group in groups},
                **{f"{group}_{name}": 0.5 for group in groups for name in ("score", "margin")},
                **{f"{group}_scores": [0.5] for group in groups},
            }
        )
        labels.append(
            {
                "image_id": image_id,
                "product_id": image_id,
                "content": bytes(16),
                "image": {"bytes": b"", "path": ""},
                "attribute": truth[0],
                "object": truth[1],
            }
        )
        truths += [
            {"image_id": image_id, "group": group, "word": word}
            for group, word in zip(groups, truth[2:], strict=True)
            if word is not None
        ]
    write(tmp_path / "prompts.parquet", prompts, enhanced_prompts_schema(groups))
    write(tmp_path / "catalog" / "part-00000.parquet", labels, CATALOG)
    write(tmp_path / "truth.parquet", truths, TRUTH)
    vectors = np.random.default_rng(9).normal(size=(5, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write(
        tmp_path / "embeddings" / "images" / "part-00000.parquet",
        [
            {"image_id": image_id, "embedding": vector.astype(np.float32)}
            for image_id, vector in zip(["i3", "i1", "unscored", "i0", "i2"], vectors, strict=True)
        ],
        image_embeddings(16),
    )
    write_captions(tmp_path, "base", CAPTIONS["base"])
    write_captions(tmp_path, "finetuned", dict(reversed(CAPTIONS["finetuned"].items())))
    return tmp_path


def read(folder):
    return read_inputs(
        folder / "captions",
        folder / "prompts.parquet",
        folder / "catalog",
        folder / "truth.parquet",
    )


def unit_texts(clip, texts):
    with torch.inference_mode():
        vectors = clip.model.encode_text(clip.tokenizer(texts)).double()
    return (vectors / vectors.norm(dim=1, keepdim=True)).numpy()


def test_the_stage_writes_its_outputs(project, clip_folder, monkeypatch):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["base"]["device"] = "cpu"
    params["score"] = {"batch_size": 3, "bleu_tokenize": "none", "bert_score": None}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    out = project / "out"
    arguments = {
        "captions": project / "captions",
        "prompts": project / "prompts.parquet",
        "catalog": project / "catalog",
        "truth": project / "truth.parquet",
        "embeddings": project / "embeddings",
        "clip": clip_folder,
        "scores": out / "scores.parquet",
        "metrics": out / "scores.json",
        "plots": out / "scores.csv",
        "params": project / "params.yaml",
    }
    run_stage(monkeypatch, "score", arguments)

    rows = read_table(out / "scores.parquet", SCORES).to_pylist()
    assert [(row["captioner"], row["image_id"]) for row in rows] == [
        (captioner, image_id) for captioner in CAPTIONS for image_id in REFERENCES
    ]
    clip = load_clip(clip_folder, torch.device("cpu"))
    images = {
        row["image_id"]: np.array(row["embedding"], dtype=np.float64)
        for row in pq.read_table(project / "embeddings" / "images").to_pylist()
    }
    for row in rows:
        caption = CAPTIONS[row["captioner"]][row["image_id"]]
        reference = REFERENCES[row["image_id"]]
        assert (row["caption"], row["reference"]) == (caption, reference)
        text = score_texts([caption], [reference], "none")
        assert all(row[name] == text[name][0] for name in TEXT_METRICS)
        said, wanted = unit_texts(clip, [caption, reference])
        image = images[row["image_id"]]
        assert row["cosine"] == pytest.approx(said @ wanted, abs=1e-6)
        assert row["clip_caption"] == pytest.approx(image @ said, abs=1e-6)
        assert row["clip_reference"] == pytest.approx(image @ wanted, abs=1e-6)
        told, sought = unit_texts(
            clip, [f"A photo depicts {text}" for text in (caption, reference)]
        )
        alone, other = 2.5 * max(image @ told, 0), max(told @ sought, 0)
        assert row["clip_score"] == pytest.approx(alone, abs=3e-6)
        both = 2 * alone * other / (alone + other) if alone + other else 0
        assert row["ref_clip_score"] == pytest.approx(both, abs=3e-6)
        assert row["bert_score"] is None
        assert row["exact_match"] is (caption == reference)
        if caption == reference:
            assert row["clip_preference"] == "tie"
        else:
            expected = "caption" if image @ said > image @ wanted else "enhanced"
            assert row["clip_preference"] == expected

    metrics = json.loads((out / "scores.json").read_text())
    assert list(metrics) == ["base", "finetuned"]
    for captioner, values in metrics.items():
        of = [row for row in rows if row["captioner"] == captioner]
        measured = (
            *TEXT_METRICS, "cider_d", "meteor_stem", "cosine", "clip_score", "ref_clip_score",
        )  # fmt: skip
        assert set(values) - {"minus"} == {
            "images", "products", *measured, "exact_match", "exact_match_interval",
            "clip_preference", "indistinct_references", "well_formed", "well_formed_interval",
            "attributes", "cut_by_clip",
        }  # fmt: skip
        assert values["cut_by_clip"] == {"base": 1, "finetuned": 4}[captioner]
        assert values["images"] == values["products"] == 4 and values["indistinct_references"] == 0
        texts = [[row[name] for row in of] for name in ("caption", "reference")]
        assert [row["cider_d"] for row in of] == cider_d(*texts).values.tolist()
        assert [row["meteor_stem"] for row in of] == meteor_stem(*texts).tolist()
        for name in measured:
            column = [row[name] for row in of]
            spread = {"best": max(column), "mean": sum(column) / 4, "worst": min(column)}
            low, high = values[name].pop("mean_interval")
            assert spread["worst"] <= low <= values[name]["mean"] <= high <= spread["best"]
            assert values[name] == pytest.approx(spread, abs=5.1e-5)
        assert sum(values["clip_preference"].values()) == 4
        assert list(values["clip_preference"]) == ["caption", "enhanced", "tie"]
    base, tuned = metrics["base"], metrics["finetuned"]
    assert (base["exact_match"], base["well_formed"]) == (0.0, 0.0)
    assert (tuned["exact_match"], tuned["well_formed"]) == (0.75, 1.0)
    assert tuned["clip_preference"]["tie"] == 3

    more = tuned["minus"]["base"]
    assert "minus" not in base
    assert more["bleu"]["mean"] == pytest.approx(
        tuned["bleu"]["mean"] - base["bleu"]["mean"], abs=2e-4
    )
    assert more["exact_match"] == 0.75 and more["exact_match_interval"] == [0.25, 1.0]
    assert more["attributes"]["object"]["accuracy_vs_truth_interval"] == [1.0, 1.0]

    def shares(captioner, place):
        attributes = metrics[captioner]["attributes"][place]
        return [value for name, value in attributes.items() if not name.endswith("_interval")]

    # vs enhanced, vs truth, mentions of the truth
    assert shares("base", "attribute") == [0.0, 0.0, round(2 / 3, 4)]
    assert shares("base", "object") == [0.0, 0.0, round(2 / 3, 4)]
    assert shares("base", "color") == [0.0, 0.0, round(2 / 3, 4)]
    assert shares("base", "material") == [0.0, 0.0, round(1 / 3, 4)]
    assert shares("finetuned", "attribute") == [1.0, round(2 / 3, 4), round(2 / 3, 4)]
    assert shares("finetuned", "object") == [1.0, 1.0, 1.0]
    assert shares("finetuned", "color") == [1.0, round(1 / 3, 4), round(1 / 3, 4)]
    assert shares("finetuned", "material") == [0.75, round(2 / 3, 4), round(2 / 3, 4)]

    with (out / "scores.csv").open(newline="") as file:
        means = {(row["captioner"], row["metric"]): row["value"] for row in csv.DictReader(file)}
    assert len(means) == 22
    assert float(means["finetuned", "rougeL"]) == tuned["rougeL"]["mean"]
    assert float(means["base", "well_formed"]) == 0
    assert json.loads((project / "timing/score.json").read_text())["rows"] == 8


def score(project, clip_folder, bert_score=None):
    return score_captions(
        read(project),
        project / "embeddings/images",
        load_clip(clip_folder, torch.device("cpu")),
        slot_reader,
        Score(batch_size=3, bleu_tokenize="none", bert_score=None),
        bert_score,
    )


def test_bert_score_stands_where_it_was_asked_for(project, clip_folder):
    def lengths(captions, references):
        return np.array([len(a) / 100 for a in captions])

    scores = score(project, clip_folder, lengths)
    table = scores.table.to_pydict()
    assert table["bert_score"] == [len(caption) / 100 for caption in table["caption"]]
    assert scores.metrics["base"]["bert_score"]["best"] == max(table["bert_score"][:4])
    write_means(scores.metrics, project / "means.csv")
    mean = round(sum(table["bert_score"][:4]) / 4, 4)
    assert f"base,bert_score,{mean}\n" in (project / "means.csv").read_text()


def test_prompts_that_cider_cannot_tell_apart_are_counted_and_told(project, clip_folder, caplog):
    table = pq.read_table(project / "prompts.parquet").to_pylist()
    for row in table:
        row["enhanced_prompt"] = REFERENCES["i0"]
    write(project / "prompts.parquet", table, enhanced_prompts_schema(("color", "material")))
    metrics = score(project, clip_folder).metrics
    nothing = {"best": 0, "mean": 0, "mean_interval": [0, 0], "worst": 0}
    assert metrics["finetuned"]["cider_d"] == nothing
    assert {values["indistinct_references"] for values in metrics.values()} == {4}
    assert "CIDEr-D is 0 for 4 of 4 images" in caplog.text


def test_inputs_are_joined_on_image_id(project):
    inputs = read(project)
    assert inputs.image_ids.to_pylist() == ["i0", "i1", "i2", "i3"]
    assert inputs.references == list(REFERENCES.values())
    assert {name: list(column) for name, column in inputs.captions.items()} == {
        name: list(captions.values()) for name, captions in CAPTIONS.items()
    }
    assert inputs.groups == ("color", "material")
    assert inputs.enhanced["material"] == ["fabric", None, "synthetic", "fabric"]
    assert inputs.truth["color"] == [("white",), ("brown",), (), ("red",)]
    assert inputs.truth["object"] == [("Sandals",), ("Boots.Ankle",), (), ("Sandals",)]


def test_titles_are_what_captions_are_held_against(project, clip_folder):
    shard = project / "catalog" / "part-00000.parquet"
    rows = pq.read_table(shard).to_pylist()
    scored = pq.read_table(project / "captions" / "base.parquet")["image_id"].to_pylist()
    for row in rows:
        row["title"] = None if row["image_id"] == scored[0] else f"a title of {row['image_id']}"
    write(shard, rows, CATALOG)
    paths = (project / "captions", project / "prompts.parquet", project / "catalog")
    inputs = read_inputs(*paths, project / "truth.parquet", "title")
    assert inputs.image_ids.to_pylist() == scored[1:]
    assert inputs.references == [f"a title of {name}" for name in scored[1:]]
    result = score_captions(
        inputs,
        project / "embeddings" / "images",
        load_clip(clip_folder, torch.device("cpu")),
        slot_reader,
        Score(batch_size=3, bleu_tokenize="none", bert_score=None),
    )
    for metrics in result.metrics.values():
        assert (metrics["target"], metrics["untitled"]) == ("title", 1)
        assert metrics["well_formed"] is None
        assert set(metrics["clip_preference"]) == {"caption", "title", "tie"}
        place = metrics["attributes"]["object"]
        assert place["accuracy_vs_enhanced"] is place["accuracy_vs_truth"] is None
        assert place["mention_accuracy_vs_truth"] is not None
    for row in rows:
        row["title"] = " "
    write(shard, rows, CATALOG)
    with pytest.raises(ValueError, match=r"none of the .* images to be scored has one"):
        read_inputs(*paths, project / "truth.parquet", "title")


def test_captions_of_different_images_are_refused(project):
    write_captions(project, "finetuned", dict(list(REFERENCES.items())[:3]))
    with pytest.raises(ImageJoinError, match=r"finetuned.parquet lacks 1 .*base.parquet, .*'i3'"):
        read(project)
    write_captions(project, "finetuned", {**dict(list(REFERENCES.items())[:3]), "other": "x"})
    with pytest.raises(ImageJoinError, match=r"finetuned.parquet lacks 1 .*base.parquet, .*'i3'"):
        read(project)


def test_what_the_untrained_model_captions_is_scored(project):
    write_captions(project, "finetuned", {"unscored": "another", **CAPTIONS["finetuned"]})
    inputs = read(project)
    assert inputs.image_ids.to_pylist() == ["i0", "i1", "i2", "i3"]
    assert list(inputs.captions["finetuned"]) == list(CAPTIONS["finetuned"].values())


def test_free_captions_are_scored_where_there_is_one_of_every_image(project):
    free = {image_id: f"free {image_id}" for image_id in CAPTIONS["finetuned"]}
    captions = {"unscored": "another", **CAPTIONS["finetuned"]}
    write_captions(project, "finetuned", captions, free)
    inputs = read(project)
    assert list(inputs.captions) == ["base", "finetuned_free", "finetuned"]
    assert inputs.captions["finetuned_free"] == ["free i0", "free i1", "free i2", "free i3"]
    del free["i2"]
    write_captions(project, "finetuned", captions, free)
    assert list(read(project).captions) == ["base", "finetuned"]


@pytest.mark.parametrize(("table", "place"), [("prompts", "prompts"), ("catalog", "catalog")])
def test_an_image_that_another_table_lacks_is_named(project, table, place):
    path = {
        "prompts": project / "prompts.parquet",
        "catalog": project / "catalog" / "part-00000.parquet",
    }[table]
    rows = pq.read_table(path)
    pq.write_table(rows.filter(pa.array([i != "i2" for i in rows["image_id"].to_pylist()])), path)
    with pytest.raises(ImageJoinError, match=rf"{place}\S* lacks 1 .*base.parquet, .*'i2'"):
        read(project)


def test_repeated_and_absent_captions_are_refused(project):
    path = project / "captions" / "base.parquet"
    rows = pq.read_table(path)
    pq.write_table(pa.concat_tables([rows, rows.slice(2, 1)]), path)
    with pytest.raises(ImageJoinError, match=r"base.parquet has image 'i2' in more than one row"):
        read(project)
    pq.write_table(rows.slice(0, 0), path)
    with pytest.raises(ValueError, match=r"base.parquet holds no captions"):
        read(project)
    pq.write_table(rows.rename_columns(["image_id", "text", "free_caption"]), path)
    with pytest.raises(SchemaError, match="column 'caption' is missing"):
        read(project)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"base.parquet is missing"):
        read(project)
    (project / "prompts.parquet").unlink()
    write_captions(project, "base", CAPTIONS["base"])
    with pytest.raises(FileNotFoundError, match=r"prompts.parquet is missing"):
        read(project)
