"""Two revisions side by side, from DVC's cache, and the page of it in headless Chromium."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from browser import check_page, open_browser
from dvc_project import Project as DvcProject
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from compositional_prompts.__main__ import main
from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.files.tables import read_table, write_table
from compositional_prompts.reporting.comparing.comparison_page import (
    ComparisonSettings,
    write_comparison,
)
from compositional_prompts.reporting.comparing.revision_files import RevisionError
from compositional_prompts.reporting.comparing.seed_spread import as_table, spread_over
from compositional_prompts.scoring.score_table import SCORES

DVC_YAML = """
stages:
  made:
    cmd: "true"
    params:
      - finetune.lora.r
    outs:
      - data/scores.parquet
      - data/splits.parquet
      - data/truth.parquet
      - data/prompts
      - data/captions/finetuned.parquet
      - data/catalog
    metrics:
      - metrics/summary.json: {cache: false}
  summary:
    cmd: python stages/summary.py --summary metrics/summary.json
  report:
    cmd: >-
      python stages/report.py --catalog data/catalog --truth data/truth.parquet
      --splits data/splits.parquet --prompts data/prompts/enhanced.parquet
      --captions data/captions --scores data/scores.parquet
      --original data/prompts/original.parquet
"""
ROOT = Path(__file__).parents[2]
SETTINGS = ComparisonSettings(photos=3000, seed=7, workers=2)
WORSE, BETTER, HOSTILE = "image-004", "image-007", "image-009"


@dataclass(frozen=True)
class Revisions:
    """A project with the tags ``empty``, ``one`` and ``two``; its workspace is as ``two``."""

    root: Path
    project: DvcProject


def recaption(path: Path, texts: dict[str, str]) -> None:
    rows = [
        row | {"caption": texts.get(row["image_id"], row["caption"])}
        for row in read_table(path, CAPTIONS).to_pylist()
    ]
    path.unlink()
    write_table(pa.Table.from_pylist(rows, CAPTIONS), path, CAPTIONS)


def rescore(path: Path, right: set[str]) -> None:
    """Captions of ``right`` score 1 in BLEU, those of others 0.25."""
    rows = [
        row | {"bleu": 1.0 if row["image_id"] in right else 0.25}
        for row in read_table(path, SCORES).to_pylist()
    ]
    path.unlink()
    write_table(pa.Table.from_pylist(rows, SCORES), path, SCORES)


def commit(project: DvcProject, tag: str, bleu: float, rank: int) -> None:
    params = project.root / "params.yaml"
    document = yaml.safe_load(params.read_text())
    document["finetune"]["lora"]["r"] = rank
    params.write_text(yaml.safe_dump(document))
    summary = {"captions": {"bleu": {"finetuned": bleu}}}
    (project.root / "metrics/summary.json").write_text(json.dumps(summary))
    project.dvc("commit", "--quiet", "--force", "made")
    project.commit(tag)
    project.git("tag", tag)


@pytest.fixture(scope="module")
def revisions(tmp_path_factory: pytest.TempPathFactory, write_report_project: Any) -> Revisions:
    root = tmp_path_factory.mktemp("revisions")
    project = DvcProject(root, tmp_path_factory.mktemp("home"))
    project.git("init", "--quiet", "--initial-branch", "main")
    (root / ".gitignore").write_text("/data\n")
    project.commit("empty")
    project.git("tag", "empty")
    project.dvc("init", "--quiet")
    rows: Sequence[dict[str, Any]] = write_report_project(root).rows
    (root / "dvc.yaml").write_text(DVC_YAML)
    captions = root / "data/captions/finetuned.parquet"
    by_id = {row["image_id"]: row for row in rows}

    def of(image_id: str, **changes: str) -> str:
        row = by_id[image_id] | changes
        return (
            f"A photo of {row['attribute']}_{row['object']} with {row['color']} color and "
            f"{row['material']} material"
        )

    wrong = {"object": "Gloves", "color": "black"}
    recaption(captions, {WORSE: of(WORSE), BETTER: of(BETTER, **wrong), HOSTILE: of(HOSTILE)})
    scores = root / "data/scores.parquet"
    rescore(scores, set())
    commit(project, "one", 0.5, 8)
    recaption(captions, {WORSE: of(WORSE, **wrong), BETTER: of(BETTER), HOSTILE: "=<b>HI</b>"})
    rescore(scores, set(by_id))
    commit(project, "two", 0.75, 16)
    return Revisions(root, project)


@pytest.fixture(scope="module")
def page(revisions: Revisions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compared") / "compare.html"
    said = write_comparison("one", "two", path, SETTINGS, revisions.root)
    first, then, *table = said.splitlines()
    assert first == "24 photos were captioned by both: 2 worse, 1 better, 0 changed, 21 same."
    assert then.startswith("On the same ") and "test images" in then
    (bleu,) = [line.split() for line in table if line.startswith("captions, BLEU")]
    assert bleu[2:] == ["0.250", "1.000", "+0.750", "+0.750", "to", "+0.750", "better"]
    assert len(said.splitlines()) < 30, "one screen"
    return path


@pytest.fixture
def chrome(page: Path) -> Iterator[Chrome]:
    with open_browser() as browser:
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": still})
        browser.get(page.as_uri())
        yield browser


def shown(chrome: Chrome) -> list[str]:
    cards = chrome.find_elements(By.CSS_SELECTOR, "#found button[data-id]")
    return [card.get_attribute("data-id") or "" for card in cards]


def test_what_changed_is_found_by_clicks(chrome: Chrome, tmp_path: Path) -> None:
    kind = Select(chrome.find_element(By.NAME, "kind"))
    kind.select_by_value("differs")
    assert shown(chrome) == [WORSE, BETTER, HOSTILE]
    chrome.find_element(By.XPATH, "//button[.='Better']").click()
    assert shown(chrome) == [BETTER]
    card = chrome.find_element(By.CSS_SELECTOR, "#found button")
    marks = [mark.text for mark in card.find_elements(By.TAG_NAME, "mark")]
    assert any("Gloves" in mark for mark in marks) and "better" in card.text
    card.click()
    said = chrome.find_element(By.ID, "photo-body").text
    assert "object wrong" in said
    assert "object right" in said
    chrome.find_element(By.CSS_SELECTOR, "[data-close]").click()
    chrome.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    kind.select_by_value("")
    chrome.find_element(By.NAME, "q").send_keys("hi</b>")
    assert shown(chrome) == [HOSTILE]
    chrome.find_element(By.ID, "download").click()
    path = tmp_path / "comparison.csv"
    for _ in range(200):
        if path.is_file():
            break
        chrome.execute_async_script("setTimeout(arguments[0], 20)")
    (row,) = csv.DictReader(path.open(encoding="utf-8", newline=""))
    assert row["second"] == "'=<b>HI</b>" and row["caption"] == "worse"


def test_paired_differences_are_drawn(page: Path) -> None:
    text = page.read_text()
    assert "Is the second better?" in text and 'class="forest"' in text
    assert "+0.750 (+0.750 to +0.750)" in text


def test_the_figures_of_both_stand_on_top(page: Path) -> None:
    text = page.read_text()
    assert "+0.2500" in text and "captions · bleu · finetuned" in text
    assert "<b>HI" not in text


def test_the_page_of_a_comparison_reads_well(page: Path) -> None:
    check_page(page)


def test_the_workspace_is_compared_where_no_second_is_named(
    revisions: Revisions, tmp_path: Path
) -> None:
    said = write_comparison("two", None, tmp_path / "page.html", SETTINGS, revisions.root)
    assert said.splitlines()[0].endswith("0 worse, 0 better, 0 changed, 24 same.")
    few = ComparisonSettings(photos=2, seed=7, workers=1)
    said = write_comparison("one", None, tmp_path / "page.html", few, revisions.root)
    assert said.splitlines()[0].endswith("; 2 of them are on the page.")
    shown = json.loads(
        (tmp_path / "page.html").read_text().split('id="photo-data">')[1].split("</script>")[0]
    )
    assert {photo["kind"] for photo in shown["photos"]} <= {"worse", "better"}


@pytest.mark.parametrize("second", [[], ["two", "--page", "other.html"]])
def test_the_command_writes_the_page(
    revisions: Revisions,
    second: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(revisions.root)
    monkeypatch.setattr("sys.argv", ["compositional-prompts", "compare", "one", *second])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    page = Path(second[-1] if second else "compare.html")
    assert capsys.readouterr().out.startswith(f"{page}: 24 photos were captioned by both")
    assert page.is_file()
    page.unlink()


def refused(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["compositional-prompts", "compare", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return str(capsys.readouterr().err)


def test_a_damaged_table_of_the_workspace_is_named(
    revisions: Revisions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(revisions.root)
    captions = Path("data/captions/finetuned.parquet")
    whole = captions.read_bytes()
    captions.unlink()  # it may be a link into the cache
    try:
        captions.write_bytes(whole[:300])
        said = refused(monkeypatch, capsys, "workspace")
        assert f"{captions} is damaged (" in said and "Run `dvc repro -f -s made`." in said
    finally:
        captions.write_bytes(whole)


def test_a_folder_as_the_page_and_a_project_without_commits_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("new", "home"):
        (tmp_path / name).mkdir()
    project = DvcProject(tmp_path / "new", tmp_path / "home")
    project.git("init", "--quiet", "--initial-branch", "main")
    project.dvc("init", "--quiet")
    (project.root / "dvc.yaml").write_text(DVC_YAML)
    shutil.copy(ROOT / "params.yaml", project.root)
    monkeypatch.chdir(project.root)
    Path("pages").mkdir()
    assert "--page pages is a folder" in refused(monkeypatch, capsys, "main", "--page", "pages")
    assert "there is no revision 'main'" in refused(monkeypatch, capsys, "main", "main")


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("nobody", "there is no revision 'nobody'"),
        ("empty", "empty has no output data/captions/finetuned.parquet"),
    ],
)
def test_a_revision_that_cannot_be_compared_is_named(
    revisions: Revisions, tmp_path: Path, first: str, message: str
) -> None:
    with pytest.raises(RevisionError, match=message):
        write_comparison(first, "two", tmp_path / "page.html", SETTINGS, revisions.root)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "lost", ["data/captions/finetuned.parquet", "data/catalog", "data/scores.parquet"]
)
def test_what_the_cache_lacks_is_named_with_the_remedy(
    revisions: Revisions, tmp_path: Path, lost: str
) -> None:
    cache = revisions.root / ".dvc/cache/files"
    away = tmp_path / "away"
    digest = revisions.project.cached_outputs()[lost]
    path = cache / "md5" / digest[:2] / digest[2:]
    shutil.move(path, away)
    try:
        with pytest.raises(RevisionError, match=f"dvc fetch --all-commits {lost}`"):
            write_comparison("one", "two", tmp_path / "page.html", SETTINGS, revisions.root)
    finally:
        shutil.move(away, path)


def test_figures_of_runs_spread(
    revisions: Revisions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(revisions.root)
    monkeypatch.setattr("sys.argv", ["compositional-prompts", "spread", "one", "two"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert "the runs differ in more than seeds: finetune.lora.r" in said.err
    first, _, _, figure = said.out.splitlines()
    assert first == "2 runs; finetune.lora.r = 8, 16"
    # By hand: of 0.5 and 0.75 the mean is 0.625, the deviation 0.25 over the root of 2.
    assert figure.split() == [
        "captions.bleu.finetuned", "0.6250", "0.1768", "0.5000", "0.7500", "2",
    ]  # fmt: skip


def test_the_workspace_spreads_too_and_seeds_are_no_warning(
    revisions: Revisions, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(revisions.root, copy, symlinks=True)
    params = copy / "params.yaml"
    document = yaml.safe_load(params.read_text())
    document["troika_train"]["seed"] = 5
    params.write_text(yaml.safe_dump(document))
    (copy / "metrics/summary.json").write_text('{"captions": {"bleu": {"finetuned": 0.5}}, "a": 1}')
    found = spread_over(["two", "workspace"], copy)
    assert found.beside_seeds == [] and list(found.varied) == ["troika_train.seed"]
    deviations = {figure.name: figure.deviation for figure in found.figures}
    assert deviations == {"captions.bleu.finetuned": pytest.approx(0.25 / 2**0.5), "a": None}
    assert "-" in as_table(found).splitlines()[-1].split()


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        (["one"], "one run has no spread"),
        (["one", "one"], "one is named twice"),
        (["one", "empty"], "empty has no output metrics/summary.json"),
        (["one", "nowhere"], "there is no revision 'nowhere'"),
    ],
)
def test_what_has_no_spread_is_refused(
    named: list[str], problem: str, revisions: Revisions
) -> None:
    with pytest.raises(ValueError, match=problem):
        spread_over(named, revisions.root)
