"""A fine-tuning run that is killed and started again ends as one that is not."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_run import STEPS, train, written
from killed_runs import Watched, script_environment

from compositional_prompts.compute.training.checkpoints import (
    CHECKPOINT_FILE,
    CheckpointError,
    Checkpoints,
    random_state,
    set_random_state,
)


class InterruptionError(Exception):
    pass


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder)
    return written(folder)


def test_a_run_interrupted_at_every_step_ends_as_an_undisturbed_one(tmp_path, undisturbed) -> None:
    seen: list[int] = []

    def interrupt(state) -> None:
        if state["epoch_steps"]:  # and not when the epoch is validated
            seen.append(state["steps"])
            raise InterruptionError

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for _ in range(STEPS):
        with pytest.raises(InterruptionError):
            train(tmp_path, Watched(scratch, interrupt))
        assert not (tmp_path / "lora").exists()
    assert seen == list(range(1, STEPS + 1))
    train(tmp_path, Watched(scratch, interrupt))  # no step is left, but what follows the last
    assert written(tmp_path) == undisturbed


def test_a_scaled_run_goes_on_with_its_scale(tmp_path) -> None:
    def interrupt(state) -> None:
        if state["steps"] == 7:
            raise InterruptionError

    for name in ("whole", "halves"):
        (tmp_path / name / "scratch").mkdir(parents=True)
    train(tmp_path / "whole", precision="float16")
    scratch = tmp_path / "halves" / "scratch"
    with pytest.raises(InterruptionError):
        train(tmp_path / "halves", Watched(scratch, interrupt), "float16")
    train(tmp_path / "halves", Checkpoints(scratch, 0), "float16")
    assert written(tmp_path / "halves") == written(tmp_path / "whole")


def test_a_run_that_is_killed_ends_as_an_undisturbed_one(tmp_path, undisturbed) -> None:
    script = Path(__file__).with_name("finetune_run.py")
    done = subprocess.run(
        [sys.executable, script, "killed", tmp_path / "killed"],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 2
    assert written(tmp_path / "killed") == undisturbed


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999], ids=["empty", "cut", "cut at its end"])
def test_a_damaged_checkpoint_is_named(tmp_path, share) -> None:
    def interrupt(state) -> None:
        raise InterruptionError

    with pytest.raises(InterruptionError):
        train(tmp_path, Watched(tmp_path, interrupt))
    file = tmp_path / CHECKPOINT_FILE
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=rf"{CHECKPOINT_FILE} is damaged.*start afresh"):
        train(tmp_path, Checkpoints(tmp_path, 0))


def test_a_flipped_byte_is_noticed(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path, 0)
    checkpoints.save({"adapter": {"weight": torch.arange(5000.0)}})
    file = tmp_path / CHECKPOINT_FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load()


def test_checkpoints_are_due_by_the_clock_where_they_are_kept(tmp_path) -> None:
    assert not Checkpoints(None, 0).due()
    assert Checkpoints(tmp_path, 0).due()
    assert not Checkpoints(tmp_path, 3600).due()
    Checkpoints(None, 0).save({"step": 1})
    assert Checkpoints(None, 0).load() is None
    assert Checkpoints(tmp_path, 0).load() is None
    Checkpoints(tmp_path, 0).save({"step": 1})
    assert Checkpoints(tmp_path, 0).load() == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT_FILE]


def test_random_numbers_go_on_where_they_were(tmp_path) -> None:

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.normal(), float(torch.rand(1))]

    draw()
    np.random.normal()  # NumPy keeps the second of a pair
    checkpoints = Checkpoints(tmp_path, 0)
    checkpoints.save(random_state(torch.device("cpu")))
    expected = draw()
    draw()
    state = checkpoints.load()
    assert state is not None
    set_random_state(state, torch.device("cpu"))
    assert draw() == expected
