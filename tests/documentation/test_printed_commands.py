"""Every command that README and documents print is run, or named with what runs it, and parsed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import dvc.utils.serialize._yaml as dvc_yaml
import pytest
from accepted_commands import PARSERS, NotAcceptedError, check_accepted
from dvc.cli import main as dvc
from dvc_project import Project
from printed_commands import (
    COMMANDS,
    EXAMPLES,
    ROOT,
    Command,
    all_blocks,
    all_commands,
    commands,
)
from stand_in_project import make_stand_in

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")

RUN = {
    "cp params.yaml presets/sample.yaml",
    "dvc checkout",
    "dvc commit",
    "dvc dag --mermaid",
    "dvc exp run --queue -S finetune.lora.r=4,8,16",
    "dvc exp run -S finetune.lora.r=8",
    "dvc exp list --name-only",
    "dvc exp show",
    "dvc exp show --only-changed --drop "
    "'Created|says|.*_(free|worst)|data|models|metrics|params.yaml'",
    "dvc gc --all-commits --all-experiments --dry",
    "dvc gc --workspace --dry",
    "dvc metrics diff",
    "dvc metrics show metrics/curves/finetune/metrics.json",
    "dvc plots show Losses Troika",
    "dvc metrics diff --targets metrics/scores.json",
    "dvc metrics diff --targets metrics/scores.json metrics/troika.json",
    "dvc params diff",
    "dvc plots diff",
    "dvc pull reports/index.html",
    "dvc pull weights split troika_train finetune recommend",
    "dvc push --run-cache",
    "dvc queue status",
    "dvc remote add --local storage s3://bucket/compositional-prompts",
    "dvc remote add -d public https://example.org/compositional-prompts",
    "dvc remote add -d storage URL",
    "dvc remote add -d storage s3://bucket/compositional-prompts",
    "dvc repro",
    "dvc repro --dry --allow-missing",
    "dvc repro --pull",
    "dvc repro -f download",
    "dvc repro -s enhance",
    "dvc repro finetune",
    "dvc repro troika_predict",
    "dvc stage list",
    "dvc status",
    "git add .dvc/config",
    "git commit -m 'Keep results in the team'\"'\"'s storage'",
    "git push",
}
"""Run here, in the order of their document, on stages that only write small files."""

ELSEWHERE = {
    "compositional-prompts checksums photos": (
        "tests/datasets/test_checksums.py::"
        "test_what_is_written_is_read_and_is_what_sha256sum_checks"
    ),
    "compositional-prompts compare main": (
        "tests/reporting/test_comparison.py::test_the_command_writes_the_page"
    ),
    "compositional-prompts compare main my-experiment --page compare.html": (
        "tests/reporting/test_comparison.py::test_the_command_writes_the_page"
    ),
    "compositional-prompts spread one-name another-name": (
        "tests/reporting/test_comparison.py::test_figures_of_runs_spread"
    ),
    "compositional-prompts --version": "tests/test_command_line.py::test_the_version_is_told",
    "compositional-prompts caption photos/ --json": (
        "tests/deployment/test_caption_command.py::"
        "test_a_folder_is_captioned_as_by_plain_transformers"
    ),
    "compositional-prompts caption photos/ --readable": (
        "tests/deployment/test_caption_command.py::test_captions_that_are_recommended_are_printed"
    ),
    "compositional-prompts caption photos/ --untrained --enhanced --scores": (
        "tests/deployment/test_caption_command.py::test_what_is_asked_for_stands_below_the_caption"
    ),
    "compositional-prompts caption shoe.jpg": (
        "tests/deployment/test_caption_command.py::test_a_single_file_gives_its_caption_alone"
    ),
    "compositional-prompts doctor": (
        "tests/diagnosis/test_doctor.py::test_a_sound_project_ends_with_0"
    ),
    "compositional-prompts export shoes --merged": (
        "tests/deployment/test_export.py::test_the_cards_code_gives_our_captions"
    ),
    "compositional-prompts export shoes-lora": (
        "tests/deployment/test_export.py::test_the_cards_code_gives_our_captions"
    ),
    "compositional-prompts export shoes --merged --push shop/shoes-blip2 --revision candidates": (
        "tests/deployment/test_hub_push.py::test_adapter_and_model_are_pushed"
    ),
    "compositional-prompts export shoes-lora --push shop/shoes-lora --message Autumn": (
        "tests/deployment/test_hub_push.py::test_adapter_and_model_are_pushed"
    ),
    "compositional-prompts export-data for-the-shop --form csv --min-confidence 0.8 "
    "--only-new last-delivery": (
        "tests/deployment/test_data_export.py::test_only_what_an_earlier_export_did_not_have"
    ),
    "compositional-prompts export-data shoes --form hub": (
        "tests/deployment/test_data_export.py::test_every_form_gives_the_rows_back"
    ),
    "compositional-prompts export-data shoes --form hub --push shop/shoes": (
        "tests/deployment/test_hub_push.py::test_a_data_set_is_pushed_whole_and_private"
    ),
    "compositional-prompts export-data training --form webdataset --split train "
    "--captions enhanced": (
        "tests/deployment/test_data_export.py::test_every_form_gives_the_rows_back"
    ),
    "compositional-prompts keep": (
        "tests/growth/test_keeping.py::test_models_are_kept_with_what_they_come_from"
    ),
    "compositional-prompts label color --photos 200": (
        "tests/labelling/test_label_round.py::"
        "test_training_photos_are_asked_for_and_what_was_answered_is_not"
    ),
    "compositional-prompts label color --photos 200 --for measuring": (
        "tests/labelling/test_label_round.py::"
        "test_photos_to_measure_by_are_drawn_at_random_without_suggestions"
    ),
    "compositional-prompts preset": (
        "tests/project/test_presets.py::test_the_command_lists_lays_and_refuses"
    ),
    "compositional-prompts preset footwear": (
        "tests/project/test_presets.py::test_the_command_lists_lays_and_refuses"
    ),
    "compositional-prompts preset sample": (
        "tests/project/test_presets.py::test_the_command_lists_lays_and_refuses"
    ),
    "compositional-prompts rows": (
        "tests/project/test_kept_rows.py::test_what_is_kept_is_shown_with_what_decides_it"
    ),
    "compositional-prompts rows prune": ("tests/project/test_kept_rows.py::test_a_part_is_removed"),
    "compositional-prompts rows prune --all": (
        "tests/project/test_kept_rows.py::test_a_part_is_removed"
    ),
    "compositional-prompts rows prune --computation clip_vector": (
        "tests/project/test_kept_rows.py::test_a_part_is_removed"
    ),
    "compositional-prompts rows prune --to 5": (
        "tests/project/test_kept_rows.py::test_a_part_is_removed"
    ),
    "compositional-prompts rows verify": (
        "tests/project/test_kept_rows.py::test_damage_is_named_once"
    ),
    "compositional-prompts share pull": (
        "tests/project/test_run_sharing.py::test_a_read_only_web_address_is_enough"
    ),
    "compositional-prompts share pull --all": (
        "tests/project/test_run_sharing.py::test_everything_can_be_fetched_before_the_network_goes"
    ),
    "compositional-prompts share push": (
        "tests/project/test_run_sharing.py::test_nothing_is_computed_twice"
    ),
    "compositional-prompts share push -r storage": (
        "tests/project/test_run_sharing.py::test_a_read_only_web_address_is_enough"
    ),
    "compositional-prompts share verify": (
        "tests/project/test_run_sharing.py::test_a_damaged_remote_is_told_and_repaired"
    ),
    "compositional-prompts sync-deps": (
        "tests/project/test_dvc_yaml.py::test_synchronising_changes_nothing"
    ),
    "compositional-prompts timing": (
        "tests/project/test_timing_table.py::test_it_shows_what_a_stage_measured"
    ),
    "dvc exp apply strict": (
        "tests/project/test_experiments.py::test_parameters_of_every_kind_and_apply_branch_remove"
    ),
    "dvc exp branch strict strict-threshold": (
        "tests/project/test_experiments.py::test_parameters_of_every_kind_and_apply_branch_remove"
    ),
    "dvc exp remove strict": (
        "tests/project/test_experiments.py::test_parameters_of_every_kind_and_apply_branch_remove"
    ),
    "dvc exp run -S enhance.threshold=0.25 -n strict": (
        "tests/project/test_experiments.py::test_parameters_of_every_kind_and_apply_branch_remove"
    ),
    "dvc exp run --temp -S finetune.lora.r=4": (
        "tests/project/test_experiments.py::test_a_grid_and_a_run_in_a_copy"
    ),
    "dvc exp run --queue -S troika_train.seed=1,2,3,4,5": (
        "tests/project/test_experiments.py::test_a_grid_and_a_run_in_a_copy"
    ),
    "dvc exp run --run-all": (
        "tests/project/test_experiments.py::test_queued_experiments_run_their_own_revisions_code"
    ),
    "dvc exp run --run-all --jobs 2": (
        "tests/project/test_experiments.py::test_queued_experiments_run_their_own_revisions_code"
    ),
    "dvc exp run --queue -S finetune.lora.r=4,8,16 -S finetune.learning_rate=0.002,0.005": (
        "tests/project/test_experiments.py::test_a_grid_and_a_run_in_a_copy"
    ),
}
"""Run by another test: which one."""

ONLY_PARSED = {
    "git checkout dvc.lock": "takes the place of one that was torn",
    "dvc remote modify storage verify true": "needs a remote of this name",
    ".venv/bin/pip install -c constraints.txt -e '.[quantization]'": "downloads packages",
    ".venv/bin/pip install -c constraints.txt -e '.[ray]'": "downloads packages",
    ".venv/bin/pip install uv": "downloads packages",
    ".venv/bin/uv pip install --python .venv --torch-backend cpu -c constraints.txt torch "
    "torchvision": "downloads packages",
    "accelerate config": "asks its questions at a terminal",
    "cp val_best.pt models/source/reference/troika": "copies a checkpoint that only its user has",
    "dvc add models/source/reference/troika": "shares a checkpoint that only its user has",
    "dvc pull models/source/keep": "fetches models that only a project that kept some has",
    "dvc push models/source/keep": "pushes models that only a project that kept some has",
    "git add models/source/keep.dvc params.yaml dvc.lock metrics/summary.json": "adds them",
    "dvc exp run --queue -C photos": "an ending that a user adds to a command",
    "dvc gc -w": "asks before it deletes",
    "dvc queue start --jobs 2": "leaves workers running; --run-all beside it is run",
    "dvc queue start": "leaves workers running",
    "dvc queue start -j 2": "leaves workers running",
    "git checkout --theirs dvc.lock metrics/summary.json": "wants a merge with conflicts",
    "git add dvc.lock metrics/summary.json": "ends a merge with conflicts",
    "git commit": "opens an editor",
    "hf download ashraq/fashion-product-images-small --repo-type dataset": "downloads photographs",
    "make bench": "takes a quarter of an hour",
    "make chaos": "takes an hour; tests/chaos/test_campaign.py runs a part of it",
    "make chaos MINUTES=5 SEED=1234": "takes five minutes",
    "make clean": "removes the environment",
    "make help": "its texts are read by nobody but people",
    "make install": "makes an environment of gigabytes",
    "make lint": "is what CI runs beside the tests",
    "make repro": "makes an environment, then what tests/end_to_end runs",
    "make test": "runs this test",
    "pip install dvc-s3": "downloads packages",
    "hf auth login": "wants an account of the hub",
    "pip install pre-commit": "downloads packages",
    "pre-commit install": "is a program of its own, which a contributor may have",
    "pytest -m 'not end_to_end'": "runs this test",
    "pytest tests/enhancement": "is a part of the tests",
    "python tests/chaos/campaign.py --seed 1234 --trial 56": "is a part of make chaos",
    "python tests/chaos/kill_series.py": "takes minutes; test_campaign.py runs a part of it",
    "python3 -m venv .venv": "makes an environment",
    "ray start --address=HEAD:6379 --disable-usage-stats": "wants a second machine",
    "ray start --head --port=6379 --disable-usage-stats": "leaves a cluster running",
    "ray status": "wants a cluster",
    "ray stop": "ends every Ray of the machine",
    "source .venv/bin/activate": "is for a shell at a terminal",
} | dict.fromkeys(
    (
        "python benchmarks/blip2_full_size.py",
        "python benchmarks/checks.py",
        "python benchmarks/caption.py --project . --threads 1",
        "python benchmarks/calibration.py PROJECT --group color --precision 0.9 --draws 200",
        "python benchmarks/cold_run.py",
        "python benchmarks/cold_run.py --seeds 1 2 7",
        "python benchmarks/data_export.py",
        "python benchmarks/decoding_memory.py",
        "python benchmarks/engines.py",
        "python benchmarks/evaluation.py",
        "python benchmarks/feature_store.py",
        "python benchmarks/finetune.py --blip2 models/blip2 --images 400 --epochs 6 --repeats 1 "
        "--threads 1 --clock processor",
        "python benchmarks/finetune.py --rows 1000 10000 100000 --batch 64 --repeats 2",
        "python benchmarks/growth.py",
        "python benchmarks/growth.py --steps 2400 24000:anew 24240",
        "python benchmarks/intervals.py",
        "python benchmarks/labelling.py",
        "python benchmarks/report_page.py",
        "python benchmarks/scale.py",
        "python benchmarks/scale.py --rows 1000 10000 100000 1000000",
        "python benchmarks/row_store.py",
        "python benchmarks/troika_predict.py",
        "python benchmarks/troika_train.py",
        "python benchmarks/words.py PROJECT --group color --labels 200 --seeds 3",
        "python benchmarks/words_to_captions.py PROJECT --group color",
        "python benchmarks/forms.py PHOTOGRAPHS --run RUN --photos 300",
    ),
    "measures for minutes",
)
"""Not run by any test: why. Where :data:`PARSERS` has the program, its arguments are checked."""

PRINTED = all_commands()


def mentions_only(command: Command) -> bool:
    """Running text that names a command, such as `dvc metrics`, and does not run it."""
    words = command.words
    if command.in_block or command.program not in PARSERS or words[-1].startswith("-"):
        return False
    group = words[1] in ("exp", "metrics", "plots", "queue", "remote")
    if len(words) in (2, 2 + group) or words[-1].isupper():
        try:
            check_accepted(command.program, [*words[1:], "--help"])
        except NotAcceptedError:
            return False
        return command.text not in {*RUN, *ELSEWHERE, *ONLY_PARSED}
    return False


def test_every_command_is_covered_once() -> None:
    tables = {"RUN": RUN, "ELSEWHERE": ELSEWHERE, "ONLY_PARSED": ONLY_PARSED}
    wrong = {
        f"{command.place}: {command.text}": within
        for command in PRINTED
        if not mentions_only(command)
        and len(within := [name for name, table in tables.items() if command.text in table]) != 1
    }
    assert wrong == {}, "each command belongs into one table"


def test_what_is_covered_is_printed() -> None:
    printed = {command.text for command in PRINTED}
    assert [text for text in (*RUN, *ELSEWHERE, *ONLY_PARSED) if text not in printed] == []


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_the_test_that_runs_a_command_exists(test: str) -> None:
    path, name = test.split("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text()


def parsed() -> list[str]:
    found = [command for command in PRINTED if command.program in PARSERS]
    return sorted({command.text for command in found if not mentions_only(command)})


@pytest.mark.parametrize("text", parsed())
def test_its_program_takes_a_command(text: str) -> None:
    command = next(command for command in PRINTED if command.text == text)
    check_accepted(command.program, command.words[1:])


@pytest.mark.parametrize(
    "command",
    [
        "accelerate nothing",
        "compositional-prompts caption",
        "compositional-prompts export a --nothing",
        "dvc repro --nothing",
        "hf download a/b --nothing",
        "make nothing",
        "pip install --nothing torch",
        "pytest tests/nothing",
        "pytest --nothing",
        "python benchmarks/finetune.py --nothing",
        "ray start --nothing",
        "python3 -m venv --nothing .venv",
    ],
)
def test_a_program_refuses_what_it_does_not_know(command: str) -> None:
    program, *arguments = command.split()
    with pytest.raises(NotAcceptedError):
        check_accepted(program, arguments)


def test_a_block_says_what_it_is() -> None:
    for block in all_blocks():
        assert block.language in (*COMMANDS, *EXAMPLES), f"{block.document}:{block.line}"


def test_commands_are_found_wherever_they_stand() -> None:
    text = (
        "Do `dvc status\n-q`, then see `infer`:\n```\nA=1 python benchmarks/caption.py \\\n"
        "    --threads 1   # why\ngit add x && git commit -m 'a b' > log\n```\n"
        "1. or\n   ```sh\n   dvc pull | head\n   ```\n```text\ndvc is no command here\n```\n"
    )
    found = [(one.line, one.text, one.in_block, one.to_file) for one in commands("x.md", text)]
    assert found == [
        (1, "dvc status -q", False, False),
        (5, "python benchmarks/caption.py --threads 1", True, False),
        (6, "git add x", True, False),
        (6, "git commit -m 'a b'", True, True),
        (10, "dvc pull", True, False),
        (10, "head", True, False),
    ]


@dataclass(frozen=True)
class StandIn:
    """The project of stand-ins after a run, as its first user left it."""

    project: Project
    storage: Path
    start: str

    def reset(self) -> None:
        """Undo what a document's commands did."""
        self.project.git("checkout", "--quiet", "--force", "-B", "main", self.start)
        (self.project.root / ".dvc" / "config.local").unlink(missing_ok=True)
        shutil.rmtree(self.storage, ignore_errors=True)

    def run(self, command: Command) -> None:
        """Run it where it is printed for; its address of a remote is a folder here."""
        words = [
            str(self.storage) if word == "URL" or word.startswith("s3://") else word
            for word in command.words
        ]
        if command.program == "dvc":
            assert dvc(words[1:]) == 0
        else:
            self.project.run(*words)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    folder = tmp_path_factory.mktemp("printed")
    project = make_stand_in(folder / "project", folder / "home")
    project.git("init", "--quiet", "--bare", str(folder / "origin"))
    project.git("remote", "add", "origin", str(folder / "origin"))
    with pytest.MonkeyPatch.context() as patch:
        # DVC in this process: a start of its own takes a second.
        patch.chdir(project.root)
        for name in set(os.environ) - set(project.environment()):
            patch.delenv(name)
        for name, value in project.environment().items():
            patch.setenv(name, value)
        # It parses params.yaml hundreds of times, half of a run.
        patch.setattr(dvc_yaml, "parse_yaml", parsed_once(dvc_yaml.parse_yaml))
        assert dvc(["repro", "--quiet"]) == 0
        project.commit("Results")
        project.git("push", "--quiet", "--set-upstream", "origin", "main")
        yield StandIn(project, folder / "storage", project.git("rev-parse", "HEAD").strip())


def parsed_once(parse: Any) -> Any:
    kept = cache(parse)
    return lambda text, path, typ="safe": deepcopy(kept(text, path, typ))


def sessions() -> dict[str, list[Command]]:
    """By document: its commands in its order, each where it is first printed."""
    first: dict[str, Command] = {}
    for command in PRINTED:
        if command.text in RUN:
            first.setdefault(command.text, command)
    found: dict[str, list[Command]] = {}
    for command in first.values():
        found.setdefault(command.document, []).append(command)
    return found


@pytest.mark.parametrize("session", sessions().values(), ids=list(sessions()))
def test_a_document_s_commands_run_in_its_order(session: list[Command], stand_in: StandIn) -> None:
    stand_in.reset()
    for command in session:
        try:
            stand_in.run(command)
        except AssertionError as error:
            raise AssertionError(f"{command.place}: {command.text} fails") from error
