"""Training that is broken off and started again, or shared by processes, ends as it should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from curve_files import curve_bytes
from killed_runs import script_environment
from safetensors.torch import load_file
from troika.test_troika_stages import Workspace
from troika.training_run import (
    EPOCHS,
    STEPS,
    STILL,
    Breaking,
    InterruptionError,
    train,
    written,
)

from compositional_prompts.compute.training.checkpoints import (
    CHECKPOINT_FILE,
    CheckpointError,
    Checkpoints,
)
from compositional_prompts.troika.training import pixel_cache as pixels

# As base.launcher has it. (--multi_gpu starts processes; with --cpu only MPI would.) With three of
# them some have no image of a batch of two.
TOGETHER = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
    *("--num_processes", "3", "--num_machines", "1", "--mixed_precision", "no"),
    *("--dynamo_backend", "no", "--main_process_port", "0"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train(folder).images == EPOCHS * (14 + 5)
    return written(folder)


def test_a_run_interrupted_after_every_checkpoint_ends_as_an_undisturbed_one(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    seen: list[tuple[int, int]] = []
    for _ in range(EPOCHS * (STEPS + 1)):
        checkpoints = Breaking(tmp_path)
        with pytest.raises(InterruptionError):
            train(tmp_path, checkpoints)
        seen += checkpoints.written
        torch.rand(3)  # another process begins with other random numbers
        assert not (tmp_path / "troika").exists()
    # After every step, and once more when the epoch is validated.
    assert seen == [
        state
        for epoch in range(1, EPOCHS + 1)
        for state in [*((epoch, step) for step in range(1, STEPS + 1)), (epoch + 1, 0)]
    ]
    assert train(tmp_path, Breaking(tmp_path)).images == 0
    assert written(tmp_path) == undisturbed


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    # So small a learning rate changes no prediction: the first epoch stays the best.
    changes = {"epochs": 9, "early_stopping": 1, "learning_rate": 1e-9}
    whole = train(tmp_path / "whole", **changes)
    assert (whole.state.best_epoch, whole.state.epochs) == (1, 2)
    checkpoints = Breaking(tmp_path, after=0)
    for _ in range(2):
        with pytest.raises(InterruptionError):
            train(tmp_path, checkpoints, **changes)
    assert checkpoints.written[-1] == (3, 0)
    train(tmp_path, checkpoints, **changes)
    assert written(tmp_path) == written(tmp_path / "whole")


def test_a_run_that_is_killed_ends_as_an_undisturbed_one(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("training_run.py"), "killed", tmp_path],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 2
    assert written(tmp_path) == undisturbed


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(InterruptionError):
        train(tmp_path, Breaking(tmp_path))
    file = tmp_path / CHECKPOINT_FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=rf"{CHECKPOINT_FILE} is damaged.*start afresh"):
        train(tmp_path, Checkpoints(tmp_path, 0))


def test_the_stage_goes_on_where_it_was_also_after_another_parameter_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = ("troika/best.safetensors", "troika/last.safetensors", "troika/config.json")
    rows = {}
    written = {}
    for name, rates in (("whole", [0.01]), ("resumed", [0.01, 0.02, 0.01])):
        workspace = Workspace(tmp_path / name)
        for number, rate in enumerate(rates):
            workspace.set_params(learning_rate=rate)
            with monkeypatch.context() as patch:
                if number < len(rates) - 1:
                    patch.setattr(Checkpoints, "save", save_and_break)
                    with pytest.raises(InterruptionError):
                        workspace.train(monkeypatch)
                    folders = list((workspace.root / "scratch" / "troika_train").iterdir())
                    assert len(folders) == number + 1
                    assert all((folder / CHECKPOINT_FILE).is_file() for folder in folders)
                else:
                    rows[name] = workspace.train(monkeypatch).pop("rows")
        left = list((workspace.root / "scratch").glob("troika_train/*"))
        assert len(left) == len(rates) // 2  # of the other parameter
        files = [workspace.model.parent / file for file in outputs]
        files += [workspace.root / "troika_train.json"]
        curve = curve_bytes(workspace.root / "curve").values()
        written[name] = [*(file.read_bytes() for file in files), *curve]
    assert rows["resumed"] == rows["whole"] - 8  # the batch of the step before the break
    assert written["resumed"] == written["whole"]


_save = Checkpoints.save


def save_and_break(self: Checkpoints, state: dict[str, object]) -> None:
    _save(self, state)
    raise InterruptionError


def test_processes_of_a_machine_decode_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    local = [0, 1, 2, 0, 1]  # a machine with three processes, and one with two
    monkeypatch.setattr(pixels, "gather_object", lambda _: local)
    shares = [
        pixels._local_share(10, SimpleNamespace(process_index=index, local_process_index=number))  # type: ignore[arg-type]
        for index, number in enumerate(local)
    ]
    assert [row for share in shares[:3] for row in share] == list(range(10))
    assert [row for share in shares[3:] for row in share] == list(range(10))
    assert {len(share) for share in shares} == {3, 4, 5}


def test_processes_together_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path / "shared")
    alone = Workspace(tmp_path / "alone")
    for one in (workspace, alone):
        one.set_params(batch_size=5, augment=True, **STILL)
    stage = workspace.arguments("troika_train", "source", "metrics", "curve")
    script = Path(__file__).with_name("training_run.py")
    done = subprocess.run(
        [*TOGETHER, str(script), "together", str(tmp_path / "run"), *stage],
        cwd=workspace.root,
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("3 processes train together") == 1  # of the stage; one of them logs

    report = json.loads(done.stdout.splitlines()[-1])
    # The first run broke off when 12 of 14 images of the first epoch were done.
    assert report == {"processes": 3, "images": EPOCHS * (14 + 5) - 12}
    train(tmp_path, **STILL)
    for name in ("best", "last"):
        expected = load_file(tmp_path / "troika" / f"{name}.safetensors")
        found = load_file(tmp_path / "run" / "troika" / f"{name}.safetensors")
        assert list(found) == list(expected)
        for key, tensor in expected.items():
            # Batch norm takes away what the bias before it adds: its gradient is rounding alone,
            # of which Adam makes whole steps.
            if not key.endswith(("disentangler.linear.bias", "norm.running_mean")):
                torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-4)
    records = [
        json.loads((folder / "records.json").read_text()) for folder in (tmp_path, tmp_path / "run")
    ]
    for one, several in zip(*records, strict=True):
        assert several == pytest.approx(one, abs=1e-5)

    expected_metrics = alone.train(monkeypatch)
    metrics = json.loads((workspace.root / "troika_train.json").read_text())
    timing = json.loads((workspace.root / "timing/troika_train.json").read_text())
    assert timing["rows"] == expected_metrics.pop("rows")
    for name in ("train_loss", "best"):
        assert metrics.pop(name) == pytest.approx(expected_metrics.pop(name), abs=1.1e-4)
    assert metrics == expected_metrics
    assert not (workspace.root / "scratch" / "troika_train").exists()
    assert [path.name for path in workspace.model.parent.iterdir()] == ["clip", "troika"]
