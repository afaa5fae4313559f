"""Looking photos up on the page, in headless Chromium, as a reader does: by keys and clicks."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

PHOTOS = 24


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with open_browser() as browser:
        # A click misses what is still scrolled to smoothly.
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": still})
        yield browser


@pytest.fixture
def page(chrome: Chrome, built_project: Any) -> Iterator[Chrome]:
    """The page, freshly opened in a wide window; a message on the console fails the test."""
    set_width(chrome, 1280)
    visit(chrome, built_project.paths.page)
    yield chrome
    log: Any = chrome.get_log("browser")  # type: ignore[no-untyped-call]
    assert not [entry["message"] for entry in log]


def set_width(chrome: Chrome, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def visit(chrome: Chrome, page: Path, hash_: str = "") -> None:
    chrome.get("about:blank")  # else a change of the hash alone would load nothing
    chrome.get(page.resolve().as_uri() + hash_)


def choose(chrome: Chrome, name: str, text: str) -> None:
    Select(chrome.find_element(By.NAME, name)).select_by_visible_text(text)


def found(chrome: Chrome) -> int:
    text = chrome.find_element(By.ID, "found-count").text
    match = re.fullmatch(rf"(\d+) of {PHOTOS} photos", text)
    assert match, text
    return int(match[1])


def cards(chrome: Chrome) -> list[Any]:
    return chrome.find_elements(By.CSS_SELECTOR, "#found button[data-id]")


def eventually(holds: Callable[[], Any], seconds: float = 10) -> Any:
    end = time.monotonic() + seconds
    while not (value := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    assert value
    return value


def is_open(chrome: Chrome) -> bool:
    return bool(chrome.execute_script("return document.getElementById('photo').open"))


def test_photos_are_found_by_what_is_said_of_them(page: Chrome, built_project: Any) -> None:
    assert found(page) == PHOTOS == len(cards(page))
    choose(page, "object", "Boots.Ankle")
    wanted = [row for row in built_project.rows if row["object"] == "Boots.Ankle"]
    assert found(page) == len(wanted) > 0
    choose(page, "word", "red")
    wanted = [row for row in wanted if row["color"] == "red"]
    # A label or a true word may be so where the text is not.
    assert found(page) >= len(wanted)
    choose(page, "where", "recommended text")
    assert {card.get_attribute("data-id") for card in cards(page)} == {
        row["image_id"] for row in wanted
    }
    page.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    eventually(lambda: found(page) == PHOTOS)
    page.find_element(By.NAME, "q").send_keys("image-00 PHOTO")
    assert found(page) == 10
    page.find_element(By.NAME, "q").send_keys(" nowhere")
    assert found(page) == 0
    assert page.find_element(By.ID, "found-none").is_displayed()


def test_right_wrong_and_unknown_are_all_there_is(page: Chrome, built_project: Any) -> None:
    counts = []
    for text in ("right", "wrong", "unknown: no label or truth"):
        choose(page, "verdict", text)
        counts.append(found(page))
    assert sum(counts) == PHOTOS and counts[0] and counts[1]
    # The first image's text is off the template; the second has no label.
    choose(page, "part", "object")
    assert [card.get_attribute("data-id") for card in cards(page)] == ["image-001"]
    choose(page, "verdict", "wrong")
    assert [card.get_attribute("data-id") for card in cards(page)] == ["image-000"]
    assert "label: " in cards(page)[0].text and "✗" not in cards(page)[0].text
    choose(page, "part", "all together")
    choose(page, "split", "validation")
    assert found(page) < counts[1]


def test_an_upright_photo_is_shown_whole(page: Chrome) -> None:
    boxes = page.execute_script(
        "return [...document.querySelectorAll('#found .picture, .gallery .picture')].map(p => {"
        " const box = p.getBoundingClientRect();"
        " return [box.height, p.firstElementChild.getBoundingClientRect().height, box.width];})"
    )
    assert len(boxes) > PHOTOS
    for height, image, width in boxes:
        assert image <= height + 1 and height == pytest.approx(0.75 * width, abs=2)


def test_probability_and_order(page: Chrome) -> None:
    page.find_element(By.NAME, "least").send_keys("30")
    assert found(page) == PHOTOS - 10
    page.find_element(By.NAME, "most").send_keys("35")
    assert found(page) == 6
    Select(page.find_element(By.NAME, "sort")).select_by_value("sure")
    ids = [card.get_attribute("data-id") for card in cards(page)]
    assert ids == [f"image-{number:03d}" for number in range(15, 9, -1)]
    page.find_element(By.XPATH, "//button[.='The worst']").click()
    assert cards(page)[0].get_attribute("data-id") == "image-000"


def test_one_photo_says_everything_by_keys_alone(page: Chrome) -> None:
    page.find_element(By.TAG_NAME, "body").send_keys("/")
    search = page.switch_to.active_element
    assert search.get_attribute("name") == "q"
    search.send_keys("image-00")
    assert found(page) == 10
    first = cards(page)[0]
    page.execute_script("arguments[0].focus()", first)
    first.send_keys(Keys.ARROW_RIGHT)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    eventually(lambda: is_open(page))
    said = page.find_element(By.ID, "photo-body").text
    for text in ("image-001", "image-001.jpg", "none: right and wrong", "validation", "21.0 %"):
        assert text in said, text
    for text in ("Enhanced prompt (by machine)", "Caption by grammar", "untrained", "0.300"):
        assert text in said, text
    assert "CIDEr-D (0 to 10)" in said and "RefCLIPScore" in said
    assert "BERTScore" not in said  # it was not asked for
    assert "photo=image-001" in page.current_url and "q=image-00" in page.current_url
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
    assert "image-002" in page.find_element(By.ID, "photo-body").text
    assert page.find_element(By.ID, "photo-turn").text == "3 of 10"
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    eventually(lambda: not is_open(page))
    assert page.switch_to.active_element.get_attribute("data-id") == "image-002"
    assert "photo=" not in page.current_url
    page.back()
    eventually(lambda: found(page) == 10)


def test_the_address_keeps_filter_and_photo(chrome: Chrome, built_project: Any) -> None:
    visit(chrome, built_project.paths.page, "#photos?split=test&sort=unsure&photo=image-004")
    eventually(lambda: is_open(chrome))
    assert "image-004.jpg" in chrome.find_element(By.ID, "photo-body").text
    ActionChains(chrome).send_keys(Keys.ESCAPE).perform()
    assert found(chrome) == 12
    visit(chrome, built_project.paths.page, "#photos?photo=nobody&split=nowhere&x=%")
    assert found(chrome) == PHOTOS and not is_open(chrome)


def test_what_is_shown_comes_down_as_csv(page: Chrome, built_project: Any, tmp_path: Path) -> None:
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    choose(page, "split", "test")
    page.find_element(By.ID, "download").click()
    path = tmp_path / "photos.csv"
    eventually(path.is_file)
    text = path.read_bytes().decode()
    assert text.count("\r\n") == 13 and "\n" not in text.replace("\r\n", "")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["image_id"] for row in rows][:3] == ["image-000", "image-003", "image-004"]
    hostile = rows[0]["label_attribute"]
    assert hostile == built_project.rows[0]["attribute"] and '"' in hostile
    # A text that a spreadsheet would run as a formula is only text.
    assert rows[0]["free_caption"].startswith("'=free ") and rows[1]["free_caption"] == ""
    assert float(rows[0]["troika_probability"]) == 0.2
    assert {row["verdict"] for row in rows} <= {"right", "wrong", "unknown"}


def test_accuracies_are_those_of_the_tables_and_lead_to_their_photos(
    page: Chrome, built_project: Any
) -> None:
    choose(page, "verdict", "right")  # must not decide what is counted
    Select(page.find_element(By.ID, "accuracy-split")).select_by_visible_text("all photos")
    rows = page.find_elements(By.CSS_SELECTOR, "#accuracy-rows tr")
    labelled = [row for row in built_project.rows if row["image_id"] != "image-001"]
    shown = {}
    for row in rows:
        name, photos, *accuracies = (cell.text for cell in row.find_elements(By.XPATH, "*"))
        shown[name] = (int(photos), accuracies)
    for name, (photos, accuracies) in shown.items():
        wanted = [row for row in labelled if row["object"] == name]
        assert photos == len(wanted)
        right = [row for row in wanted if row["image_id"] != "image-000"]
        assert accuracies[0] == f"100.0 % {photos} of {photos}"
        assert accuracies[2].endswith(f"{len(right)} of {photos}")
    head = page.find_element(By.CSS_SELECTOR, "#accuracy-head button[data-column='0']")
    head.click()
    names = [row.find_element(By.TAG_NAME, "th").text for row in rows_of(page)]
    assert names == sorted(names, key=str.lower)
    Select(page.find_element(By.ID, "accuracy-by")).select_by_visible_text("pair")
    link = rows_of(page)[-1].find_element(By.CSS_SELECTOR, "button")
    pair = link.text
    link.click()
    wanted = [row for row in labelled if f"{row['attribute']}_{row['object']}" == pair]
    assert found(page) == len(wanted) > 0


def rows_of(chrome: Chrome) -> list[Any]:
    return chrome.find_elements(By.CSS_SELECTOR, "#accuracy-rows tr")


def test_a_table_that_goes_on_says_so_on_a_phone(page: Chrome) -> None:
    marked = "return document.querySelectorAll('.scroll.more-right').length"
    set_width(page, 390)
    assert eventually(lambda: page.execute_script(marked)) > 3
    region = page.find_element(By.CSS_SELECTOR, ".scroll.more-right")
    page.execute_script("arguments[0].scrollLeft = 9999", region)
    eventually(lambda: "more-right" not in region.get_attribute("class"))
    assert "more-left" in region.get_attribute("class")
