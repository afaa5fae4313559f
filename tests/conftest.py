"""Models small enough for tests, and the places that tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).parent.parent

# Models of tests are too small to share among cores: threads would only wait for one another, and
# for those of the other workers' tests. Stages that a test starts have dvc_project.py's limit.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs of the pipeline first, the longest of all before them: the others fit in beside them."""

    def last_to_finish(item: pytest.Item) -> tuple[bool, bool]:
        end_to_end = item.get_closest_marker("end_to_end") is not None
        return not end_to_end, item.path.name != "test_sample.py"

    items.sort(key=last_to_finish)


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
