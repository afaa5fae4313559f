"""What DVC takes for a change of params.yaml, and what its -S makes of what people type."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "params.yaml"

STAGE = """\
stages:
  prompt:
    cmd: {} prompt.py
    params: [clip_embed]
    outs: [prompt.txt]
"""
SCRIPT = """\
from pathlib import Path
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.prompt.template import PromptTemplate

words = read_params(Path("params.yaml"), ClipEmbed)[0].vocabulary
first = {group: found[0] for group, found in words.items()}
Path("prompt.txt").write_text(PromptTemplate(tuple(words)).format("Canvas", "Boot", first))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repo]:
    """A project of one stage that writes a prompt in the order of the attribute groups."""
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    Path("dvc.yaml").write_text(STAGE.format(sys.executable))
    Path("prompt.py").write_text(SCRIPT)
    shutil.copy(SHIPPED, root)
    with Repo.init(no_scm=True) as repo:
        yield repo


def test_the_order_of_attribute_groups_is_a_change(project: Repo) -> None:
    project.reproduce()
    before = Path("prompt.txt").read_text()
    shipped = SHIPPED.read_text()
    swapped, count = re.subn(r"(    - name: .+\n .+\n)(    - name: .+\n .+\n)", r"\2\1", shipped)
    assert count == 1
    Path("params.yaml").write_text(swapped)
    assert project.status() == {
        "prompt": [{"changed deps": {"params.yaml": {"clip_embed": "modified"}}}]
    }
    project.reproduce()
    assert before.index("black") < before.index("leather")
    after = Path("prompt.txt").read_text()
    assert after.index("leather") < after.index("black")
    Path("params.yaml").write_text(shipped)
    project.reproduce()
    assert Path("prompt.txt").read_text() == before
