"""dvc.yaml says all of what each stage reads and writes, and params.yaml explains every key."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ruamel.yaml import YAML

from compositional_prompts.captioner.training.caption_curve import CaptionEpoch
from compositional_prompts.compute.imported_files import imported_files
from compositional_prompts.compute.training.learning_curve import write_curve
from compositional_prompts.files.outputs import atomic_directory, atomic_file
from compositional_prompts.files.scratch import SCRATCH
from compositional_prompts.pipeline.dvc_file import load_index, read_outputs
from compositional_prompts.pipeline.stage import TIMING
from compositional_prompts.project.source_dependencies import (
    is_source,
    source_dependencies,
    stage_script,
    sync_dependencies,
)
from compositional_prompts.project.whole_params import Params, read_all_params
from compositional_prompts.troika.training.troika_curve import TroikaEpoch

ROOT = Path(__file__).parents[2]
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
# A foreach stage is judged by its template.
STAGES: dict[str, dict[str, Any]] = {
    name: definition.get("do", definition) for name, definition in PIPELINE["stages"].items()
}
NEUTRAL_KEYS = ("workers", "checkpoint_seconds", "rows", "engine", "ray")
RESULT_NEUTRAL = {f"base.{key}" for key in NEUTRAL_KEYS}
"""Parameters that never change a result, so that DVC need not know them."""
GIVEN = re.compile(r"models/source/\$\{(troika_train|finetune)\.mode\}/(\w+)")
"""What no stage writes: a file of the project, or a model that the user puts beside it."""

stage = pytest.mark.parametrize("name", STAGES)


def paths(entries: list[Any]) -> list[str]:
    """The paths of a list of outs, metrics or plots, with or without options."""
    return [path for entry in entries for path in (entry if isinstance(entry, dict) else [entry])]


def written_by(definition: dict[str, Any]) -> list[str]:
    return [
        path for kind in ("outs", "metrics", "plots") for path in paths(definition.get(kind, []))
    ]


def test_dvc_parses_yaml_by_libyaml() -> None:
    """In Python every command takes twice as long (findings/dvc_parses_yaml_in_python.sh)."""
    assert YAML(typ="safe").Parser.__module__.startswith("ruamel.yaml.clib")


@stage
def test_a_stage_is_described(name: str) -> None:
    assert re.fullmatch(r"[A-Z].+\.", STAGES[name]["desc"])


def test_commands_have_single_spaces() -> None:
    """dvc.lock loses one of two where it wraps a line, and the stage is stale for ever."""
    commands = {each.addressing: each.cmd for each in load_index(ROOT / "dvc.yaml").stages}
    assert len(commands) > len(STAGES)
    assert {name: cmd for name, cmd in commands.items() if " ".join(cmd.split()) != cmd} == {}


def test_scripts_and_stages_are_the_same() -> None:
    scripts = {str(stage_script(definition)) for definition in STAGES.values()}
    assert scripts == {f"stages/{path.name}" for path in (ROOT / "stages").glob("*.py")}
    assert {f"stages/{name}.py" for name in STAGES} == scripts


@stage
def test_dependencies_are_the_imported_files(name: str) -> None:
    script = stage_script(STAGES[name])
    declared = [path for path in STAGES[name]["deps"] if is_source(path)]
    expected = [str(path) for path in source_dependencies(ROOT, script)]
    assert declared == expected, "run `compositional-prompts sync-deps`"


def test_a_folder_stands_for_files_that_are_all_imported(tmp_path: Path) -> None:
    package = tmp_path / "src/compositional_prompts"
    for name, text in {
        "room/a.py": "from compositional_prompts.room.inner import b, c",
        "room/inner/b.py": "",
        "room/inner/c.py": "",
        "room/inner/__init__.py": "",
        "room/inner/__pycache__/b.cpython-311.pyc": "",
        "room/inner/style.css": "",
        "lone/d.py": "",
        "other/e.py": "",
        "other/f.py": "",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    script = Path("stages/x.py")
    (tmp_path / script).parent.mkdir()
    (tmp_path / script).write_text(
        "from compositional_prompts.room import a\nimport compositional_prompts.other.e\n"
        "import compositional_prompts.lone.d\n"
    )

    def found() -> list[str]:
        paths = source_dependencies(tmp_path, script)
        return [str(path).removeprefix("src/compositional_prompts/") for path in paths]

    assert found() == ["stages/x.py", "lone/d.py", "other/e.py", "room"]
    (package / "room/g.py").write_text("")
    assert found() == ["stages/x.py", "lone/d.py", "other/e.py", "room/a.py", "room/inner"]
    (package / "room/inner/h.py").write_text("")
    assert found()[3:] == [
        "room/a.py",
        *(f"room/inner/{name}" for name in ("b.py", "c.py", "style.css")),
    ]


def stale_stages() -> dict[Path, set[str]]:
    """Of every source file, the stages that run again after a comment in it, as DVC counts."""
    stale: dict[Path, set[str]] = {
        path.relative_to(ROOT): set()
        for folder in ("src", "stages")
        for path in (ROOT / folder).rglob("*.py")
    }
    for name, definition in STAGES.items():
        for dependency in filter(is_source, definition["deps"]):
            for file in stale:
                if file.is_relative_to(dependency):
                    stale[file].add(name)
    return stale


def test_only_what_every_stage_runs_on_makes_all_of_them_stale() -> None:
    """The runner, and how outputs and tables are written, checked and told to be damaged."""
    package = Path("src/compositional_prompts")
    everywhere = {
        str(file.relative_to(package))
        for file, names in stale_stages().items()
        if names == set(STAGES)
    }
    beside = {name for name in everywhere if not name.startswith("pipeline/")}
    assert beside <= {
        *("files/damage.py", "files/outputs.py", "files/tables.py"),
        "files/tensors/finite_numbers.py",
    }


def test_synchronising_changes_nothing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    for folder in ("src", "stages"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    assert sync_dependencies(tmp_path) == []
    assert (tmp_path / "dvc.yaml").read_text() == (ROOT / "dvc.yaml").read_text()


def test_a_missing_and_a_stale_dependency_are_put_right(tmp_path: Path) -> None:
    for folder in ("src", "stages"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    shipped = (ROOT / "dvc.yaml").read_text()
    broken = shipped.replace(
        "      - src/compositional_prompts/catalog/splitting/assignment.py\n", ""
    )
    broken = broken.replace(
        "      - stages/split.py\n",
        "      - stages/split.py\n      - src/compositional_prompts/x.py\n",
    )
    assert broken.count("\n") == shipped.count("\n")
    (tmp_path / "dvc.yaml").write_text(broken)
    assert sync_dependencies(tmp_path) == ["split"]
    assert (tmp_path / "dvc.yaml").read_text() == shipped


WHOLE = {"params.yaml": None}
"""How DVC is told of a file of parameters as a whole."""
CHECKS = [name for name in STAGES if WHOLE in STAGES[name].get("params", [])]


PROOFS = {"data/checked/params.txt", "data/checked/data.txt"}
"""What checks write so that others wait for it; nobody reads it."""


def declared(name: str) -> set[str]:
    if name in CHECKS:
        return set(Params.model_fields)
    return set(STAGES[name].get("params", []))


def test_nothing_runs_before_the_parameters_are_checked() -> None:
    """And a parameter changes nothing but what reads it: the check's output is always the same."""
    assert CHECKS == ["check"]
    assert STAGES["check"]["params"] == [WHOLE]
    for first, others in (("check", set(STAGES)), ("check_data", set(STAGES) - QUICK)):
        assert others <= {name.partition("@")[0] for name in behind(first)}


QUICK = {"check", "download", "truth", "split"}


def behind(name: str) -> set[str]:
    """The stage and all that wait for it."""
    graph = load_index(ROOT / "dvc.yaml").graph
    behind = {stage for stage in graph if stage.name == name}
    while more := {stage for stage in graph if behind & set(graph.successors(stage))} - behind:
        behind |= more
    return {stage.addressing for stage in behind}


def sections_of(script: Path) -> set[str]:
    """The sections that a script gives to ``read_params``."""
    read = {
        node.args[1].id
        for node in ast.walk(ast.parse((ROOT / script).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "read_params"
        and isinstance(node.args[1], ast.Name)
    }
    return {
        key
        for key, field in Params.model_fields.items()
        if field.annotation is not None and field.annotation.__name__ in read
    }


def base_variables(function: ast.AST) -> Iterator[str]:
    """The names that hold the section ``base`` in a function: an argument, or read there."""
    for node in ast.walk(function):
        if isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name):
            if node.annotation.id == "Base":
                yield node.arg
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Tuple)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Name)
            and node.value.func.id == "read_params"
        ):
            second = node.targets[0].elts[1]
            assert isinstance(second, ast.Name)
            yield second.id


JUDGE = ROOT / "src/compositional_prompts/project/between_sections.py"
"""Reads parameters to judge them, and decides no result by them."""


def base_keys(script: Path) -> set[str]:
    """The keys of ``base`` that a script, or what it imports of ours, makes use of."""
    found = set()
    for file in (script, *imported_files(ROOT / script, ROOT / "src")):
        if file.suffix != ".py" or file == JUDGE:
            continue
        for function in ast.walk(ast.parse((ROOT / file).read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            variables = set(base_variables(function))
            found |= {
                f"base.{node.attr}"
                for node in ast.walk(function)
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in variables
            }
    return found


@stage
def test_parameters_are_those_that_the_script_reads(name: str) -> None:
    script = stage_script(STAGES[name])
    if name in CHECKS:
        assert not sections_of(script)
        return
    sections = sections_of(script)
    assert len(sections) <= SEVERAL_SECTIONS.get(name, 1)
    parts = {key for key in declared(name) if "." in key and not key.startswith("base.")}
    for key in parts:
        section, _, inner = key.partition(".")
        assert name in READ_IN_PART and section not in declared(name)
        assert inner in Params.model_fields[section].annotation.model_fields, key
    whole = (declared(name) - parts) | {key.partition(".")[0] for key in parts}
    assert whole == sections | (base_keys(script) - RESULT_NEUTRAL)


SEVERAL_SECTIONS = {"check_data": 5, "colors": 2, "score": 2, "recommend": 2}
"""Stages that read more sections than one, and how many."""

READ_IN_PART = {
    *("check_data", "colors", "word_scorer", "enhance", "stability"),
    *("score", "recommend"),
}
"""Stages that make use of some keys of a section only, so that others do not make them stale: one
section says how words are scored and how they are written."""


def typed_in(section: str) -> str:
    """The source file that types a section."""
    module = sys.modules[Params.model_fields[section].annotation.__module__]
    return str(Path(str(module.__file__)).relative_to(ROOT))


READ_BY_ALL = "src/compositional_prompts/pipeline/section.py"
"""Where ``base`` is typed, and what sections are made of."""


@pytest.mark.parametrize("section", Params.model_fields)
def test_a_section_s_types_make_only_stages_that_read_it_stale(section: str) -> None:
    """A room types the sections of its stages together; the report reads all of them."""
    file = typed_in(section)
    together = {name for name in Params.model_fields if typed_in(name) == file}
    depend = {
        name
        for name in STAGES
        if any(f"{file}/".startswith(f"{path}/") for path in STAGES[name]["deps"])
    }
    reading = {name for name in STAGES if together & {key.split(".")[0] for key in declared(name)}}
    assert reading <= depend
    if file != READ_BY_ALL:
        assert depend == reading | {"report", *CHECKS}


def test_every_section_is_read_by_a_stage() -> None:
    sections = {key.split(".")[0] for name in STAGES for key in declared(name)}
    assert sections == set(Params.model_fields)


def test_the_summary_alone_is_a_metric_and_kept_in_git() -> None:
    """DVC pushes what it caches, and `dvc gc -w` keeps it; what it does not cache is not shared."""
    metrics = {name: definition.get("metrics", []) for name, definition in STAGES.items()}
    summary = [{"metrics/summary.json": {"cache": False}}]
    assert {name: found for name, found in metrics.items() if found} == {"summary": summary}
    uncached = [
        path
        for definition in STAGES.values()
        for kind in ("outs", "plots")
        for entry in definition.get(kind, [])
        if isinstance(entry, dict)
        for path, settings in entry.items()
        if not settings.get("cache", True)
    ]
    assert uncached == []


def test_git_ignores_what_dvc_keeps_and_nothing_else() -> None:
    """DVC would write a missing line itself, and a run would change files of git."""
    outputs = read_outputs(ROOT / "dvc.yaml")
    names = [str(output.path.relative_to(ROOT)) for output in outputs]
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *names], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    assert ignored == [name for name, output in zip(names, outputs, strict=True) if output.cached]


def test_every_run_is_recorded() -> None:
    """What DVC asks of a stage before it keeps a record of its runs, by which they are shared."""
    for stage in load_index(ROOT / "dvc.yaml").stages:
        assert stage.cmd and stage.deps and stage.outs, stage.addressing
        assert not stage.always_changed
        for path in (*stage.deps, *stage.outs):
            assert path.protocol == "local" and path.def_path, (stage.addressing, path)
        for out in stage.outs:
            assert out.is_in_repo and not out.persist, (stage.addressing, out)


def test_nothing_that_differs_between_equal_runs_is_an_output() -> None:
    assert "timing" not in (ROOT / "dvc.yaml").read_text()
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert f"/{TIMING}/" in ignored and f"/{SCRATCH}/" in ignored


def ignored_by_git(files: Iterable[Path]) -> set[Path]:
    """Those of files of the project, which need not be there, that git ignores."""
    told = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        input="".join(f"{path}\n" for path in files),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode in (0, 1), told.stderr  # 1: it ignores none
    return {Path(line) for line in told.stdout.splitlines()}


def test_git_ignores_what_a_killed_command_leaves(tmp_path: Path) -> None:
    written = [output.path.relative_to(ROOT) for output in read_outputs(ROOT / "dvc.yaml")]
    left = [Path("compare.html"), Path("data/.features.k1_x9abc/part")]
    for path in (*written, Path("compare.html"), Path("params.yaml"), Path("dvc.yaml")):
        with atomic_file(tmp_path / path.name) as temporary:
            left.append(path.parent / temporary.relative_to(tmp_path))
        folder = tmp_path / "folder"
        with atomic_directory(folder / path.name) as temporary:
            left.append(path.parent / temporary.relative_to(folder) / "part")
    assert ignored_by_git(left) == set(left)


def test_git_ignores_no_file_of_the_project() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [Path(line) for line in listed.stdout.splitlines()]
    assert Path("reports/.gitignore") in files and len(files) > 100
    assert ignored_by_git(files) == set()


@stage
def test_nothing_is_exempt_from_being_reproduced(name: str) -> None:
    assert not {"frozen", "always_changed"} & set(STAGES[name])
    options = [
        option
        for kind in ("outs", "metrics", "plots")
        for entry in STAGES[name].get(kind, [])
        if isinstance(entry, dict)
        for settings in entry.values()
        for option in settings
    ]
    assert "persist" not in options


@stage
def test_the_command_names_what_is_declared(name: str) -> None:
    """Every path of the command is declared, and every declared path is in the command."""
    definition = STAGES[name]
    data = {path for path in definition["deps"] if not is_source(path)}
    known = data | set(written_by(definition))
    items = PIPELINE["stages"][name].get("foreach", {"": {}}).values()
    of_items = [word for item in items for word in item.get("models", "").split()]
    words = [*definition["cmd"].split(), *of_items]
    given = words[words.index(str(stage_script(definition))) + 1 :]
    weights = {item.get("weights") for item in items}
    options = {word for word in given if not word.startswith(("--", "${item."))}
    for path in options - {"dvc.yaml"}:  # the drawing of the pipeline shows what stands there
        below = [other for other in known if other == path or other.startswith(f"{path}/")]
        assert below or path in weights, f"{name}: the command names {path}, which is not declared"
    for path in known - {"params.yaml", "${item.weights}", *PROOFS}:
        above = [other for other in options if other == path or path.startswith(f"{other}/")]
        assert above, f"{name}: {path} is declared, but the command does not name it"


def test_all_data_comes_from_a_stage() -> None:
    def pattern(path: str) -> str:
        return ".+".join(re.escape(part) for part in re.split(r"\$\{[\w.]+\}", path))

    written = [pattern(path) for definition in STAGES.values() for path in written_by(definition)]
    for name, definition in STAGES.items():
        for path in definition["deps"]:
            if is_source(path) or path == "params.yaml" or path.startswith("${"):
                continue
            if path == "labels":
                assert (ROOT / path / "README.md").is_file(), "git keeps no empty folder"
                continue
            if given := GIVEN.fullmatch(path):
                assert (ROOT / "models" / "source" / "train" / given[2]).is_file()
                continue
            made = any(re.fullmatch(f"{out}(/.+)?", path) for out in written)
            assert made, f"{name} reads {path}, which no stage writes"


def test_artifacts_and_plots_are_outputs() -> None:
    written = {path for definition in STAGES.values() for path in written_by(definition)}
    for artifact in PIPELINE["artifacts"].values():
        assert artifact["path"] in written
    for plot in PIPELINE["plots"]:
        for definition in plot.values():
            for path in definition["y"]:
                assert any(path == out or path.startswith(f"{out}/") for out in written), path


@pytest.mark.parametrize("groups", [("color", "material"), ("closure", "pattern")])
def test_plots_show_whatever_attribute_groups_there_are(
    groups: tuple[str, ...], tmp_path: Path
) -> None:
    plots = {
        name: definition["plots"] for name, definition in STAGES.items() if "plots" in definition
    }
    document = {
        "stages": {name: {"cmd": "true", "plots": written} for name, written in plots.items()},
        "plots": PIPELINE["plots"],
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(document))
    for path, columns in (
        *((f"confusion/{group}.csv", "image_id,truth,predicted") for group in groups),
        *((f"reliability/{group}.csv", "probability,accuracy,images") for group in groups),
        *((f"risk_coverage/{group}.csv", "coverage,risk,threshold") for group in groups),
        ("scores.csv", "captioner,metric,mean"),
    ):
        file = tmp_path / "metrics/plots" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{columns}\n1,2,3\n")
    write_curve(CaptionEpoch, [CaptionEpoch(1, *([0.5] * 7))], tmp_path / "metrics/curves/finetune")
    write_curve(TroikaEpoch, [], tmp_path / "metrics/curves/troika_train")  # nothing was trained
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    shown = subprocess.run(
        [*dvc, "plots", "show", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    result = json.loads(shown.stdout)
    assert result.get("errors", []) == []
    for group in groups:
        (chart,) = result["data"][f"metrics/plots/confusion/{group}.csv"]
        encoding = chart["content"]["spec"]["encoding"]
        assert (encoding["x"]["field"], encoding["y"]["field"]) == ("truth", "predicted")


def test_the_shipped_parameters_are_valid() -> None:
    read_all_params(ROOT / "params.yaml")


def unexplained(lines: list[str], group: Any, where: str = "", covered: bool = False) -> list[str]:
    """The keys without a comment on their line, above it, or at a group that holds them."""
    names = []
    for key, value in group.items():
        line = group.lc.key(key)[0]
        own = re.search(r"(^|\s)#", lines[line]) is not None
        above = line > 0 and lines[line - 1].lstrip().startswith("#")
        explained = covered or own or above
        if isinstance(value, dict) and value:
            names += unexplained(lines, value, f"{where}{key}.", explained)
        elif not explained:
            names.append(f"{where}{key}")
    return names


def test_every_parameter_is_explained() -> None:
    text = (ROOT / "params.yaml").read_text()
    missing = unexplained(text.splitlines(), YAML().load(text))
    assert not missing, f"params.yaml says nothing of {', '.join(missing)}"
