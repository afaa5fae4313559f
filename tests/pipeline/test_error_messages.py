"""Errors as people read them: the message, and the command that makes again what it names."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from compositional_prompts.files.outputs import (
    DamagedOutputError,
    MismatchedOutputsError,
    MissingOutputError,
    require_outputs,
)
from compositional_prompts.files.table_shards import shard_files
from compositional_prompts.files.tables import SchemaError
from compositional_prompts.pipeline.error_messages import is_explained, message_of, run_script

DVC_YAML = """
stages:
  split:
    cmd: python stages/split.py
    outs: [data/splits.parquet, data/pairs.parquet]
    metrics: [{metrics/split.json: {cache: false}}]
  infer:
    foreach: {base: '', finetuned: --adapter lora}
    do:
      cmd: ${launcher} stages/infer.py ${item}
      outs: ['data/captions/${key}.parquet']
  train:
    cmd: python stages/train.py
    deps: [data/splits.parquet]
    outs: [models/troika]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "params.yaml").write_text("launcher: python\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (
            MissingOutputError("It is missing.", Path("data/pairs.parquet")),
            "Run `dvc repro split` or `dvc pull data/pairs.parquet`.",
        ),
        (MissingOutputError("No metric.", Path("metrics/split.json")), "Run `dvc repro split`."),
        (
            MissingOutputError("No weights.", Path("models/troika/deep/weights.safetensors")),
            "Run `dvc repro train` or `dvc pull models/troika`.",
        ),
        (
            MissingOutputError("None.", Path("data/captions/base.parquet"), Path("models/troika")),
            "Run `dvc repro infer@base train` or `dvc pull data/captions/base.parquet "
            "models/troika`.",
        ),
        (
            DamagedOutputError("Cut short.", Path("data/splits.parquet")),
            "Run `dvc repro -f -s split`.",
        ),
        (
            MismatchedOutputsError("Strangers.", Path("data/captions")),
            "Run `dvc repro infer@base infer@finetuned`.",
        ),
        (SchemaError("No column.", Path("data/pairs.parquet")), "Run `dvc repro split`."),
    ],
)  # fmt: skip
def test_the_stage_that_writes_a_path_is_named(error: Exception, hint: str, project: Path) -> None:
    assert message_of(error) == f"{error} {hint}"


def test_a_whole_path_is_found_too(project: Path) -> None:
    with pytest.raises(MissingOutputError) as raised:
        require_outputs(project / "models" / "troika" / "config.json")
    assert message_of(raised.value).endswith("Run `dvc repro train` or `dvc pull models/troika`.")


@pytest.mark.parametrize("text", ["stages: {", "stages: {split: {}}", None])
def test_without_a_pipeline_the_message_stands_alone(text: str | None, project: Path) -> None:
    if text is None:
        (project / "dvc.yaml").unlink()
    else:
        (project / "dvc.yaml").write_text(text)
    assert message_of(MissingOutputError("Gone.", Path("data/pairs.parquet"))) == "Gone."


def test_a_file_of_the_users_has_no_stage(project: Path) -> None:
    assert message_of(SchemaError("No column.", Path("photos/labels.parquet"))) == "No column."
    assert message_of(ValueError("Too many.")) == "Too many."


def test_a_message_comes_without_the_quotes_of_a_key() -> None:
    assert message_of(KeyError("the image 'a' is\nunknown")) == "the image 'a' is\nunknown"


def raised_by(act: Callable[[], Any]) -> Exception:
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_what_this_package_raises_is_explained_and_bugs_are_not(tmp_path: Path) -> None:
    assert is_explained(raised_by(lambda: shard_files(tmp_path)))
    assert is_explained(raised_by(lambda: (tmp_path / "a").read_text()))
    for bug in (
        lambda: {}["a"],
        lambda: np.zeros(2) + np.zeros(3),
        lambda: int("x"),
        lambda: require_outputs(0),  # type: ignore[arg-type]
    ):
        assert not is_explained(raised_by(bug))


def test_a_script_ends_with_the_message(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])
    monkeypatch.delenv("COMPOSITIONAL_PROMPTS_TRACEBACK", raising=False)

    def main() -> None:
        require_outputs(Path("data/pairs.parquet"))

    with pytest.raises(SystemExit) as left:
        run_script(main)
    assert left.value.code == (
        "train: data/pairs.parquet is missing. "
        "Run `dvc repro split` or `dvc pull data/pairs.parquet`."
    )
    monkeypatch.setenv("COMPOSITIONAL_PROMPTS_TRACEBACK", "1")
    with pytest.raises(MissingOutputError):
        run_script(main)


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    program = (
        "from compositional_prompts.pipeline.error_messages import run_script\n"
        "run_script(lambda: [][0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "IndexError" in done.stderr


def ended(main: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """What a script with these arguments leaves to its caller."""
    monkeypatch.setattr(sys, "argv", ["stages/train.py", *arguments])
    monkeypatch.delenv("COMPOSITIONAL_PROMPTS_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as left:
        run_script(main)
    return left.value.code


def fails(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def test_a_damaged_input_is_named_whatever_library_met_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project / "data" / "splits.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1 and no more")
    given = ("--other=nowhere", "--splits", "data/splits.parquet")
    told = ended(lambda: pq.read_table(path), monkeypatch, *given)
    assert told.startswith("train: data/splits.parquet is damaged (")
    assert told.endswith("Run `dvc repro -f -s split`.")
    assert "\n" not in told


def test_a_library_in_rust_that_panics_on_a_damaged_input_is_no_traceback(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polars panics where one bit of a page's header has flipped; to Python that is no error."""
    path = project / "data" / "splits.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1 and no more")
    panic = pl.exceptions.PanicException("called `Result::unwrap()` on an `Err` value")
    assert not isinstance(panic, Exception)
    told = ended(fails(panic), monkeypatch, "--splits", "data/splits.parquet")
    assert told.startswith("train: data/splits.parquet is damaged (")


def test_an_interruption_is_no_error(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(fails(KeyboardInterrupt()), monkeypatch) == 130
    assert capsys.readouterr().err == "train: interrupted\n"


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "lower the batch_size"),
        (MemoryError(), "memory ran out (MemoryError): lower"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), "lower the batch"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.ENOSPC, "No space left on device", "data/x"), "the disk is full"),
    ],
)
def test_memory_and_disk_that_run_out_are_told_with_what_helps(
    error: Exception, said: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ended(fails(error), monkeypatch)
    assert told.startswith("train: ") and said in told and "\n" not in told


def test_a_full_disk_explains_what_a_library_says_of_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    told = ended(fails(RuntimeError("unexpected pos 64 vs 0")), monkeypatch)
    assert told.startswith("train: the disk is full (unexpected pos 64 vs 0)")
