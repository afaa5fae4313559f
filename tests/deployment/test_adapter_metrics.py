"""An adapter's card has results only where the metrics that lie there are its own."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_objects.fs.local import LocalFileSystem
from micro_blip2 import miniature
from trained_project import Run, write_adapter

from compositional_prompts.deployment import adapter_metrics
from compositional_prompts.deployment.advice import read_advice
from compositional_prompts.deployment.trained_paths import read_trained_paths

ADAPTER = "models/blip2_lora"
CAPTIONS = "data/captions/finetuned.parquet"


def metrics_tell_of(adapter: Path) -> bool:
    paths = read_trained_paths()
    return adapter_metrics.metrics_tell_of(adapter, paths, paths.card_files)


def by_dvc(path: Path) -> str:
    """What DVC itself calls a file or folder."""
    files = LocalFileSystem()
    _, _, found = build(
        HashFileDB(files, "unused"), str(path.resolve()), files, "md5", dry_run=True
    )
    return str(found.hash_info.value)


@pytest.fixture
def lock(own_project: Path) -> dict[str, Any]:
    """``dvc.lock`` after the whole pipeline, as far as it matters here; written to be read."""

    def entry(path: str) -> dict[str, str]:
        there = (own_project / path).exists()
        value = by_dvc(own_project / path) if there else hashlib.md5(path.encode()).hexdigest()
        return {"path": path, "hash": "md5", "md5": value}

    def stage(deps: list[str], outs: list[str]) -> dict[str, Any]:
        return {"cmd": "x", "deps": [*map(entry, deps)], "outs": [*map(entry, outs)]}

    stages = {
        "download": stage([], ["data/catalog", "metrics/download.json"]),
        "finetune": stage(["data/catalog"], [ADAPTER, "metrics/finetune.json"]),
        "infer@finetuned": stage([ADAPTER], [CAPTIONS]),
        "recommend": stage([CAPTIONS], ["data/recommended.parquet", "metrics/recommend.json"]),
        "score": stage([CAPTIONS], ["data/scores.parquet", "metrics/scores.json"]),
        "report": stage(["data/scores.parquet"], ["reports/index.html"]),
    }
    document = {"schema": "2.0", "stages": stages}
    write(document)
    return document


def write(document: dict[str, Any]) -> None:
    Path("dvc.lock").write_text(yaml.safe_dump(document))


def test_the_last_runs_adapter_and_copies_of_it(lock: dict[str, Any]) -> None:
    assert metrics_tell_of(Path(ADAPTER))
    shutil.copytree(ADAPTER, "copy")
    assert metrics_tell_of(Path("copy"))
    # A report that was not made again says nothing of the adapter.
    lock["stages"]["report"]["deps"][0]["md5"] = "0" * 32
    write(lock)
    assert metrics_tell_of(Path(ADAPTER))


@pytest.mark.parametrize(
    "change",
    [
        lambda lock: Path("dvc.lock").unlink(),
        lambda lock: Path("metrics/scores.json").write_text("{}"),
        lambda lock: (Path(ADAPTER) / "adapter_config.json").write_text("{}"),
        lambda lock: lock["stages"].pop("finetune"),
        lambda lock: lock["stages"]["infer@finetuned"]["deps"][0].update(md5="0.dir"),
        lambda lock: lock["stages"]["score"]["deps"][0].update(md5="0"),
    ],
    ids=["no lock", "other metrics", "other weights", "never trained", "not captioned", "unscored"],
)
def test_metrics_of_something_else(change: Callable[[Any], Any], lock: dict[str, Any]) -> None:
    change(lock)
    if Path("dvc.lock").exists():
        write(lock)
    assert not metrics_tell_of(Path(ADAPTER))


def test_what_is_recommended_is_known_where_nothing_was_scored_again(lock: dict[str, Any]) -> None:
    paths = read_trained_paths()
    lock["stages"]["score"]["deps"][0]["md5"] = "0"
    write(lock)
    assert read_advice(Path(ADAPTER), paths).reason == "So it was seen."
    lock["stages"]["recommend"]["deps"][0]["md5"] = "0"
    write(lock)
    assert read_advice(Path(ADAPTER), paths).reason.startswith("dvc.lock does not say that")


def test_why_nothing_is_known_is_said_with_what_helps(lock: dict[str, Any]) -> None:
    paths, adapter = read_trained_paths(), Path(ADAPTER)
    shutil.copytree(ADAPTER, "copy")
    paths.recommendation.write_text("{}")
    assert "is not what dvc.lock names" in read_advice(adapter, paths).reason
    assert "`dvc checkout recommend`" in read_advice(adapter, paths).reason
    paths.recommendation.unlink()
    assert "recommend.json is missing" in read_advice(adapter, paths).reason
    assert "`dvc pull recommend`" in read_advice(adapter, paths).reason
    # As after a first `dvc repro finetune`: there neither is one nor was.
    for name in ("infer@finetuned", "recommend", "score", "report"):
        del lock["stages"][name]
    write(lock)
    for which in (adapter, Path("copy")):
        advice = read_advice(which, paths)
        assert advice.recommended == "enhanced"
        assert "recommend.json is missing" in advice.reason
        assert "`dvc repro recommend`" in advice.reason
    paths.scores.unlink()
    assert not metrics_tell_of(Path("copy"))
    for content in ("stages:\n", "schema: '2.0'\n", ""):
        Path("dvc.lock").write_text(content or "{}")
        assert read_advice(adapter, paths).reason.startswith("dvc.lock does not say that")


def test_the_card_of_another_adapter_has_none_of_the_last_runs_results(
    lock: dict[str, Any], own_project: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    assert run("export", "own")[0] == 0
    own = Path("own/README.md").read_text()
    assert "| BLEU |" in own
    assert "model-index" in own
    write_adapter(miniature("opt").model, own_project / "other", ["q_proj", "v_proj"], seed=9)
    shutil.rmtree("metrics")
    assert run("export", "shared", "--adapter", "other")[0] == 0
    assert "other: its card has no results" in caplog.text
    other = Path("shared/README.md").read_text()
    for told in (
        "| BLEU |",
        "model-index",
        "**Data:**",
        "**Losses**",
        "labelled pairs",
        "license: mit",
    ):
        assert told not in other
    assert "None are given" in other
    assert "rank `4`, alpha `8`" in other
