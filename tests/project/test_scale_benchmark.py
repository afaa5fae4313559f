"""The benchmark of scale calls stages as dvc.yaml does."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def _options(command: str) -> set[str]:
    return set(re.findall(r" --([a-z0-9-]+)", f" {command}"))


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scale

    monkeypatch.delitem(sys.modules, "scale")
    return {name: (stage.script, stage.options) for name, stage in scale.STAGES.items()}


def test_a_stage_is_given_every_path_that_dvc_gives_it(stages: dict[str, tuple[str, str]]) -> None:
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    by_dvc: dict[str, set[str]] = {}
    for stage in declared.values():
        command = stage.get("cmd") or stage["do"]["cmd"]
        if script := re.search(r"stages/(\w+)\.py", command):
            by_dvc.setdefault(script[1], set()).update(_options(command))
    assert stages
    for name, (script, options) in stages.items():
        given = _options(options)
        # What differs between the two captioners is said by their items.
        optional = {"adapter", "blip2"} if script == "infer" else set()
        assert given | optional == by_dvc[script] | optional, name
