"""What DVC takes for a change of params.yaml, and what its -S makes of what people type."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides

from compositional_prompts.project.whole_params import read_all_params

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


def forms() -> list[tuple[str, list[str]]]:
    """Every ``-S`` of docs/sharing.md's table, with the line that it stands in."""
    rows = re.findall(r"(?m)^\| [^|]+ \| (`-S .+) \|$", (ROOT / "docs" / "sharing.md").read_text())
    codes = [code for row in rows for code in re.findall(r"`(-S [^`]+)`", row)]
    return [(code, [word for word in shlex.split(code) if word != "-S"]) for code in codes]


EXPECTED: dict[str, Any] = {
    "finetune.learning_rate": 0.00005,
    "base.device": "auto",
    "clip_embed.template": "a {} shoe",
    "infer.images": None,
    "report.title": "My shoes",
    "split.objects": ["747", "true"],
    "split.attributes": ["Canvas", "Leather"],
    "clip_embed.attributes": [
        {"name": "color", "words": ["black", "navy blue"]},
        {"name": "heel", "words": ["flat", "high"]},
    ],
    "clip_embed.attributes.0.words": ["black", "white"],
    "enhance.reference_colors": [{"word": "teal", "rgb": [0, 128, 128]}],
    "finetune.lora.rank_pattern": [{"modules": ".*q_proj", "r": 8}],
    "download.fashion_products.filters.masterCategory": ["Apparel"],
    "+download.fashion_products.filters.gender": ["Women", "Girls"],
    "~download.fashion_products.filters.masterCategory": None,
    "split.fractions": {"train": 0.7, "val": 0.2, "test": 0.1},
    "infer.num_beams": 1,
    "infer.grammar": False,
    "finetune.max_tokens": 50,
    "infer.sampling": {"temperature": 1.0, "top_k": 0, "top_p": 0.9},
}


def value_at(document: Any, name: str) -> Any:
    for part in name.split("."):
        document = document[int(part)] if part.isdigit() else document.get(part)
    return document


@pytest.mark.parametrize(("code", "overrides"), forms())
def test_every_form_that_the_docs_give_works(
    code: str, overrides: list[str], tmp_path: Path
) -> None:
    params = shutil.copy(SHIPPED, tmp_path / "params.yaml")
    apply_overrides(params, overrides)
    found = read_all_params(params).model_dump()
    for override in overrides:
        name = override.split("=")[0]
        assert value_at(found, name.lstrip("+~")) == EXPECTED[name], code


def test_every_form_is_expected_once() -> None:
    names = {override.split("=")[0] for _, overrides in forms() for override in overrides}
    assert names == set(EXPECTED)
