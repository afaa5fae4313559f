"""Garbage is looked for while stages and commands work, and not while they import or end."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

import compositional_prompts
from compositional_prompts.pipeline.garbage import garbage_left

STAGE = """
import gc, multiprocessing

import compositional_prompts.pipeline.error_messages as messages

IMPORTED = gc.isenabled()

def worker():
    print("worker", gc.isenabled(), flush=True)

def main():
    print("imported", IMPORTED, "working", gc.isenabled(), gc.get_freeze_count() > 0, flush=True)
    process = multiprocessing.get_context("spawn").Process(target=worker)
    process.start()
    process.join()
    loop = []
    loop.append(loop)
    del loop
    assert gc.collect() > 0

if __name__ == "__main__":
    try:
        messages.run_script(main)
    finally:
        print("left", gc.collect())
"""


@pytest.mark.parametrize(("place", "imported"), [("stages", False), ("notebooks", True)])
def test_a_stage_looks_for_garbage_while_it_works(
    place: str, imported: bool, tmp_path: Path
) -> None:
    script = tmp_path / place / "one.py"
    script.parent.mkdir()
    script.write_text(STAGE)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert said == [f"imported {imported} working True True", "worker True", "left 0"]


@pytest.mark.parametrize(
    ("module", "said"), [("other", "True\n"), ("compositional_prompts", "False\n")]
)
def test_other_modules_that_are_run_keep_their_collector(
    module: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__init__.py").write_text("import compositional_prompts\n")
    (tmp_path / "other" / "__main__.py").write_text("")
    # What is imported with the package says what it found.
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(FOUND))\n"
        "class Looking:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        global FOUND\n"
        "        if name.endswith('.__main__'):\n"
        "            FOUND = gc.isenabled()\n"
        "sys.meta_path.insert(0, Looking())\n"
    )
    source = Path(compositional_prompts.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", module, *(["--help"] if module != "other" else [])],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{source}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith(said)


@pytest.mark.parametrize("before", [True, False])
def test_an_import_leaves_the_collector_as_it_was(before: bool) -> None:
    assert gc.isenabled()
    try:
        if not before:
            gc.disable()
        with pytest.raises(ImportError), garbage_left():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == before
    finally:
        gc.enable()
        gc.unfreeze()
