"""Progress bars."""

from __future__ import annotations

import io
import sys

import pytest

from compositional_prompts.compute.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress(iter(range(5)), "images", 5)) == [0, 1, 2, 3, 4]
        assert ("images" in stream.getvalue()) is shown
