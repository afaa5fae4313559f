"""Progress bars."""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import Any

import pytest

from compositional_prompts.compute import progress as progress_module
from compositional_prompts.compute.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_shows_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "compositional_prompts")
    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress(iter(range(5)), "images", 5)) == [0, 1, 2, 3, 4]
        assert ("images" in stream.getvalue()) is shown


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    caplog.set_level(logging.INFO, "compositional_prompts")
    return caplog


def test_a_log_has_the_number_at_once_and_no_flood(logged: Any) -> None:
    assert list(progress(range(5000), "images")) == list(range(5000))
    assert list(progress(iter(range(3)), "rows", announced=True)) == [0, 1, 2]
    assert [record.getMessage() for record in logged.records] == ["images: 5000"]


def test_a_long_loop_is_heard_of_now_and_then(monkeypatch: pytest.MonkeyPatch, logged: Any) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    list(progress(range(12), "images"))
    told = [record.getMessage() for record in logged.records]
    assert told[0] == "images: 12"
    assert 2 <= len(told[1:]) <= 4
    assert all(re.fullmatch(r"images: \d+ of 12", line) for line in told[1:])
