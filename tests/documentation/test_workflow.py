""".github/workflows/ci.yml: what it runs is there, with as few rights as it needs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from accepted_commands import PARSERS, check_accepted
from printed_commands import ROOT, commands_of_line

TEXT = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
# BaseLoader: in YAML 1.1 the key `on` would be true.
WORKFLOW: dict[str, Any] = yaml.load(TEXT, yaml.BaseLoader)
STEPS: list[dict[str, Any]] = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
SHELL = {"{", "}", "cml", "echo", "git", "grep", "tee", "uv"}
"""What its scripts run that is not of this project."""


def lines() -> Iterator[str]:
    for step in STEPS:
        yield from step.get("run", "").splitlines()


def test_every_action_is_pinned() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+)*", action), action
    (cml,) = (step for step in STEPS if step.get("uses", "").startswith("iterative/setup-cml@"))
    assert re.fullmatch(r"v\d+\.\d+\.\d+", cml["with"]["version"])


def test_only_the_comment_may_write() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    rights = {
        name: job["permissions"] for name, job in WORKFLOW["jobs"].items() if "permissions" in job
    }
    assert rights == {"metrics": {"contents": "read", "pull-requests": "write"}}
    assert "pull_request_target" not in WORKFLOW["on"]


def test_no_script_is_put_together_from_what_others_write() -> None:
    assert not [line for line in lines() if "${{" in line]


@pytest.mark.parametrize("line", list(lines()))
def test_every_command_is_there(line: str) -> None:
    for command in commands_of_line("ci.yml", 1, line):
        words = [word for word in command.words if word != "!"]
        if command.words[0] == ".ci/run":
            assert os.access(ROOT / ".ci" / "run", os.X_OK)
        elif command.program in PARSERS:
            check_accepted(command.program, words[1:])
        else:
            assert Path(words[0]).name in SHELL


def test_what_it_must_do_is_done() -> None:
    done = "\n".join([*lines(), (ROOT / ".ci" / "run").read_text()])
    for command in (
        "make lint",
        "make test",
        "dvc repro --dry --allow-missing",
        "dvc metrics diff",
    ):
        assert command in done
    assert "cml comment" in done
