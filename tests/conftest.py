"""Models small enough for tests, and the places that tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).parent.parent

# Models of tests are too small to share among cores: threads would only wait for one another, and
# with pytest-xdist for other tests' too. Stages that a test starts are not bound by it.
torch.set_num_threads(1)

# Machines are shared: how long an example takes says nothing.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")


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
