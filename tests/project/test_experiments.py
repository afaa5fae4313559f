"""The recipes of docs/sharing.md for experiments, with stages that take no time.

What is not of DVC is that a queued experiment runs the code of its own revision: this package is
installed in place, and DVC runs queued experiments in copies of the project elsewhere.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc_project import Project

ROOT = Path(__file__).parents[2]
PARAMS = """\
rate: 0.1
words: [black, white]
shares: {train: 0.8, val: 0.1}
sampling: null
"""
STAGE = """\
import json, sys
from pathlib import Path
import compositional_prompts
import yaml

params = yaml.safe_load(Path("params.yaml").read_text())
found = {"rate": params["rate"], "version": compositional_prompts.VERSION}
Path(sys.argv[1]).write_text(json.dumps(found | {"words": len(params["words"])}))
Path("params.txt").write_text(json.dumps(params))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A pipeline of one stage, run as ours are, whose package says its version."""
    folder = tmp_path_factory.mktemp("experiments")
    project = Project(folder / "project", folder / "home")
    (project.root / "stages").mkdir(parents=True)
    command = "env PYTHONPATH=src python stages/say.py summary.json"
    stage = {
        "cmd": command,
        "deps": ["stages/say.py", "src/compositional_prompts"],
        "params": list(yaml.safe_load(PARAMS)),
        "outs": ["params.txt"],
        "metrics": [{"summary.json": {"cache": False}}],
    }
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"say": stage}}))
    (project.root / "params.yaml").write_text(PARAMS)
    (project.root / "stages/say.py").write_text(STAGE)
    package = project.root / "src/compositional_prompts"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("VERSION = 1\n")
    (project.root / ".gitignore").write_text("__pycache__/\n/params.txt\n")
    (project.root / ".dvcignore").write_text("__pycache__/\n")
    project.git("init", "--quiet", "--initial-branch", "main")
    project.dvc("init", "--quiet")
    project.dvc("repro")
    project.commit("The project")
    return project


def with_installed_package(project: Project) -> dict[str, str]:
    """The environment of a user: no PYTHONPATH, so that the installed package is what is found."""
    environment = project.environment()
    del environment["PYTHONPATH"]
    return environment


def dvc(project: Project, *arguments: str) -> str:
    done = subprocess.run(
        ["dvc", *arguments],
        cwd=project.root,
        env=with_installed_package(project),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shown(project: Project) -> dict[str, dict[str, Any]]:
    """The metrics of every experiment by its name."""
    found = {}
    for commit in json.loads(dvc(project, "exp", "show", "--json")):
        for experiment in commit.get("experiments") or []:
            revision = experiment["revs"][-1]
            found[revision["name"]] = revision["data"]["metrics"]["summary.json"]["data"]
    return found


def test_our_stages_run_the_code_beside_them() -> None:
    for name, definition in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        command = definition.get("do", definition)["cmd"]
        assert command.startswith("env PYTHONPATH=src "), name


def test_queued_experiments_run_their_own_revisions_code(project: Project) -> None:
    """Two at a time, while the working tree is edited."""
    code = project.root / "src/compositional_prompts/__init__.py"
    for version, rate in ((2, "0.2"), (3, "0.3")):
        code.write_text(f"VERSION = {version}\n")
        dvc(project, "exp", "run", "--queue", "--name", f"v{version}", "-S", f"rate={rate}")
    code.write_text("raise SystemExit('the working tree was imported')\n")
    try:
        dvc(project, "exp", "run", "--run-all", "--jobs", "2")
    finally:
        project.git("checkout", "--", "src")
    found = shown(project)
    assert {name: (found[name]["version"], found[name]["rate"]) for name in ("v2", "v3")} == {
        "v2": (2, 0.2),
        "v3": (3, 0.3),
    }


def test_parameters_of_every_kind_and_apply_branch_remove(project: Project) -> None:
    dvc(
        project, "exp", "run", "--name", "kinds", "-S", "rate=5e-05", "-S", "words=[a, b, c]",
        "-S", "shares={train: 0.7, val: 0.2}", "-S", "sampling={temperature: 1.0}",
    )  # fmt: skip
    kept = json.loads((project.root / "params.txt").read_text())
    assert kept["words"] == ["a", "b", "c"]
    assert kept["shares"] == {"train": 0.7, "val": 0.2}
    assert kept["sampling"] == {"temperature": 1.0}
    project.git("checkout", "--", ".")
    dvc(project, "exp", "apply", "kinds")
    assert json.loads((project.root / "summary.json").read_text())["words"] == 3
    dvc(project, "exp", "branch", "kinds", "kinds-kept")
    assert "kinds-kept" in project.git("branch", "--list", "kinds-kept")
    project.git("checkout", "--", ".")
    dvc(project, "exp", "remove", "kinds")
    assert "kinds" not in shown(project)


def test_a_grid_and_a_run_in_a_copy(project: Project) -> None:
    dvc(project, "exp", "run", "--queue", "-S", "rate=0.4,0.5", "-S", "words=[x],[y, z]")
    queued = dvc(project, "queue", "status")
    assert queued.count("Queued") == 4
    dvc(project, "queue", "remove", "--all")
    before = (project.root / "summary.json").read_text()
    dvc(project, "exp", "run", "--temp", "--name", "apart", "-S", "rate=0.6")
    assert (project.root / "summary.json").read_text() == before
    assert shown(project)["apart"]["rate"] == 0.6


def test_a_forced_rerun_with_equal_results_changes_no_file(project: Project) -> None:
    lock = (project.root / "dvc.lock").read_bytes()
    dvc(project, "repro", "--force")
    assert (project.root / "dvc.lock").read_bytes() == lock
    assert project.git("status", "--porcelain") == ""


def test_the_pictures_in_the_document_fit_a_terminal() -> None:
    text = (ROOT / "docs/sharing.md").read_text()
    pictures = [block.split("```")[0].splitlines() for block in text.split("```text\n")[1:]]
    assert len(pictures) == 2
    for lines in pictures:
        assert len(lines) <= 40 and max(map(len, lines)) <= 120
        assert "…" not in "".join(lines)  # nothing is cut
