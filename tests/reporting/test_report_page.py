"""The whole page, from the files of a small project."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from compositional_prompts.files.outputs import MismatchedOutputsError, MissingOutputError
from compositional_prompts.files.tables import SchemaError, read_table, write_table
from compositional_prompts.reporting.content.published import TEXT_METRICS
from compositional_prompts.results.stage_metrics import ReportInputError
from compositional_prompts.scoring.score_table import SCORES

ROOT = Path(__file__).parents[2]
VOID = {"meta", "link", "img", "wbr", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes, and a check that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def page_of(project: Any) -> Page:
    return Page(project.paths.page.read_text(encoding="utf-8"))


def test_the_page_is_whole_and_its_own(built_project: Any) -> None:
    page = page_of(built_project)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
            target = attributes.get(name)
            if target is not None:
                assert target.startswith(("data:", "#")), f"<{tag} {name}={target!r}>"
                assert not target.startswith("#") or target[1:] in ids
    style = (ROOT / "src/compositional_prompts/reporting/page.css").read_text(encoding="utf-8")
    assert "url(" not in style and "@import" not in style
    data, script = page.all("script")[:2], page.all("script")[2:]
    assert [one.get("type") for one in data] == ["application/json"] * 2 and script == [{}]
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "'unsafe-eval'" not in policy and "script-src 'sha256-" in policy
    assert built_project.paths.page.stat().st_size < 5_000_000


def test_text_from_data_is_text(built_project: Any) -> None:
    text = built_project.paths.page.read_text(encoding="utf-8")
    assert text.count("<script") == 3 and "<b>" not in text
    page = page_of(built_project)
    assert '<script>alert("x")</script> & <b>bold</b>' in page.words


def test_the_page_can_be_read_without_seeing_it(built_project: Any) -> None:
    page = page_of(built_project)
    assert all(image.get("alt") for image in page.all("img"))
    tables = len(page.all("table"))
    assert tables > 8 and tables == len(page.all("caption"))
    assert len(page.all("h1")) == len(page.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(head.get("scope") for head in page.all("th"))
    regions = [attributes for _, attributes in page.elements if attributes.get("role") == "region"]
    assert all(region.get("aria-label") and region.get("tabindex") == "0" for region in regions)


def test_the_page_shows_what_the_files_say(project: Any) -> None:
    page = Page(project.build())
    scores = project.metrics("scores.json")
    for captioner in ("base", "finetuned"):
        for metric, values in scores[captioner].items():
            if isinstance(values, dict) and "mean" in values:
                assert f"{values['mean']:.3f}" in page.words, metric
    # Which words are right comes before what whole texts have in common.
    assert 0 < page.words.index("Accuracy of each part") < page.words.index("CIDEr-D (0 to 10)")
    assert "Prompts that CIDEr-D cannot tell apart" in page.words
    for published in TEXT_METRICS.values():
        assert str(published["mean"]) in page.words
    troika = project.metrics("troika.json")
    for world in ("closed", "zero_shot_closed", "open", "zero_shot_open"):
        for metrics in (troika[world], troika[world]["sampled"]):
            assert f"{100 * metrics['auc']:.1f} %" in page.words
    assert "Feasible unseen pairs" in page.words and "0.123" in page.words
    enhance = project.metrics("enhance.json")
    assert f"{100 * enhance['color']['pixel_accuracy']:.1f} %" in page.words
    assert "87.5 %" in page.words  # the precision wanted
    precision = enhance["color"]["held_out"]["precision"]
    assert f"{100 * precision:.1f} % (25 to 75)" in page.words
    assert "5,242,880" in page.words and "0.1398 %" in page.words
    assert project.paths.params.read_text().splitlines()[0] in " ".join(page.text)
    assert "Truncated" in page.words and "Rare pair" in page.words
    assert "BLEU of validation captions, over 2 epochs" in " ".join(
        attributes.get("aria-label") or "" for _, attributes in page.elements
    )
    assert {path.name for path in project.paths.figures.iterdir()} == {
        "bleu.svg",
        "coverage.svg",
        "dataset.jpg",
        "loss.svg",
        "reliability_color.svg",
        "risk_coverage_color.svg",
        "token_accuracy.svg",
        "troika.svg",
        "troika_loss.svg",
    }


def test_the_key_figures_are_the_open_worlds_where_it_alone_was_measured(project: Any) -> None:
    troika = project.metrics("troika.json")
    del troika["closed"], troika["zero_shot_closed"]
    (project.paths.metrics / "troika.json").write_text(json.dumps(troika))
    page = Page(project.build())
    assert "Troika AUC, open world" in page.words
    assert page.words.count(f"{100 * troika['open']['auc']:.1f} %") == 2 + 1
    assert "Closed world" not in page.words


def test_the_same_files_give_the_same_bytes_whatever_the_row_order(project: Any) -> None:
    first = project.build()
    figures = {path.name: path.read_bytes() for path in project.paths.figures.iterdir()}
    scores = read_table(project.paths.scores, SCORES)
    write_table(scores.take(list(reversed(range(scores.num_rows)))), project.paths.scores, SCORES)
    assert project.build() == first
    assert {path.name: path.read_bytes() for path in project.paths.figures.iterdir()} == figures
    assert project.build(seed=8) != first


def test_empty_galleries_say_so(project: Any) -> None:
    scores = read_table(project.paths.scores, SCORES)
    column = SCORES.get_field_index("clip_preference")
    ties = scores.set_column(
        column, SCORES.field(column), pa.array(["tie"] * scores.num_rows, pa.string())
    )
    write_table(ties, project.paths.scores, SCORES)
    words = Page(project.build()).words
    assert "There is none: CLIP never found the photo nearer to a generated caption" in words
    assert "There is none: CLIP never found the photo nearer to the enhanced prompt" in words


def test_nothing_known_and_nothing_trained_still_makes_a_page(project: Any) -> None:
    enhance = project.metrics("enhance.json")
    empty = {group: dict.fromkeys(values) for group, values in enhance.items()}
    project.change_metrics("enhance.json", empty)
    project.change_metrics(
        "troika.json",
        {"closed": None, "zero_shot_closed": {"auc": None}, "open": None, "zero_shot_open": {}},
    )
    project.change_metrics("troika_train.json", {})
    project.change_metrics("finetune.json", {})
    project.change_metrics("scores.json", {"base": {}, "finetuned": {"bleu": None}})
    project.change_metrics("download.json", {"images": 24, "rejected": {}})
    for path in (project.paths.metrics / "curves/troika_train/plots/metrics").iterdir():
        path.write_text(f"step\t{path.stem}\n")
    for path in (project.paths.metrics / "plots/confusion").iterdir():
        path.unlink()
    words = Page(project.build()).words
    assert "Troika was not trained in this run" in words
    assert "there is no confusion to show" in words
    assert "none was set aside" in words
    assert not (project.paths.figures / "troika.svg").exists()
    assert (project.paths.figures / "loss.svg").exists()


def test_many_classes_are_capped(project: Any) -> None:
    path = project.paths.metrics / "plots/confusion/color.csv"
    rows = "".join(f"class {i % 400},class {i % 399}\n" for i in range(3000))
    path.write_text("truth,predicted\n" + rows)
    page = Page(project.build())
    assert "the 380 least frequent words stand together" in page.words


def test_the_limits_follow_the_parameters(project: Any) -> None:
    words = Page(project.build()).words
    assert "The photos are drawn, not taken" in words and "Frozen features" in words
    params = yaml.safe_load(project.paths.params.read_text())
    params["download"]["dataset"] = "folder"
    params["download"]["folder"]["labels"] = "photos.csv"
    params["blip2_features"]["cache"] = False
    for model in ("clip", "blip2"):
        params["weights"][model] |= {"source": "path", "name": "models/mine"}
    project.paths.params.write_text(yaml.safe_dump(params))
    words = Page(project.build()).words
    assert "Your labels are the truth" in words
    assert "The photos are drawn" not in words and "Small models" not in words
    assert "Frozen features" not in words


@pytest.mark.parametrize(
    "name",
    [
        *("download.json", "split.json", "troika_train.json", "troika.json", "enhance.json"),
        *(
            "finetune.json",
            "scores.json",
        ),
        "curves/finetune/plots/metrics/val_bleu.tsv",
        "curves/troika_train/plots/metrics/val_hm.tsv",
        "plots/confusion/color.csv",
    ],
)
def test_a_missing_metric_is_named(project: Any, name: str) -> None:
    missing = project.paths.metrics / name
    missing.unlink()
    with pytest.raises(MissingOutputError) as raised:
        project.build()
    assert raised.value.paths == (missing,)
    assert not project.paths.page.exists()


@pytest.mark.parametrize("name", ["splits", "prompts", "scores"])
def test_a_missing_table_is_named(project: Any, name: str) -> None:
    missing = getattr(project.paths, name)
    missing.unlink()
    with pytest.raises(MissingOutputError) as raised:
        project.build()
    assert raised.value.paths == (missing,)


LOSS = "curves/troika_train/plots/metrics/train_loss.tsv"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.json", "{", "scores.json is not JSON"),
        ("scores.json", "[1]", "must hold a JSON object, found list"),
        ("scores.json", '{"base": {"bleu": {"mean": "x"}}}', "base.bleu.mean must be a number"),
        (LOSS, "step\tloss\n", "column 'train_loss' is missing; found step, loss"),
        (LOSS, "", "column 'step' is missing; found nothing"),
        (LOSS, "step\ttrain_loss\n1\t2\n2\tx\n", "line 3: expected two numbers, found '2' and 'x'"),
        (LOSS, "step\ttrain_loss\n\t1\n", "line 2: expected two numbers, found '' and '1'"),
        (LOSS, "step\ttrain_\xe4oss\n", "'utf-8' codec can't decode byte 0xe4"),
        (LOSS, "step\ttrain_loss\n1\t\xe4\n", "'utf-8' codec can't decode byte 0xe4"),
    ],
)
def test_a_malformed_metric_is_named(project: Any, name: str, content: str, message: str) -> None:
    (project.paths.metrics / name).write_text(content, encoding="latin-1")
    with pytest.raises(ReportInputError, match=re.escape(message)):
        project.build()


def test_a_wrong_column_is_named(project: Any) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(project.paths.scores).drop_columns(["clip_preference"])
    pq.write_table(table, project.paths.scores)
    with pytest.raises(SchemaError, match=r"scores\.parquet: column 'clip_preference' is missing"):
        project.build()


def test_an_image_that_is_not_in_the_catalog_is_an_error(project: Any) -> None:
    for shard in sorted(project.paths.catalog.glob("*.parquet"))[1:]:
        shard.unlink()
    with pytest.raises(MismatchedOutputsError, match="image-"):
        project.build()


def test_the_stage_runs_without_torch(project: Any) -> None:
    paths = project.paths
    arguments = [
        f"--{name.replace('_', '-')}={getattr(paths, name)}" for name in paths.__dataclass_fields__
    ]
    probe = (
        "import runpy, sys; runpy.run_path(sys.argv[0], run_name='__main__');"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    script = ROOT / "stages/report.py"
    code = f"import sys; sys.argv = {[str(script), *arguments]!r}; {probe}"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.metrics
    )
    assert finished.returncode == 0, finished.stderr
    record = json.loads((paths.metrics / "timing/report.json").read_text())
    assert record["stage"] == "report" and record["rows"] > 0
    assert paths.page.is_file()


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(scheme: str) -> None:
    """Contrast of at least 4.5 to 1, as WCAG 2.1 AA asks of text."""
    style = (ROOT / "src/compositional_prompts/reporting/page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    colors = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", blocks[0]))
    if scheme == "dark":
        colors |= dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", blocks[1]))
    pairs = [
        (text, ground) for text in ("ink", "muted", "accent") for ground in ("paper", "surface")
    ]
    for text, ground in [*pairs, ("mark-ink", "mark"), ("series-2", "paper")]:
        light, dark = sorted((luminance(colors[text]), luminance(colors[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text} on {ground}"


def test_models_that_stay_are_told_with_their_drift(project: Any) -> None:
    assert 'id="growth"' not in project.build()  # both were trained in this run

    measured = {"captions": {"bleu": 0.75, "bleu_untrained": 0.01}, "says": {"closure": 0.5}}
    origin = {
        **{"kept": "2026-01-05T08:00:00+00:00", "committed": "2026-01-04T07:00:00+00:00"},
        **{"commit": "0123456789abcdef", "images": 2400, "train_images": 1915},
        "training": {"train_loss": {"min": 0.987654}, "epochs": 12},
        "measured": measured,
    }
    kept = {"mode": "keep", "origin": origin, "train_images": 1915}
    project.change_metrics("finetune.json", kept)
    project.change_metrics(
        "troika_train.json", {"mode": "keep", "origin": origin | {"commit": None}}
    )
    for stage in ("finetune", "troika_train"):
        for path in (project.paths.metrics / "curves" / stage).rglob("*.tsv"):
            path.write_text(path.read_text().splitlines()[0] + "\n")
    parts = {
        "trained": {"photos": 96, "share": 0.05},
        "held_out": {"photos": 48, "share": 0.1},
        "new": {"photos": 12, "share": 0.4321},
    }
    photos = {"trained": 1915, "held_out": 485, "new": 28, "gone": 3}
    unknown = {"attribute": {"<b>Velvet</b>": 1234}, "color": {f"shade {n}": n for n in range(60)}}
    project.change_metrics(
        "drift.json",
        {
            "troika": {"kept": True, "photos": photos, "unsure": {}, "unknown": {}},
            "captioner": {
                **{"kept": True, "photos": photos, "unknown": unknown},
                "unsure": {"heel_height": parts},
            },
            "warnings": ["28 photos <are new>."],
        },
    )
    page = Page(project.build())
    assert "It learnt from 1,915 of the 2,400 photos that the catalogue had" in page.words
    assert "in commit 0123456789 of 2026-01-04, and is kept since 2026-01-05" in page.words
    assert "28 photos have come since, 3 of then are gone." in page.words
    assert "Heel height10.0 % (48)5.0 % (96)43.2 % (12)" in "".join(page.text).replace(
        "\n", ""
    ).replace("  ", "")
    assert "It knows every label and every word of the catalogue." in page.words
    assert "<b>Velvet</b>" in page.words and "1,234" in page.words
    assert "And 11 more: metrics/drift.json has them all." in page.words
    assert "28 photos <are new>." in page.words
    assert "75.0 %" in page.words
    # What was measured while it was trained is not shown as of this run.
    assert "No epoch of fine-tuning was recorded." in page.words
    assert "0.988" not in page.words and "Bleu untrained" not in page.words
