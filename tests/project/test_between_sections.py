"""What sections ask of one another is told before anything runs, all of it at once."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from compositional_prompts.pipeline.section import ParameterError
from compositional_prompts.project.between_sections import doubts
from compositional_prompts.project.whole_params import check_params, checked

ROOT = Path(__file__).parents[2]
SHIPPED: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
FOLDER = SHIPPED["download"]["folder"] | {"path": "photos", "labels": None, "truth": []}
NEWEST = {"pretrained": None, "revision": None}


def changed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The shipped parameters with others by their dotted names."""
    document = copy.deepcopy(SHIPPED)
    for name, value in changes.items():
        *groups, key = name.split(".")
        section = document
        for group in groups:
            section = section[group]
        section[key] = value
    return document


def refused(changes: Mapping[str, Any]) -> list[str]:
    with pytest.raises(ParameterError) as raised:
        checked(changed(changes), "params.yaml")
    return str(raised.value).splitlines()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"enhance.methods": [{"group": "colour", "method": "probe"}]},
            ["enhance.methods has the group 'colour'", "'color', 'material'", "correct"],
        ),
        (
            {"enhance.methods": [{"group": "material", "method": "pixels"}]},
            ["'material' is pixels", "enhance.reference_colors"],
        ),
        ({"finetune.augment": True}, ["finetune.augment", "blip2_features.cache", "to false"]),
        ({"infer.precision": "int8"}, ["infer.precision is int8", "base.device is cpu", "cuda"]),
        (
            {"blip2_features.precision": "int4"},
            ["blip2_features.precision is int4", "base.device is cpu"],
        ),
        (
            {"finetune.target": "title", "infer.max_new_tokens": 64},
            ["infer.grammar is true", "set infer.grammar to false"],
        ),
        (
            {"finetune.target": "title", "infer.grammar": False, "infer.max_new_tokens": 50},
            ["infer.max_new_tokens is 50", "set it to 64"],
        ),
        (
            {"infer.grammar": False},
            ["infer.max_new_tokens is 50", "finetune.max_tokens (64)", "set it to 64"],
        ),
        (
            {"finetune.max_tokens": 113},
            ["finetune.max_tokens is 113", "weights.blip2 (micro) has room for 112", "to 112"],
        ),
        ({"infer.max_new_tokens": 120}, ["infer.max_new_tokens is 120", "has room for 112"]),
        (
            {"weights.pretrain.corpus": "catalog"},
            ["weights.pretrain.corpus is catalog", "split.corpus is false", "to true"],
        ),
        (
            {"download.dataset": "folder", "download.folder": FOLDER},
            ["download.dataset is folder", "split.objects is empty"],
        ),
        (
            {
                "download.dataset": "folder",
                "download.folder": FOLDER,
                "split.attributes": ["Canvas"],
            },
            ["without labels, and split.objects is empty"],
        ),
        (
            {"split.assignment": "given"},
            ["split.assignment is given", "sample, brings no split", "stable, exact or null."],
        ),
        (
            {"split.assignment": "given", "download.dataset": "hub"},
            ["split.assignment is given", "hub, brings no split", "set download.hub.keep_splits"],
        ),
        (
            {"clip_embed.attributes": [{"name": "with_lace", "words": ["a"]}]},
            ["clip_embed.attributes: ", "'with_lace'", "rename it"],
        ),
        (
            {"clip_embed.attributes": [{"name": "a/b", "words": ["a"]}]},
            ["clip_embed.attributes: group 'a/b'", "letters", "rename it"],
        ),
        (
            {"clip_embed.attributes": [{"name": "color", "words": ["dark  red"]}]},
            ["clip_embed.attributes: attribute group 'color': the word 'dark  red'", "reword it"],
        ),
        (
            {
                "infer.grammar": True,
                "weights.blip2": {
                    "source": "hub",
                    "name": "Salesforce/blip2-flan-t5-xl",
                    "revision": None,
                },
            },
            ["infer.grammar is true", "weights.blip2.name is 'Salesforce/blip2-flan-t5-xl'"],
        ),
        (
            {"weights.clip": {"source": "hub", "name": "ViT-B-32", **NEWEST}},
            ["weights.clip: ", "'ViT-B-32' needs a `pretrained` tag, found null"],
        ),
        (
            {"weights.troika_clip": {"source": "hub", "name": "hf-hub:clip", **NEWEST}},
            ["weights.troika_clip: ", "hf-hub:ORGANISATION/REPOSITORY, found 'hf-hub:clip'"],
        ),
        (
            {"weights.blip2": {"source": "hub", "name": "micro", "revision": None}},
            ["weights.blip2: ", "ORGANISATION/REPOSITORY", "found 'micro'"],
        ),
        (
            {"recommend.readable": {"template": "{attribute} {object}[ of {sole}]", "names": []}},
            ["recommend.readable.template", "clip_embed.attributes", "sole"],
        ),
        ({"split.fractions": {"train": 0.9, "val": 0.1, "test": 0}}, ["split.fractions.test: "]),
        ({"split.objects": ["a_b"]}, ["split.objects.0: ", "underscore"]),
        ({"base.launcher": " "}, ["base.launcher: must be a command"]),
        ({"base.launcher": "accelerate 'launch"}, ["base.launcher: must be a command: No closing"]),
        ({"troika_train.context": " "}, ["troika_train.context: has no words"]),
        (
            {"troika_train.context": "a photo of one", "troika_train.context_length": 7},
            ["troika_train.context_length is 7", "'a photo of one'", "takes 8 or more"],
        ),
        ({"troika_train.batch_size": 1}, ["troika_train: batch_size is 1", "at least 2"]),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(changes: dict[str, Any], said: list[str]) -> None:
    (line,) = refused(changes)
    assert line.startswith("params.yaml: ")
    for part in said:
        assert part in line


def test_all_faults_are_told_at_once_beside_sections_that_are_wrong_themselves() -> None:
    lines = refused(
        {
            "finetune.augment": True,
            "finetune.precision": "int8",
            "infer.num_beams": 0,
            "report.titel": "x",
            "weights.pretrain.corpus": "catalog",
        }
    )
    told = "\n".join(lines)
    assert len(lines) == 4
    for part in ("infer.num_beams", "report.titel: unknown key", "blip2_features.cache", "corpus"):
        assert part in told
    # Judged where all of its sections are valid: told once infer.num_beams is right.
    assert "finetune.precision" not in told


def test_a_local_model_tells_its_language_model(tmp_path: Path) -> None:
    local = {"source": "path", "name": str(tmp_path), "revision": None}
    changes = {"infer.grammar": True, "weights.blip2": local}
    checked(changed(changes), "")  # not there yet: weights says so
    for family, wrong in (("opt", False), ("t5", True)):
        (tmp_path / "config.json").write_text(json.dumps({"text_config": {"model_type": family}}))
        if wrong:
            assert "is a T5" in refused(changes)[0]
        else:
            checked(changed(changes), "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"enhance.reference_colors": [{"word": "teal", "rgb": [0, 128, 128]}]},
            "enhance.reference_colors has 'teal'",
        ),
        ({"base.launcher": "acelerate launch"}, "no program 'acelerate' on PATH"),
        (
            {"download.dataset": "folder", "download.folder": FOLDER | {"labels": "photos.csv"}},
            "download.folder.labels is 'photos.csv', and there is no such file",
        ),
        (
            {"weights.clip": {"source": "path", "name": "no/where", **NEWEST}},
            "weights.clip.name is 'no/where'",
        ),
        (
            {"troika_predict.feasibility.vectors": "glove",
             "troika_predict.feasibility.glove": "no.txt"},
            "troika_predict.feasibility.glove is 'no.txt', and there is no such file",
        ),
    ],
)  # fmt: skip
def test_what_is_hardly_meant_is_a_warning(
    changes: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed(changes)))
    check_params(path, tmp_path / "proof.txt")
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert any(line.startswith(f"warning: {path}: ") and said in line for line in warnings)


def test_a_model_that_is_to_be_taken_and_is_not_there_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = {"troika_train.mode": "reference", "finetune.mode": "keep"}
    monkeypatch.chdir(tmp_path)
    sections = dict(checked(changed(modes), "params.yaml"))
    assert not any("mode is" in doubt for doubt in doubts(sections))  # no pipeline to ask
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    told = [doubt for doubt in doubts(sections) if "mode is" in doubt]
    assert len(told) == 2
    assert "there is no models/source/reference/troika: it cannot run; put it there" in told[0]
    assert "there is no models/source/keep/captioner: it cannot run; fetch it with" in told[1]
    for name in ("reference/troika", "keep/captioner"):
        (tmp_path / "models" / "source" / name).mkdir(parents=True)
    assert not any("mode is" in doubt for doubt in doubts(sections))


def test_the_proof_is_the_same_whatever_the_parameters(tmp_path: Path) -> None:
    proofs = set()
    for seed in (1, 2):
        path, proof = tmp_path / "params.yaml", tmp_path / f"{seed}.txt"
        path.write_text(yaml.safe_dump(changed({"base.seed": seed})))
        assert check_params(path, proof) > 100
        proofs.add(proof.read_bytes())
    assert len(proofs) == 1
    path.write_text(yaml.safe_dump(changed({"infer.num_beams": 0})))
    with pytest.raises(ParameterError):
        check_params(path, tmp_path / "none.txt")
    assert not (tmp_path / "none.txt").exists()


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"num_query_tokens": 32, "text_config": {"max_position_embeddings": 90}}, True),
        ({"num_query_tokens": 32, "text_config": {"max_position_embeddings": 96}}, False),
        ({"text_config": {"max_position_embeddings": 90}}, False),
        ({"num_query_tokens": 32, "text_config": []}, False),
        ([], False),
    ],
)
def test_room_for_captions_is_that_of_a_local_model(
    config: Any, found: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    own = {"source": "path", "name": str(tmp_path), "revision": None}
    changes = {"weights.blip2": own}
    if not found:
        checked(changed(changes), "params.yaml")
        return
    (line,) = refused(changes)
    assert "finetune.max_tokens is 64" in line and "has room for 58" in line


def integers(values: Any, path: str = "") -> list[str]:
    """The dotted names of all whole numbers."""
    if isinstance(values, dict):
        return [name for key in values for name in integers(values[key], f"{path}.{key}")]
    whole = isinstance(values, int) and not isinstance(values, bool)
    return [path.removeprefix(".")] if whole else []


@pytest.mark.parametrize("name", integers(SHIPPED))
def test_no_whole_number_is_without_bounds(name: str) -> None:
    """One that no machine could hold, or that overflows what computes with it."""
    for value in (10**30, -1):
        assert any(name in line for line in refused({name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("infer.num_beams", 100_000),
        ("infer.batch_size", 10_000_000),
        ("base.workers", 100_000),
        ("base.ray.actors", 100_000),
        ("finetune.lora.r", 1_000_000),
        ("finetune.batch_size", 10_000_000),
        ("clip_embed.batch_size", 10_000_000),
        ("troika_train.adapter_dim", 1_000_000),
        ("troika_train.traction_layers", 10_000),
        ("download.feed.fetch.parallel", 100_000),
        ("download.feed.fetch.retries", 1_000),
        ("download.shard_mib", 1_000_000),
        ("report.gallery_images", 1_000_000),
    ],
)
def test_what_would_fill_memory_is_refused(name: str, value: int) -> None:
    (line,) = refused({name: value})
    assert name in line and f"found {value}" in line


def test_beams_of_a_batch_are_counted_together() -> None:
    (line,) = refused({"infer.num_beams": 100, "infer.batch_size": 60_000})
    assert "infer" in line and "6000000 texts at once" in line


@pytest.mark.parametrize("words", [["."], ["Canvas", ". ."], ["\u200b"]])
def test_labels_that_say_nothing_are_refused(words: list[str]) -> None:
    (line,) = refused({"split.objects": words})
    assert "split.objects" in line and "no letter, digit or sign" in line


def test_words_that_nobody_sees_are_refused() -> None:
    groups = [{"name": "color", "words": ["red", "\u200b"]}]
    (line, *_) = refused({"clip_embed.attributes": groups})
    assert "clip_embed.attributes.0.words.1" in line and "that is seen" in line
