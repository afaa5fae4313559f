"""The campaign's judges find what they are for, and a short fixed part of it holds."""

from __future__ import annotations

import math
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from chaos.kill_series import Series, judge
from chaos.mutations import KINDS, Harm, harmed, random_harms, smallest
from chaos.odd_parameters import LEFT_OUT, ODD, parameters, values
from chaos.parameter_trials import OF_SECTION
from chaos.small_project import stage_commands
from chaos.stage_process import Blow, Ended, become_reaper, run_stage
from chaos.trials import unlike_a_message
from hypothesis import find
from running_processes import ends

from compositional_prompts.project.whole_params import Params

ROOT = Path(__file__).parents[2]


def run(folder: Path, text: str, **settings: object) -> Ended:
    """A script's end, as the campaign sees it."""
    script = folder / "script.py"
    script.write_text(text)
    become_reaper()
    return run_stage([str(script)], folder, dict(os.environ), fresh=True, **settings)


def test_a_traceback_a_nameless_message_and_a_good_one_are_told_apart(tmp_path: Path) -> None:
    assert unlike_a_message(run(tmp_path, "1 / 0"), "a.csv") == "a traceback"
    nameless = run(tmp_path, "import sys; sys.exit('it is damaged')")
    assert unlike_a_message(nameless, "a.csv") == "a message that does not name the file"
    named = run(tmp_path, "import sys; sys.exit('a.csv is damaged')")
    assert (named.status, named.text) == (1, "a.csv is damaged\n")
    assert unlike_a_message(named, "a.csv") is None
    assert unlike_a_message(run(tmp_path, "import os; os.abort()")) == "ends by signal 6"


def test_what_hangs_is_ended_and_said(tmp_path: Path) -> None:
    ended = run(tmp_path, "import time; time.sleep(600)", patience=0.3)
    assert ended.hung and unlike_a_message(ended) == "hangs"


def test_a_process_that_outlives_a_killed_stage_is_found_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.stage_process.GRACE_SECONDS", 0.2)
    text = (
        "import subprocess, sys, time\n"
        "one = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('child', 'w').write(str(one.pid))\n"
        "time.sleep(600)\n"
    )
    ended = run(tmp_path, text, blow=Blow(1.5, signal.SIGKILL))
    assert ended.status == -signal.SIGKILL
    assert [words for words in ended.left if "time.sleep(600)" in words]
    assert ends(int((tmp_path / "child").read_text()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"a", bytes(range(200))])
def test_any_harm_is_done_to_any_content_and_again_the_same(kind: str, content: bytes) -> None:
    for seed in range(20):
        harm = Harm(kind, random.Random(seed).random(), 1 + seed, seed)
        assert harmed(content, [harm]) == harmed(content, [harm])


def test_the_smallest_failing_harm_is_found() -> None:
    content = bytes(1000)
    guilty = Harm("ones", 0.5, 64, 0)
    harms = [Harm("flip", 0.1, 1, 1), guilty, Harm("flip", 0.9, 1, 2)]

    def fails(some: list[Harm]) -> bool:
        return harmed(content, some)[500] == 255

    assert smallest(harms, fails) == [Harm("ones", 0.5, 1, 0)]
    assert all(1 <= len(random_harms(random.Random(seed))) <= 3 for seed in range(50))


def test_every_parameter_is_asked_about_but_those_that_start_others() -> None:
    known = parameters()
    assert {name.partition(".")[0] for name in known} == set(Params.model_fields) == set(OF_SECTION)
    assert "infer.sampling" in known and "finetune.lora.dropout" in known
    assert not [name for name in known if name.startswith(LEFT_OUT)]
    assert math.isnan(find(ODD, lambda value: isinstance(value, float) and math.isnan(value)))
    find(values(*known["troika_train.epochs"]), lambda value: value == -1)


def test_stages_are_read_as_dvc_runs_them() -> None:
    commands = stage_commands(ROOT)
    assert next(iter(commands)) == "check"
    infer = commands["infer@finetuned"]
    assert infer.script == "infer" and infer.arguments[-4:] == (
        "--captions",
        "data/captions/finetuned.parquet",
        "--metrics",
        "metrics/captions/finetuned.json",
    )
    assert "models/blip2_lora" in infer.inputs and "$" not in " ".join(infer.words)
    assert infer.outputs == (
        "data/captions/finetuned.parquet",
        "metrics/captions/finetuned.json",
    )


def printed(script: str, words: str) -> str:
    """What a script of this folder prints, on one thread."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "chaos" / script, *words.split()],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_fixed_part_of_the_campaign_holds() -> None:
    words = "--light --jobs 1 --seed 1 --trials 8 --kinds kill signal worker table archive"
    (tried,) = re.findall(r"^In them: (.*)$", printed("campaign.py", words), re.MULTILINE)
    assert {"kills", "tables and models", "archives"} <= set(re.findall(r"\d+ ([a-z ]+)", tried))


def test_kills_of_a_stage_are_counted_and_what_differs_is_said() -> None:
    said = printed("kill_series.py", "--light --kills 2 --images 24 --stages split colors")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()]
    assert [row[0] for row in rows[2:]] == ["split", "colors"]
    for _, seconds, _, early, longest, late, _, end in rows[2:]:
        assert int(early) + int(late) == 2 and end == "same"
        assert not int(early) or 0 <= float(longest) <= float(seconds)


def test_a_series_says_what_a_kill_changed() -> None:
    series = Series("split", 2.0, None, early=[0.5, 1.5])
    project = SimpleNamespace(
        differences=lambda command: ["data/splits.parquet"], leftovers=lambda: ["data/.new"]
    )
    judge(project, SimpleNamespace(), series, 1)
    assert series.row == (
        "| split | 2.0 |  | 2 | 1.5 | 0 |  | exit status 1; left over: data/.new; "
        "other bytes: data/splits.parquet |"
    )
