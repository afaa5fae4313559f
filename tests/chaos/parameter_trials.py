"""Odd parameters, drawn and made smaller by hypothesis: refused by name, or they do."""

from __future__ import annotations

import copy
import json
import random
import resource
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from chaos.odd_parameters import parameters, values
from chaos.small_project import ROOT, StageCommand
from chaos.stage_process import Ended
from chaos.trials import DATA_MIB, MIB, Bench, Outcome
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

SETS = 12
"""Sets of parameters a trial draws."""

REFUSED = "refused"
SHRINKING_SECONDS = 60.0
STAGE_SECONDS = 45.0
"""A stage that takes longer with the parameters that it was given is ended; it may be right."""

OF_SECTION: Mapping[str, tuple[str, ...]] = {
    "base": ("split",),
    "download": ("download",),
    "split": ("split",),
    "weights": ("weights",),
    "troika_train": ("troika_train",),
    "troika_predict": ("troika_predict",),
    "clip_embed": ("clip_embed", "check_data"),
    "enhance": ("word_scorer", "enhance", "colors"),
    "blip2_features": ("blip2_features",),
    "finetune": ("finetune",),
    "infer": ("infer@finetuned",),
    "score": ("score",),
    "recommend": ("recommend",),
    "report": ("report",),
}
"""The stages that run by a section."""


class _OddParametersError(AssertionError):
    """A set of parameters does not do, and is not refused as it should be."""


def parameters_odd(bench: Bench, rng: random.Random) -> Outcome:
    """One to three parameters changed at once: ``check``, and the stages of the section."""
    outcome = Outcome()
    known = parameters()
    section = rng.choice(list(OF_SECTION))
    names = [name for name in known if name.partition(".")[0] == section and "." in name]
    drawn = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True).flatmap(
        lambda some: st.fixed_dictionaries({name: values(*known[name]) for name in some})
    )
    judged: dict[str, tuple[str | None, str]] = {}
    until = time.monotonic() + SHRINKING_SECONDS + SETS * 2
    failing: list[dict[str, Any]] = []

    @seed(rng.randrange(2**32))
    @settings(
        max_examples=SETS,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn)
    def every_set_is_judged(changes: dict[str, Any]) -> None:
        key = repr(changes)
        if key not in judged:
            if time.monotonic() > until:
                return
            judged[key] = _judged(bench, section, changes)
        problem, _ = judged[key]
        if problem is not None and (not failing or judged[repr(failing[0])][0] == problem):
            failing.append(changes)
            raise _OddParametersError(problem)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            every_set_is_judged()
    except (_OddParametersError, Flaky):
        changes = min(failing, key=lambda one: (len(one), len(repr(one))))
        problem, said = judged[repr(changes)]
        assert problem is not None
        outcome.fail(problem, repr(changes)[:400], said)
    outcome.count("parameter sets", len(judged))
    outcome.count("of parameter sets refused", sum(said == REFUSED for _, said in judged.values()))
    return outcome


def _changed(document: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    for name, value in sorted(changes.items()):
        *groups, key = name.split(".")
        place: Any = changed
        for group in groups:
            place = place[group] if isinstance(place, dict) and group in place else None
        if isinstance(place, dict):
            place[key] = value
    return changed


def _judged(bench: Bench, section: str, changes: Mapping[str, Any]) -> tuple[str | None, str]:
    """What is wrong with how a set of parameters is taken, and what was said."""
    project = bench.project
    path = project.root / "params.yaml"
    document = yaml.safe_load((project.pristine / "params.yaml").read_text())
    try:
        path.write_text(yaml.safe_dump(_changed(document, changes)), encoding="utf-8")
    except (UnicodeEncodeError, yaml.YAMLError):
        return None, ""  # not to be written into a file
    try:
        stages = ["check", *OF_SECTION[section]]
        for command in (project.stages[name] for name in stages if name in project.stages):
            project.clear(command, rows=True)
            ended = project.run(
                command, patience=STAGE_SECONDS, limits={resource.RLIMIT_DATA: DATA_MIB * MIB}
            )
            problem = _problem(ended, command, project.root)
            if problem is not None:
                names = ", ".join(sorted(changes))
                return f"{command.script} with odd {names}: {problem}", ended.said(10)
            if ended.status or ended.hung:
                return None, REFUSED if ended.status == 1 else ""
    finally:
        project.restore()
    return None, ""


def _problem(ended: Ended, command: StageCommand, root: Path) -> str | None:
    if ended.left:
        return "leaves processes running"
    if ended.hung:
        return None if command.script != "check" else "hangs"
    if ended.traceback:
        return "a traceback"
    if ended.status not in (0, 1):
        return f"exit status {ended.status}"
    if command.script == "check" and ended.status and "params.yaml" not in ended.text:
        return "a message that does not name params.yaml"
    return _nonsense(command, root) if ended.status == 0 else None


def _nonsense(command: StageCommand, root: Path) -> str | None:
    """What a stage that ended well must not have written."""
    for output in command.outputs:
        path = root / output
        if path.suffix == ".json":
            try:
                json.loads(path.read_text(), parse_constant=_refuse)
            except ValueError as error:
                return f"{output}: {error}"
        if command.script == "infer" and path.suffix == ".parquet":
            captions = pq.read_table(path).column("caption").to_pylist()
            if captions and not any(captions):
                return "every caption is empty"
    return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


__all__ = ["OF_SECTION", "ROOT", "parameters_odd"]
