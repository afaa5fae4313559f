"""Parameters, pipeline and data of the project in a folder, by the functions of its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from compositional_prompts.diagnosis.finding import Finding, error, ok, warning
from compositional_prompts.files.outputs import OutputError
from compositional_prompts.pipeline.dvc_file import (
    DVC_FILE,
    PipelineError,
    load_index,
    stage_paths,
)
from compositional_prompts.pipeline.error_messages import message_of
from compositional_prompts.pipeline.section import ParameterError
from compositional_prompts.project.between_sections import doubts
from compositional_prompts.project.damage_naming import naming_damage
from compositional_prompts.project.data_checks import DataPaths, judge_data
from compositional_prompts.project.whole_params import Params, read_all_params


def examine_params(path: Path) -> tuple[Params | None, list[Finding]]:
    """The parameters, if they are valid, and what there is to say of them."""
    try:
        params = read_all_params(path)
    except ParameterError as failed:
        return None, [error(line) for line in str(failed).splitlines()]
    found = [warning(f"{path}: {doubt}") for doubt in doubts(dict(params))]
    return params, [ok(f"{path} is valid"), *found]


def examine_pipeline(root: Path) -> Iterator[Finding]:
    """``dvc.yaml``, the repository around it, and where results may be shared."""
    try:
        index = load_index(root / DVC_FILE)
    except PipelineError as failed:
        yield error(str(failed))
        return
    yield ok(f"{DVC_FILE} has {len(index.stages)} stages")
    yield from _repository(root)


def _repository(root: Path) -> Iterator[Finding]:
    from dvc.config import Config
    from dvc.exceptions import DvcException

    folders = [root.resolve(), *root.resolve().parents]
    if not any((folder / ".git").exists() for folder in folders):
        yield error(
            "this folder is in no git repository, which dvc asks for: clone the project, or run "
            "`git init`."
        )
    settings = next((folder / ".dvc" for folder in folders if (folder / ".dvc").is_dir()), None)
    if settings is None:
        yield error("there is no folder .dvc: clone the project, or run `dvc init`.")
        return
    try:
        remotes: Mapping[str, Mapping[str, str]] = Config(str(settings)).get("remote", {})
    except DvcException as failed:
        yield error(f"{settings / 'config'}: {' '.join(str(failed).split())}: correct it.")
        return
    if remotes:
        urls = ", ".join(f"{name} ({remote.get('url')})" for name, remote in remotes.items())
        yield ok(f"DVC shares results by {urls}")
    else:
        yield ok("no DVC remote; results stay here until `dvc remote add -d NAME URL`")


def examine_data(params: Params) -> Iterator[Finding]:
    """Labels, truth and splits against the parameters, where there are any yet."""
    try:
        paths = stage_paths()["check_data"]
        data = DataPaths(*(paths[name] for name in ("splits", "pairs", "truth", "catalog")))
    except (PipelineError, KeyError):
        return  # said of dvc.yaml already
    if not data.splits.exists():
        yield ok("no data yet: `dvc repro split` makes it")
        return
    try:
        with naming_damage([data.splits, data.pairs, data.truth]):
            found = judge_data(
                data,
                params.clip_embed,
                params.enhance,
                params.troika_train,
                params.troika_predict,
                params.finetune,
            )
    except OutputError as failed:
        yield error(message_of(failed))
        return
    yield from map(error, found.faults)
    yield from map(warning, found.doubts)
    if not found.faults:
        yield ok("the data has what the parameters need")
