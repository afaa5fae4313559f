"""``dvc plots`` writes a page that needs no network, and draws on it whatever there is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import open_browser
from dvc_project import Project

from compositional_prompts.captioner.training.caption_curve import CaptionEpoch
from compositional_prompts.compute.training.learning_curve import write_curve
from compositional_prompts.troika.training.troika_curve import TroikaEpoch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plots of our ``dvc.yaml``; no epoch of Troika, and no material was known."""
    folder = tmp_path_factory.mktemp("plots")
    project = Project(folder / "project", folder / "home")
    root = project.root
    root.mkdir()
    pipeline: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    plots = {
        name: {"cmd": "true", "plots": definition["plots"]}
        for name, definition in pipeline["stages"].items()
        if "plots" in definition
    }
    document = {"stages": plots, "plots": pipeline["plots"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    epochs = [CaptionEpoch(e, 2 / e, 2.2 / e, 0.5, 0.5, None, 0.001, 0.5) for e in (1, 2, 3)]
    write_curve(CaptionEpoch, epochs, root / "metrics/curves/finetune")
    write_curve(TroikaEpoch, [], root / "metrics/curves/troika_train")
    confusion = root / "metrics/plots/confusion"
    confusion.mkdir(parents=True)
    (confusion / "color.csv").write_text("truth,predicted\nred,red\nblue,red\n")
    (confusion / "material.csv").write_text("truth,predicted\n")
    for folder, points in {
        "reliability": "probability,accuracy,low,high,images\n0.5,0.4,0.3,0.6,9\n",
        "risk_coverage": "coverage,risk,threshold\n0.5,0.1,0.7\n1,0.25,0.1\n",
    }.items():
        (root / "metrics/plots" / folder).mkdir()
        for group in ("color", "material"):
            text = points if group == "color" else points.splitlines()[0] + "\n"
            (root / f"metrics/plots/{folder}/{group}.csv").write_text(text)
    scores = "captioner,metric,value\nbase,bleu,0.1\nfinetuned,bleu,0.8\n"
    (root / "metrics/plots/scores.csv").write_text(scores)
    project.dvc("init", "--no-scm", "--quiet")
    for name in ("config", "plots.html"):
        shutil.copy(ROOT / ".dvc" / name, root / ".dvc" / name)
    project.dvc("plots", "show")
    return root / "dvc_plots/index.html"


def test_nothing_is_loaded_from_a_host(page: Path) -> None:
    text = page.read_text()
    assert (
        re.findall(r"""<(?:script|link)[^>]+(?:src|href)=|(?:src|href)=["']https?:""", text) == []
    )
    assert "{plot_divs}" not in text and "{scripts}" not in text


def test_every_plot_is_drawn_without_a_network(page: Path) -> None:
    with open_browser() as browser:
        browser.set_network_conditions(offline=True, latency=0, throughput=0)
        browser.get(page.as_uri())
        browser.execute_async_script("setTimeout(arguments[0], 1500)")
        drawn = "return document.querySelectorAll('canvas.marks, svg.marks').length"
        assert browser.execute_script(drawn) >= 8
        loaded = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        assert browser.execute_script(loaded) == []
        severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == []


def test_the_confusion_says_what_it_shows(page: Path) -> None:
    text = page.read_text()
    for words in ("Words chosen, against the truth", "true word", "chosen word"):
        assert f'"{words}"' in text
    assert '"metrics/plots/confusion/color.csv"' not in re.findall(r'"text": ("[^"]*")', text)
