"""The names that others build on: they are there, cost nothing before use, and work as shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_catalog import write_catalog

import compositional_prompts

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "library.md").read_text()
EXAMPLES = re.findall(r"^## (.+?)\n.*?^```python\n(.+?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("heading", "code"), EXAMPLES, ids=[heading for heading, _ in EXAMPLES])
def test_the_document_runs(
    heading: str, code: str, own_project: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos.rename(own_project / "photos")
    write_catalog(own_project / "data" / "catalog", 3)
    exec(compile(code, f"docs/library.md, {heading}", "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    for line in re.findall(r"# (A photo of .+)", code):
        assert line in printed
    assert printed.count("\n") >= code.count("\nprint(")


def test_the_document_shows_every_public_name() -> None:
    shown = set(re.findall(r"\b\w+\b", "\n".join(code for _, code in EXAMPLES)))
    assert set(compositional_prompts.__all__) - {"__version__"} <= shown


def test_public_names_are_found_and_listed() -> None:
    for name in compositional_prompts.__all__:
        assert getattr(compositional_prompts, name) is not None
    assert set(dir(compositional_prompts)) == set(compositional_prompts.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = compositional_prompts.nothing


def test_nothing_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, compositional_prompts as c; c.__version__; c.PromptTemplate; "
        "heavy = {'torch', 'pyarrow', 'pydantic'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_one_everywhere() -> None:
    version = compositional_prompts.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
