"""The page in headless Chromium."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from browser import check_page, require_chromium


def test_the_page_reads_well_in_chromium(built_project: Any) -> None:
    directory = os.environ.get("COMPOSITIONAL_PROMPTS_SCREENSHOTS")
    check_page(built_project.paths.page, Path(directory) if directory else None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<img src='data:image/png;base64,AAAA' alt='broken'>", "images did not load"),
        ("<p>no image</p>", "shows no image"),
        ("<div style='width: 900px'><img src='{gif}' alt='wide'></div>", "900 px wide"),
        ("<img src='{gif}' alt='x'><script>console.log('hello')</script>", "the console says"),
    ],
)
def test_the_check_fails_on_a_page_that_does_not(tmp_path: Path, body: str, message: str) -> None:
    gif = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs="
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><html><head><link rel='icon' href='data:,'></head>"
        f"<body style='margin: 0'>{body.replace('{gif}', gif)}</body></html>"
    )
    require_chromium()
    with pytest.raises(AssertionError, match=message):
        check_page(page)


def test_without_chromium_the_strict_mode_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("COMPOSITIONAL_PROMPTS_REQUIRE_CHROMIUM", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        require_chromium()
    monkeypatch.setenv("COMPOSITIONAL_PROMPTS_REQUIRE_CHROMIUM", "1")
    with pytest.raises(pytest.fail.Exception, match="not installed"):
        require_chromium()
