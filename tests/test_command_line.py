"""The command as a process: usage, and what starts without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compositional_prompts import __version__
from compositional_prompts.__main__ import main

ROOT = Path(__file__).parents[1]


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return python("-m", "compositional_prompts", *arguments, cwd=cwd)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    heavy = ["torch", "transformers", "peft", "open_clip", "torchvision"]
    script = (
        "import sys, compositional_prompts.__main__ as m; m._parser(); "
        "import compositional_prompts.compute.torch_files; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert python("-c", script).stdout == "[]\n"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["compositional-prompts", "--version"])
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"compositional-prompts {__version__}\n"


def test_help_names_all_commands_and_their_options() -> None:
    overview = command("--help")
    assert overview.returncode == 0
    commands = ("caption", "doctor", "export", "preset", "rows", "share", "sync-deps", "timing")
    for name in commands:
        assert name in overview.stdout
    caption = command("caption", "--help").stdout
    for option in ("--json", "--untrained", "--enhanced", "--scores", "--adapter", "--grammar"):
        assert option in caption
    assert "Exit status" in caption


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "required"),
        (["caption"], "PHOTO"),
        (["caption", "-"], "standard input is not read"),
        (["caption", "a.jpg", "--batch-size", "0"], "whole number of at least 1"),
        (["caption", "a.jpg", "--precision", "float8"], "invalid choice"),
        (["export"], "OUT"),
    ],
)
def test_usage_errors(
    arguments: list[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["compositional-prompts", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    assert "usage:" in captured.err
    assert named in captured.err


def test_elsewhere_than_in_a_project(tmp_path: Path) -> None:
    done = command("caption", "a.jpg", cwd=tmp_path)
    assert done.returncode == 2
    assert "params.yaml is missing: run from the root of the project" in done.stderr
    assert "Traceback" not in done.stderr


def test_output_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    script = (
        "import sys; from compositional_prompts import __main__ as m; "
        "records = ({'path': str(n), 'caption': 'c' * 1000} for n in range(1000)); "
        "m._caption = lambda _: m._print_records(records, 'caption', True); "
        "sys.argv = ['compositional-prompts', 'caption', 'a.jpg']; m.main()"
    )
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -c "$1" | head -n 1', sys.executable, script],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("0\tccc")
    assert done.stderr == ""
    assert done.returncode == 1
