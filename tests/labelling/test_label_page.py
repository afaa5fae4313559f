"""The page that asks for labels, in headless Chromium, and its CSV on the way back."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import check_page, open_browser
from labelling_project import WORDS, Shoe, write_catalog, write_truth
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.datasets.columns import Columns
from compositional_prompts.datasets.folders.image_labels import FileLabels, LabelFile
from compositional_prompts.datasets.folders.named_images import NamedImages
from compositional_prompts.files.sorted_names import SortedNames
from compositional_prompts.files.tables import read_table
from compositional_prompts.labelling.merged_truth import merge_truth
from compositional_prompts.reporting.asking.asking_page import Question, write_asking_page

HOSTILE = "=1+</script><img src=x onerror=alert(1)>.jpg"
IDS = [HOSTILE, 'a "b", c.jpg', "2.jpg", "3.jpg", "4.jpg"]
COLORS = [*WORDS["color"], *(f"color {n}" for n in range(9)), "<i>last</i>"]
VOCABULARY = WORDS | {"color": COLORS}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("asked")
    shoes = [Shoe(image_id, product_id=f"p{n}") for n, image_id in enumerate(IDS)]
    write_catalog(root / "catalog", shoes)
    write_truth(root / "own.parquet", shoes)
    questions = [
        *(Question(image_id, f"p{n}", "color", "white", 0.5) for n, image_id in enumerate(IDS)),
        Question(IDS[2], "p2", "material", None, None),
    ]
    page = root / "label.html"
    file = write_asking_page(
        questions,
        VOCABULARY,
        root / "catalog",
        page,
        order="First things first.",
        folder=Path("labels"),
        workers=1,
    )
    return page, file


@pytest.fixture
def chrome(written: tuple[Path, str], tmp_path: Path) -> Iterator[Chrome]:
    with open_browser() as browser:
        behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": still})
        browser.get(written[0].as_uri())
        yield browser


def press(chrome: Chrome, *keys: str) -> None:
    for key in keys:
        ActionChains(chrome).send_keys(key).perform()


def said(chrome: Chrome, name: str) -> str:
    return chrome.find_element(By.ID, name).text


def pressed(chrome: Chrome) -> list[str]:
    buttons = chrome.find_elements(By.CSS_SELECTOR, "[aria-pressed='true']")
    return [button.get_attribute("data-word") or "" for button in buttons]


def test_labels_are_picked_kept_and_come_back_as_truth(
    chrome: Chrome, written: tuple[Path, str], tmp_path: Path
) -> None:
    page, file = written
    assert HOSTILE in said(chrome, "photo")
    assert said(chrome, "progress").startswith("Question 1 of 6; 0 answered")
    assert not chrome.find_element(By.ID, "download").is_enabled()
    press(chrome, "1")  # black
    assert said(chrome, "progress").startswith("Question 2 of 6; 1 answered")
    press(chrome, Keys.ENTER)  # as suggested
    press(chrome, "0", Keys.ARROW_LEFT)  # none of these, and back to it
    assert pressed(chrome) == ["none of these"]
    press(chrome, Keys.ARROW_RIGHT, "-")
    assert said(chrome, "progress").startswith("Question 5 of 6; 4 answered")
    press(chrome, "r", Keys.BACKSPACE)  # the thirteenth word, taken back
    assert said(chrome, "progress").startswith("Question 5 of 6; 4 answered")
    assert pressed(chrome) == []
    ActionChains(chrome).key_down(Keys.SHIFT).send_keys("1").send_keys("3").key_up(
        Keys.SHIFT
    ).perform()
    assert pressed(chrome) == ["black", "navy blue"]
    press(chrome, Keys.ARROW_RIGHT)
    assert said(chrome, "question") == "Which material?"
    chrome.get(page.as_uri())  # closed and opened again
    assert said(chrome, "progress").startswith("Question 6 of 6; 5 answered")
    chrome.find_element(By.XPATH, "//button[@data-word='fabric']").click()
    assert "all of them" in said(chrome, "progress")
    chrome.find_element(By.ID, "download").click()
    path = tmp_path / file
    for _ in range(200):
        if path.is_file():
            break
        chrome.execute_async_script("setTimeout(arguments[0], 20)")
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    assert rows == [
        ["image_id", "product_id", "color", "material"],
        [f"'{HOSTILE}", "p0", "black", ""],
        [IDS[1], "p1", "white", ""],
        ["2.jpg", "p2", "none of these", "fabric"],
        ["3.jpg", "p3", "cannot tell", ""],
        ["4.jpg", "p4", "black;navy blue", ""],
    ]
    truth = tmp_path / "truth.parquet"
    root = page.parent
    (tmp_path / "labels").mkdir()
    path.rename(tmp_path / "labels" / file)
    metrics, _ = merge_truth(
        root / "own.parquet", tmp_path / "labels", root / "catalog", truth, VOCABULARY
    )
    assert metrics["unknown_images"] == 0
    assert [tuple(row.values()) for row in read_table(truth, TRUTH).to_pylist()] == [
        (HOSTILE, "color", "black"),
        (IDS[1], "color", "white"),
        ("2.jpg", "color", "none of these"),
        ("2.jpg", "material", "fabric"),
        ("4.jpg", "color", "black"),
        ("4.jpg", "color", "navy blue"),
    ]
    paths = SortedNames(sorted(IDS))
    found = FileLabels(
        [LabelFile(tmp_path / "labels" / file)],
        NamedImages(paths, Path("photos")),
        Columns(**dict.fromkeys(Columns.model_fields, None) | {"truth": []}),
        ["color", "material"],
        [],
    )
    of_hostile = found.of(sorted(IDS).index(HOSTILE), HOSTILE)
    found.close()
    assert of_hostile is not None and of_hostile.truth["color"] == "black"


def test_the_page_reads_well(written: tuple[Path, str]) -> None:
    check_page(written[0])
