"""Models small enough for tests, and the places that tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def real_photos() -> Path:
    """The folder of fashion-product-images-small; the test skips where it is not at hand."""
    named = os.environ.get("COMPOSITIONAL_PROMPTS_PHOTOS")
    folder = (
        Path(named) if named else ROOT.parent / "shared" / "data" / "fashion-product-images-small"
    )
    if not folder.is_dir():
        pytest.skip(
            f"no real photographs: {folder} is missing; COMPOSITIONAL_PROMPTS_PHOTOS names the "
            "folder of fashion-product-images-small"
        )
    return folder
