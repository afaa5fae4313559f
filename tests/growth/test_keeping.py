"""Keeping models: what is set aside, of what it is said, and what DVC and the parameters are told.

The project is real to git and DVC; its models are files of a few bytes.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc_project import Project, ran
from growth.grown_catalogue import Photo, content_of, write_tables

from compositional_prompts import __main__ as command
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import read_table
from compositional_prompts.results.kept_models import (
    CONTENTS,
    CONTENTS_FILE,
    kept_model,
    read_origin,
)

STAGES = (
    *("download", "split", "weights", "troika_train", "troika_predict"),
    *("clip_embed", "enhance", "finetune", "summary"),
)
PHOTOS = [
    Photo("one", probability=0.8),
    Photo("two", "Suede", "Sandals", split="val", probability=0.6, color="blue", lead=0.25),
    Photo("three", "Canvas", "Sandals", split="test", probability=0.5, color=None),
]
KEEP = Path("models/source/keep")


@pytest.fixture(scope="module")
def template(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose stages have run, as far as git and DVC can tell."""
    root = tmp_path_factory.mktemp("kept") / "project"
    shutil.copytree(
        project_root / "models/source",
        root / "models/source",
        ignore=shutil.ignore_patterns("keep"),
    )
    for name in ("params.yaml", ".gitignore", "models/.gitignore"):
        shutil.copy(project_root / name, root / name)
    stages = yaml.safe_load((project_root / "dvc.yaml").read_text())["stages"]
    chosen = {name: stages[name] for name in STAGES}
    written = {path for stage in chosen.values() for path in _written(stage)}
    for stage in chosen.values():
        stage["deps"] = [
            path
            for path in stage["deps"]
            if path.startswith("models/source") or any(_within(path, out) for out in written)
        ]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": chosen}))
    write_tables(root, PHOTOS)
    files = {
        "models/troika/config.json": "{}",
        "models/blip2_lora/adapter_config.json": "{}",
        "models/blip2_lora/last/adapter_config.json": "{}",
        "models/blip2/config.json": "{}",
    }
    for path in written:
        if (root / path).exists() or any(name.startswith(f"{path}/") for name in files):
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("{}")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    write_metrics({"mode": "train", "train_images": 1, "epochs": 3}, root / "metrics/finetune.json")
    write_metrics({"mode": "train", "trained": True}, root / "metrics/troika_train.json")
    summary = {"pairs": {"auc": 0.5}, "captions": {"bleu": 0.75}, "words": {"color": 0.25}}
    write_metrics(summary, root / "metrics/summary.json")
    project = Project(root, root.parent / "home")
    project.git("init", "--quiet", "--initial-branch", "main")
    project.dvc("init", "--quiet")
    project.dvc("commit", "--force", "--quiet")
    project.commit("The first run")
    return project


def _written(stage: dict[str, Any]) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [path for entry in entries for path in (entry if isinstance(entry, dict) else [entry])]


def _within(path: str, out: str) -> bool:
    return path == out or path.startswith(f"{out}/")


@pytest.fixture
def project(template: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = tmp_path / "project"
    shutil.copytree(template.root, root, symlinks=True)
    monkeypatch.chdir(root)
    for name, value in template.environment().items():
        if name.startswith(("DVC_", "GIT_")):
            monkeypatch.setenv(name, value)
    return Project(root, template.home)


def keep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The command; its exit status and what it said."""
    monkeypatch.setattr(sys, "argv", ["compositional-prompts", "keep"])
    with pytest.raises(SystemExit) as exit_:
        command.main()
    said = capsys.readouterr()
    return int(exit_.value.code or 0), said.out + said.err


def test_models_are_kept_with_what_they_come_from(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = (project.root / "dvc.lock").read_text()
    commit = project.git("rev-parse", "HEAD").strip()
    before = (project.root / "params.yaml").read_text()
    status, said = keep(monkeypatch, capsys)
    assert status == 0, said
    assert "captioner: learnt from 1 of 3 photos, commit " + commit[:10] in said

    folder, origin = kept_model(KEEP / "captioner", "finetune")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")} == {
        "adapter_config.json",
        "last/adapter_config.json",
    }
    outs = project.cached_outputs()
    assert (origin.commit, origin.images, origin.train_images) == (commit, 3, 1)
    assert origin.inputs["data/catalog"] == outs["data/catalog"]
    assert origin.inputs["data/prompts/enhanced.parquet"] == outs["data/prompts/enhanced.parquet"]
    assert origin.params["learning_rate"] == 0.006
    assert origin.training == {"train_images": 1, "epochs": 3}
    assert origin.measured == {"captions": {"bleu": 0.75}}
    assert origin.pairs == ["Canvas_Boots", "Canvas_Sandals", "Suede_Sandals"]
    assert origin.words == {"color": ["red", "blue"]}
    assert origin.unsure_below == {"color": 0.25}  # of those held out; the third has no word
    contents = read_table(KEEP / "captioner" / CONTENTS_FILE, CONTENTS).to_pylist()
    assert contents == [
        {"content": content, "trained": content == content_of("one")}
        for content in sorted(content_of(photo.name) for photo in PHOTOS)
    ]
    troika = read_origin(KEEP / "troika")
    assert troika is not None
    assert (troika.measured, troika.words, troika.base) == ({"pairs": {"auc": 0.5}}, {}, None)
    assert troika.unsure_below["pair"] == pytest.approx(0.51)  # a tenth of the way to 0.6

    # Comments stay, and nothing but the two modes is another.
    after = (project.root / "params.yaml").read_text()
    changed = re.sub(r"(?m)^  mode: train ", "  mode: keep  ", before)
    assert after.split() == changed.split()
    assert len(after.splitlines()) == len(before.splitlines())
    # DVC has the folder, and git its name alone.
    assert (project.root / "dvc.lock").read_text() == lock
    assert (project.root / f"{KEEP}.dvc").is_file()
    assert not project.git("status", "--porcelain", "--", str(KEEP)).strip()
    # The two stages are to run, with new dependencies; none before them, and none after them is
    # known to: what they write is what they wrote.
    would = project.dvc("repro", "--dry", "--single-item", "troika_predict", "enhance", "summary")
    assert ran(would) == []
    assert ran(project.dvc("repro", "--dry", "-s", "troika_train", "finetune")) == [
        "troika_train",
        "finetune",
    ]


def test_a_kept_model_keeps_its_origin(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Troika stays the first one, and the adapter is trained once more."""
    status, said = keep(monkeypatch, capsys)
    assert status == 0, said
    first = read_origin(KEEP / "troika")
    project.change({"finetune.mode": "train"})
    (project.root / "models/blip2_lora/adapter_config.json").write_text('{"second": true}')
    write_tables(project.root, [*PHOTOS, Photo("four")])
    project.dvc("commit", "--force", "--quiet")
    status, said = keep(monkeypatch, capsys)
    assert status == 0, said
    assert "kept as it was" in said
    assert read_origin(KEEP / "troika") == first
    second = read_origin(KEEP / "captioner")
    assert second is not None
    assert (second.images, second.commit) == (4, None)  # not committed yet
    assert len(read_table(KEEP / "troika" / CONTENTS_FILE, CONTENTS)) == 3
    assert (KEEP / "captioner/model/adapter_config.json").read_text() == '{"second": true}'

    # Both are kept ones now.
    project.dvc("commit", "--force", "--quiet")
    status, said = keep(monkeypatch, capsys)
    assert status == 2
    assert "are kept models already" in said and "to train" in said


def test_what_is_not_as_it_was_trained_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (project.root / "params.yaml").read_text()
    adapter = project.root / "models/blip2_lora/adapter_config.json"
    adapter.write_text('{"by": "hand"}')
    status, said = keep(monkeypatch, capsys)
    assert status == 2
    assert "models/blip2_lora is not as dvc.lock has it." in said
    adapter.write_text("{}")

    # Captions of other prompts than the adapter learnt: enhance ran again, finetune did not.
    write_tables(project.root, [*PHOTOS[:2], PHOTOS[2]._replace(color="red")])
    project.dvc("commit", "--force", "--quiet", "enhance")
    status, said = keep(monkeypatch, capsys)
    assert status == 2
    assert "models/blip2_lora was made from another data/prompts/enhanced.parquet" in said

    shutil.rmtree(project.root / "models/troika")
    status, said = keep(monkeypatch, capsys)
    assert status == 2
    assert "models/troika is missing. Run `dvc repro troika_train`" in said
    assert not KEEP.exists()
    assert (project.root / "params.yaml").read_text() == before


def test_a_failure_leaves_what_was_kept_before(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = keep(monkeypatch, capsys)
    assert status == 0, said
    files = {path: path.read_bytes() for path in KEEP.rglob("*") if path.is_file()}
    project.change({"finetune.mode": "train", "troika_train.mode": "train"})

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("compositional_prompts.growth.keeping.write_table", full_disk)
    status, said = keep(monkeypatch, capsys)
    assert status == 2
    assert "disk" in said or "space" in said
    assert {path: path.read_bytes() for path in KEEP.rglob("*") if path.is_file()} == files
    assert [path.name for path in KEEP.parent.iterdir() if path.name.startswith(".keep.")] == []


def test_outside_of_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, said = keep(monkeypatch, capsys)
    assert status == 2
    assert "params.yaml is missing: run from the root of the project." in said
    assert "Traceback" not in said
