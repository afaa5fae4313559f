"""metrics/summary.json: what it takes from the detail, and what it leaves out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from stage_script import run_stage

from compositional_prompts.files.outputs import MissingOutputError
from compositional_prompts.results.stage_metrics import ReportInputError
from compositional_prompts.results.summary_metrics import summarize

EXAMPLE = Path(__file__).parents[1] / "example_metrics"


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLE, tmp_path / "metrics")
    return tmp_path / "metrics"


def change(metrics: Path, name: str, document: dict[str, Any]) -> None:
    (metrics / f"{name}.json").write_text(json.dumps(document))


def test_every_figure_stands_beside_its_baseline(metrics: Path) -> None:
    summary = summarize(metrics)
    names = [f"{group}.{name}" for group, figures in summary.items() for name in figures]
    for name, baseline in zip(names[::2], names[1::2], strict=True):
        assert baseline.startswith(f"{name}_")
    assert 12 <= len(names) / 2 <= 16
    assert max(map(len, names[::2])) <= 17  # of a column of `dvc exp show`
    assert (summary["pairs"]["auc"], summary["pairs"]["auc_zero_shot"]) == (0.5539, 0.519)
    assert (summary["words"]["color"], summary["words"]["color_majority"]) == (0.9658, 0.1417)
    assert (summary["captions"]["bleu"], summary["captions"]["bleu_untrained"]) == (0.8254, 0.0)
    assert (summary["says"]["object"], summary["says"]["object_untrained"]) == (0.8683, 0.5144)
    assert summary["texts"] == {"right": 0.7707, "right_enhanced": 0.814}


def test_another_captioner_is_a_baseline_more(metrics: Path) -> None:
    scores = json.loads((metrics / "scores.json").read_text())
    change(metrics, "scores", scores | {"finetuned_free": scores["finetuned"], "mine": {}})
    assert list(summarize(metrics)["captions"])[:3] == ["exact", "exact_untrained", "exact_free"]


def test_the_open_world_counts_where_it_alone_was_asked(metrics: Path) -> None:
    troika = json.loads((metrics / "troika.json").read_text())
    del troika["closed"], troika["zero_shot_closed"]
    change(metrics, "troika", troika)
    pairs = summarize(metrics)["pairs"]
    assert (pairs["auc"], pairs["auc_zero_shot"]) == (0.0661, 0.1398)


def test_what_was_not_measured_is_left_out(metrics: Path) -> None:
    """No labels, no truth, nothing trained, and no caption."""
    change(metrics, "troika", {"trained": False})
    change(metrics, "enhance", {"color": {"accuracy": None, "majority_accuracy": None}})
    change(metrics, "finetune", {"epochs": 0, "val_loss": None})
    change(metrics, "recommend", {"validation": {"caption": {"right_words": None}}})
    change(metrics, "scores", {"base": {"images": 0, "bleu": None, "attributes": {}}})
    assert summarize(metrics) == {}


def test_a_word_without_truth_is_left_out_alone(metrics: Path) -> None:
    scores = json.loads((metrics / "scores.json").read_text())
    for captioner in scores.values():
        captioner["attributes"]["material"]["mention_accuracy_vs_truth"] = None
    change(metrics, "scores", scores)
    says = {name.partition("_")[0] for name in summarize(metrics)["says"]}
    assert says == {"attribute", "object", "color"}


def test_a_missing_and_a_malformed_file_are_named(metrics: Path) -> None:
    change(metrics, "enhance", {"color": {"accuracy": "high"}})
    with pytest.raises(ReportInputError, match=r"color\.accuracy must be a number, found 'high'"):
        summarize(metrics)
    (metrics / "enhance.json").unlink()
    with pytest.raises(MissingOutputError, match=r"enhance\.json is missing"):
        summarize(metrics)


def test_the_stage_writes_the_same_bytes_again(
    metrics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(metrics.parent)
    written = metrics / "summary.json"
    paths = {"metrics": metrics, "summary": written}
    run_stage(monkeypatch, "summary", paths)
    first = written.read_bytes()
    assert json.loads(first) == summarize(metrics)
    run_stage(monkeypatch, "summary", paths)
    assert written.read_bytes() == first
