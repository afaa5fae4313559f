"""``compositional-prompts caption``: what it says of photos, and what it does with bad ones."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch
from PIL import Image
from trained_project import (
    BEAMS,
    PAIR_ROWS,
    SEGMENTS,
    WORDS,
    Run,
    encoded,
    plain_captions,
    set_params,
    write_recommendation,
)

from compositional_prompts.captioner.decoding.grammar_file import write_grammar
from compositional_prompts.catalog.splitting.split_tables import PAIRS
from compositional_prompts.enhancement.colors.foreground_colors import BINS, foreground_colors
from compositional_prompts.enhancement.word_scorer import load_word_scorer
from compositional_prompts.files.tables import write_table


def photo_paths(photos: Path) -> list[Path]:
    return [photos / name for name in ("a.png", "b/c.PNG", "b/d/e.jpg", "b/f.png", "g.webp")]


def records(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def test_a_folder_is_captioned_as_by_plain_transformers(
    project: Path, photos: Path, run: Run
) -> None:
    paths = photo_paths(photos)
    wanted = plain_captions(project, paths)
    assert len(set(wanted)) > 1
    status, out, err = run("caption", "--caption-only", photos, "--json", "--batch-size", "2")
    assert (status, err) == (0, "")
    assert records(out) == [
        {"path": str(path), "caption": caption} for path, caption in zip(paths, wanted, strict=True)
    ]


def test_a_single_file_gives_its_caption_alone(project: Path, photos: Path, run: Run) -> None:
    (wanted,) = plain_captions(project, [photos / "a.png"], num_beams=1)
    status, out, _ = run("caption", "--caption-only", photos / "a.png", "--num-beams", "1")
    assert status == 0
    escaped = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: f"\\x{ord(match[0]):02x}", wanted)
    assert out == f"{escaped}\n"


def test_several_photos_are_named_before_a_tab(project: Path, photos: Path, run: Run) -> None:
    status, out, _ = run("caption", "--caption-only", photos / "g.webp", photos / "a.png")
    assert status == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        str(photos / "g.webp"),
        str(photos / "a.png"),
    ]


def test_a_file_is_taken_whatever_its_name(project: Path, photos: Path, run: Run) -> None:
    odd = photos / "no extension"
    shutil.copy(photos / "a.png", odd)
    status, out, _ = run("caption", "--caption-only", odd, photos / "a.png", "--json")
    assert status == 0
    first, second = records(out)
    assert first["caption"] == second["caption"]


def test_the_untrained_caption_is_the_base_models(project: Path, photos: Path, run: Run) -> None:
    paths = photo_paths(photos)
    status, out, _ = run("caption", photos, "--json", "--untrained")
    assert status == 0
    untrained = [record["untrained"] for record in records(out)]
    assert untrained == plain_captions(project, paths, adapter=False)
    assert untrained != plain_captions(project, paths)


def test_settings_are_those_of_infer(own_project: Path, photos: Path, run: Run) -> None:
    set_params(own_project / "params.yaml", infer={"length_penalty": -2.0})
    wanted = plain_captions(own_project, photo_paths(photos), length_penalty=-2.0)
    _, out, _ = run("caption", "--caption-only", photos, "--json")
    assert [record["caption"] for record in records(out)] == wanted


def test_the_grammar_admits_nothing_else(own_project: Path, photos: Path, run: Run) -> None:
    set_params(own_project / "params.yaml", infer={"max_new_tokens": 60, "grammar": True})
    possible = {"".join(choice) for choice in _choices(SEGMENTS)}
    status, out, _ = run("caption", photos, "--json", "--scores")
    assert status == 0
    assert all(record["caption"] in possible for record in records(out))
    assert all(record["slots"] is not None for record in records(out))
    _, out, _ = run("caption", photos, "--json", "--no-grammar")
    assert not any(record["caption"] in possible for record in records(out))


def test_an_attribute_with_an_underscore_is_read_whole(
    own_project: Path, photos: Path, run: Run
) -> None:
    pairs = [("High_Gloss", "Boots"), ("High_Gloss.Calf", "Boots"), ("High", "Gloss_Boots.Tall")]
    segments = [
        SEGMENTS[0],
        [f"{attribute}_{name}" for attribute, name in pairs[:1]],
        *SEGMENTS[2:],
    ]
    write_grammar(segments, own_project / "models" / "blip2_lora")
    columns = list(zip(*pairs, strict=True))
    table = pa.table([*columns, ["train"] * 3, [True] * 3, [1] * 3], schema=PAIRS)
    write_table(table, own_project / "data" / "pairs.parquet", PAIRS)
    set_params(own_project / "params.yaml", infer={"max_new_tokens": 60, "grammar": True})
    status, out, err = run("caption", "--caption-only", photos / "a.png", "--json", "--scores")
    assert (status, err) == (0, "")
    (record,) = records(out)
    assert record["caption"].startswith("A photo of High_Gloss_Boots with ")
    assert (record["slots"]["attribute"], record["slots"]["object"]) == ("High_Gloss", "Boots")


def _choices(segments: list[list[str]]) -> list[list[str]]:
    if not segments:
        return [[]]
    return [[text, *rest] for text in segments[0] for rest in _choices(segments[1:])]


def clip_vectors(root: Path, name: str, path: Path, texts: list[str]) -> tuple[torch.Tensor, float]:
    """Cosines of one photo and texts, by open_clip alone, and the model's temperature."""
    source = f"local-dir:{root / 'models' / name}"
    model, _, preprocess = open_clip.create_model_and_transforms(source)
    model.eval()
    with torch.inference_mode():
        image = model.encode_image(preprocess(Image.open(path).convert("RGB"))[None])
        words = model.encode_text(open_clip.get_tokenizer(source)(texts))
    cosines = torch.nn.functional.cosine_similarity(image, words)
    return cosines, model.logit_scale.exp().item()


def test_scores_and_enhanced_prompt_are_clips(own_project: Path, photos: Path, run: Run) -> None:
    path = photos / "b/d/e.jpg"
    texts = [word for words in WORDS.values() for word in words]
    cosines, _ = clip_vectors(own_project, "clip", path, texts)
    # Of the two groups one word is above the threshold, one below.
    threshold = float((cosines[:2].max() + cosines[2]) / 2)
    set_params(own_project / "params.yaml", enhance={"threshold": threshold})
    status, out, _ = run("caption", path, "--json", "--scores", "--enhanced")
    assert status == 0
    (record,) = records(out)
    found = [score for words in record["scores"].values() for score in words.values()]
    assert {group: list(words) for group, words in record["scores"].items()} == WORDS
    assert found == pytest.approx(cosines.tolist(), abs=1e-4)
    assert record["slots"] is None  # a model of random weights does not follow the template

    prompts = [f"a photo of {a.lower()} {o.lower()}" for a, o in PAIR_ROWS]
    pairs, temperature = clip_vectors(own_project, "troika_clip", path, prompts)
    chosen = int(pairs.argmax())
    attribute, name = PAIR_ROWS[chosen]
    color = WORDS["color"][int(cosines[:2].argmax())] if cosines[:2].max() > threshold else None
    material = "rubber" if cosines[2] > threshold else None
    assert (color is None) != (material is None)
    enhanced = record["enhanced"]
    assert enhanced["prompt"] == (
        f"A photo of {attribute}_{name} with {color or 'an unspecified'} color "
        f"and {material or 'an unspecified'} material"
    )
    assert (enhanced["attribute"], enhanced["object"]) == (attribute, name)
    assert enhanced["probability"] == pytest.approx(
        float((temperature * pairs).softmax(0)[chosen]), abs=1e-3
    )
    assert enhanced["words"] == {"color": color, "material": material}


def test_words_are_scored_by_what_the_stage_made(own_project: Path, photos: Path, run: Run) -> None:
    """By pixels here, of which a photo's colours are looked at beside CLIP."""
    folder = own_project / "models" / "word_scorer"
    palettes = {"color": {"white": np.uint8([255] * 3), "red": np.uint8([230, 0, 0])}}
    color = load_word_scorer(folder).groups["color"]
    weights = np.eye(2, BINS + 2, BINS, dtype=np.float32)
    pixels = dataclasses.replace(color, method="pixels", color_weights=weights)
    scorer = load_word_scorer(folder).with_groups({"color": pixels})
    dataclasses.replace(scorer, palettes=palettes).save(folder)
    status, out, err = run("caption", "--caption-only", photos, "--json", "--scores", "--enhanced")
    assert (status, err) == (0, "")
    seen = set()
    for record in records(out):
        image = Image.open(record["path"]).convert("RGB")
        votes = foreground_colors(image, palettes).votes["color"]
        shares = votes / votes.sum()
        scores = record["scores"]["color"]
        assert np.exp(list(scores.values())) == pytest.approx(shares, abs=2e-3)
        word = WORDS["color"][int(shares.argmax())]
        assert record["enhanced"]["words"]["color"] == word
        seen.add(tuple(shares))
    assert len(seen) > 1


def test_a_scorer_of_other_words_is_refused(own_project: Path, photos: Path, run: Run) -> None:
    groups = [{"name": "color", "words": ["white"]}, {"name": "material", "words": ["rubber"]}]
    set_params(own_project / "params.yaml", clip_embed={"attributes": groups})
    status, _, err = run("caption", photos, "--enhanced")
    assert status == 2
    assert "word_scorer was made for other words than clip_embed.attributes" in err


def test_what_is_asked_for_stands_below_the_caption(project: Path, photos: Path, run: Run) -> None:
    _, out, _ = run("caption", photos / "a.png", "--untrained", "--scores", "--enhanced")
    first, *others = out.splitlines()
    assert not first.startswith(" ")
    assert [line[4:16].strip() for line in others] == [
        "untrained", "enhanced", "pair", "says", "color", "material",
    ]  # fmt: skip


def test_bad_photos_are_named_and_the_others_go_through(
    project: Path, photos: Path, run: Run
) -> None:
    whole = encoded(9)
    (photos / "a0 truncated.png").write_bytes(whole[: len(whole) // 2])
    (photos / "b/empty.jpg").write_bytes(b"")
    (photos / "h.gif").write_bytes(b"no image at all")
    missing = photos / "missing.png"
    hollow = photos.parent / "hollow"
    hollow.mkdir()
    status, out, err = run(
        "caption", "--caption-only", photos, missing, hollow, "--json", "--batch-size", "3"
    )
    assert status == 1
    found = {Path(record["path"]).name: record.get("error", "fine") for record in records(out)}
    assert found == {
        "a.png": "fine",
        "a0 truncated.png": "truncated",
        "c.PNG": "fine",
        "e.jpg": "fine",
        "empty.jpg": "empty_file",
        "f.png": "fine",
        "g.webp": "fine",
        "h.gif": "unreadable",
        "missing.png": "inaccessible",
        "hollow": "unusable_folder",
    }
    assert len(err.splitlines()) == 5
    assert f"{missing}: inaccessible (No such file or directory)" in err
    assert "hollow holds no image" in err
    good = [record["caption"] for record in records(out) if "caption" in record]
    assert good == plain_captions(project, photo_paths(photos))


def test_without_json_bad_photos_are_on_standard_error_only(
    project: Path, photos: Path, run: Run
) -> None:
    bad = photos / "bad.png"
    bad.write_bytes(b"bad")
    status, out, err = run("caption", "--caption-only", bad, photos / "a.png")
    assert status == 1
    assert len(out.splitlines()) == 1
    assert err == f"compositional-prompts: {bad}: unreadable\n"


def test_nothing_captioned_is_a_failure(project: Path, tmp_path: Path, run: Run) -> None:
    status, out, err = run("caption", "--caption-only", tmp_path / "nowhere.png")
    assert (status, out) == (2, "")
    assert "nowhere.png: inaccessible" in err


def test_a_photo_too_large_is_set_aside(own_project: Path, photos: Path, run: Run) -> None:
    set_params(own_project / "params.yaml", download={"max_pixels": 3 * 24 * 18})
    Image.new("RGB", (24, 55)).save(photos / "a.png")
    status, out, _ = run("caption", "--caption-only", photos, "--json")
    assert status == 1
    assert [record.get("error") for record in records(out)] == ["too_many_pixels"] + [None] * 4


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes")
def test_a_name_that_is_not_utf8_or_would_break_a_line(
    project: Path, photos: Path, run: Run
) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), "two\nlines\t.png"]
    paths = []
    for name in names:
        path = photos.parent / name
        shutil.copy(photos / "a.png", path)
        paths.append(path)
    status, out, _ = run("caption", "--caption-only", *paths)
    assert status == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        f"{photos.parent}/caf\\udce9.png",
        f"{photos.parent}/two\\x0alines\\x09.png",
    ]
    status, out, _ = run("caption", "--caption-only", *paths, "--json")
    assert [record["path"] for record in records(out)] == [str(path) for path in paths]


@pytest.mark.parametrize(
    ("missing", "options", "named"),
    [
        ("models/blip2_lora/adapter_config.json", [], "`dvc repro finetune` or `dvc pull models/b"),
        ("models/blip2/config.json", [], "`dvc repro weights` or `dvc pull models/blip2`"),
        ("models/troika/config.json", ["--enhanced"], "`dvc repro troika_train`"),
        ("data/pairs.parquet", ["--enhanced"], "`dvc repro split`"),
        ("data/pairs.parquet", ["--scores"], "`dvc repro split`"),
        ("models/clip/open_clip_config.json", ["--scores"], "`dvc repro weights`"),
        ("models/blip2_lora/grammar.json", ["--grammar"], "`dvc repro finetune`"),
        ("params.yaml", [], "root of the project"),
    ],
)
def test_what_is_missing_is_named_with_what_brings_it(
    missing: str, options: list[str], named: str, own_project: Path, photos: Path, run: Run
) -> None:
    (own_project / missing).unlink()
    status, out, err = run("caption", photos, *options)
    assert (status, out) == (2, "")
    assert missing in err
    assert named in err


MOVED = {
    "models/blip2_lora": "models/tuned",
    "models/blip2": "models/base",
    "models/clip": "weights/words",
    "models/troika_clip": "weights/pairs",
    "models/troika": "weights/troika",
    "data/pairs.parquet": "tables/pairs.parquet",
}


def test_a_path_moved_in_dvc_yaml_is_moved(own_project: Path, photos: Path, run: Run) -> None:
    _, wanted, _ = run("caption", photos, "--enhanced", "--scores", "--json")
    pipeline = (own_project / "dvc.yaml").read_text()
    for old, new in MOVED.items():
        (own_project / new).parent.mkdir(exist_ok=True)
        shutil.move(own_project / old, own_project / new)
        pipeline = re.sub(rf"{old}(?![\w.])", new, pipeline)
    (own_project / "dvc.yaml").write_text(pipeline)
    status, out, _ = run("caption", photos, "--enhanced", "--scores", "--json")
    assert (status, out) == (0, wanted)
    _, shown, _ = run("caption", "--help")
    assert "default: models/tuned" in shown and "default: models/base" in shown
    (own_project / "weights/troika/config.json").unlink()
    status, _, error = run("caption", photos, "--enhanced")
    assert status == 2
    assert "Run `dvc repro troika_train` or `dvc pull weights/troika`." in error


def test_a_damaged_table_is_named_with_what_makes_it_again(
    own_project: Path, photos: Path, run: Run
) -> None:
    pairs = own_project / "data/pairs.parquet"
    pairs.write_bytes(pairs.read_bytes()[:300])
    status, _, error = run("caption", photos, "--enhanced")
    assert status == 2
    assert "data/pairs.parquet is damaged (" in error
    assert error.endswith("Run `dvc repro -f -s split`.\n")


def test_without_dvc_yaml_only_named_models_are_taken(
    own_project: Path, photos: Path, run: Run
) -> None:
    _, wanted, _ = run("caption", "--caption-only", photos)
    (own_project / "dvc.yaml").unlink()
    named = ("--blip2", "models/blip2", "--adapter", "models/blip2_lora")
    assert run("caption", "--caption-only", photos, *named)[:2] == (0, wanted)
    for options in ((), (*named, "--scores")):
        status, _, error = run("caption", "--caption-only", photos, *options)
        assert status == 2
        assert error == (
            "compositional-prompts: dvc.yaml is missing: run from the root of the project.\n"
        )


def test_models_elsewhere_are_taken(own_project: Path, photos: Path, run: Run) -> None:
    _, wanted, _ = run("caption", "--caption-only", photos)
    shutil.move(own_project / "models" / "blip2", own_project / "base")
    shutil.move(own_project / "models" / "blip2_lora", own_project / "tuned")
    status, out, _ = run(
        "caption", "--caption-only", photos, "--blip2", own_project / "base",
        "--adapter", own_project / "tuned", "--device", "cpu", "--precision", "float32",
    )  # fmt: skip
    assert (status, out) == (0, wanted)
    assert BEAMS > 1


def advised(err: str) -> list[str]:
    return [line.removeprefix("compositional-prompts: ") for line in err.splitlines()]


@pytest.fixture
def judged(own_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose metrics are of its adapter, and say that captions are recommended."""
    monkeypatch.setattr("compositional_prompts.deployment.advice.metrics_tell_of", lambda *_: True)
    set_params(own_project / "params.yaml", infer={"max_new_tokens": 60, "grammar": True})
    return own_project


def test_captions_that_are_recommended_are_printed(judged: Path, photos: Path, run: Run) -> None:
    write_recommendation(judged, "caption", "Few photos.", "No labels.")
    # Nothing that names pairs or scores words is needed for them.
    shutil.rmtree(judged / "models" / "clip")
    shutil.rmtree(judged / "models" / "troika")
    status, out, err = run("caption", photos, "--json")
    assert status == 0
    assert advised(err) == [
        "the caption is recommended: So it was seen.",
        "warning: Few photos.",
        "warning: No labels.",
    ]
    found = records(out)
    assert len(found) == 5
    for record in found:
        assert record["recommended"] == record["caption"]
        assert record["source"] == "caption"
        assert "enhanced" not in record
        attribute, name, color = re.findall(r"of (\w+)_(\w+) with (\w+) color", record["caption"])[
            0
        ]
        assert record["readable"] == (
            f"{attribute} {name} with {color} color and rubber material".lower()
        )
    _, out, _ = run("caption", photos / "a.png")
    assert out == f"{found[0]['recommended']}\n"
    _, out, _ = run("caption", photos / "a.png", "--readable")
    assert out == f"{found[0]['readable']}\n"


def test_enhanced_prompts_that_are_recommended_are_printed(
    judged: Path, photos: Path, run: Run
) -> None:
    write_recommendation(judged, "enhanced")
    readable = {"template": "{color} {object}", "names": [{"label": "Boots", "text": "BOOT"}]}
    set_params(judged / "params.yaml", recommend={"min_labelled": 1, "readable": readable})
    status, out, err = run("caption", photos, "--json")
    assert status == 0
    assert advised(err) == ["the enhanced prompt is recommended: So it was seen."]
    for record in records(out):
        enhanced = record["enhanced"]
        assert record["recommended"] == enhanced["prompt"] != record["caption"]
        assert record["source"] == "enhanced"
        name = "BOOT" if enhanced["object"] == "Boots" else enhanced["object"].lower()
        assert record["readable"] == f"{enhanced['words']['color'] or ''} {name}".strip()
    wanted = [record["recommended"] for record in records(out)]
    _, out, _ = run("caption", photos)
    assert [line.split("\t")[1] for line in out.splitlines()] == wanted
    _, out, err = run("caption", photos / "a.png", "--caption-only")
    assert (err, out in {f"{text}\n" for text in wanted}) == ("", False)


def test_a_caption_off_the_template_is_not_recommended(
    judged: Path, photos: Path, run: Run
) -> None:
    status, out, _ = run("caption", photos / "a.png", "--json", "--no-grammar")
    assert status == 0
    (record,) = records(out)
    assert (record["source"], record["recommended"]) == ("enhanced", record["enhanced"]["prompt"])
    _, out, _ = run("caption", photos / "a.png", "--caption-only", "--readable", "--json",
                    "--no-grammar")  # fmt: skip
    (record,) = records(out)
    assert record["readable"] == record["caption"]


def test_of_an_unknown_adapter_the_enhanced_prompt_is_recommended(
    own_project: Path, photos: Path, run: Run
) -> None:
    status, out, err = run("caption", photos / "a.png", "--json")
    assert status == 0
    assert records(out)[0]["source"] == "enhanced"
    (said,) = advised(err)
    assert said.startswith("the enhanced prompt is recommended: dvc.lock does not say that")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"recommended": "both", "reason": "", "warnings": []}']
)
def test_a_damaged_recommendation_is_named(judged: Path, photos: Path, run: Run, text: str) -> None:
    (judged / "metrics" / "recommend.json").write_text(text)
    status, _, err = run("caption", photos)
    assert status == 2
    assert "metrics/recommend.json" in err and "dvc repro -f -s recommend" in err
