"""Where each model comes from, and that what is fetched comes before what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from compositional_prompts.compute.training.checkpoints import Checkpoints
from compositional_prompts.weights import provision
from compositional_prompts.weights.parameters import Weights
from compositional_prompts.weights.provision import provide_weights

SHIPPED = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())["weights"]
NEWEST = {"pretrained": None, "revision": None}
MODELS = ("clip", "troika_clip", "blip2")


def provide(folder: Path, changes: Mapping[str, Any]) -> int:
    return provide_weights(
        Weights.model_validate(SHIPPED | dict(changes)),
        corpus=folder / "corpus.parquet",
        clip=folder / "clip",
        troika_clip=folder / "troika_clip",
        blip2=folder / "blip2",
        seed=1,
        workers=1,
        device=torch.device("cpu"),
        checkpoints=lambda name: Checkpoints(None, 0),
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is fetched and trained, in order; every model is a file that says where it is from."""
    made: list[str] = []

    def fetch_clip(source: str, name: str, *rest: Any) -> None:
        made.append(f"fetch {name}")
        (rest[-1] / "from").write_text(name)

    def fetch_captioner(source: str, name: str, revision: str | None, directory: Path) -> None:
        fetch_clip(source, name, directory)

    def pretrain(*_: Any, clip: bool, captioner: bool, **__: Any) -> Any:
        made.append(f"train clip={clip} captioner={captioner}")
        return SimpleNamespace(clip="clip", captioner="captioner" if captioner else None, rows=7)

    def save(*given: Any) -> None:
        (given[-1] / "from").write_text("trained")

    for name, stand_in in (
        ("fetch_clip", fetch_clip),
        ("fetch_captioner", fetch_captioner),
        ("pretrain_micro_models", pretrain),
        ("save_clip", save),
        ("save_micro_captioner", save),
    ):
        monkeypatch.setattr(provision, name, stand_in)
    return made


@pytest.mark.parametrize(
    ("changes", "order", "sources"),
    [
        ({}, ["train clip=True captioner=True"], ["trained"] * 3),
        (
            {"clip": {"source": "path", "name": "a", **NEWEST}},
            ["fetch a", "train clip=False captioner=True"],
            ["a", "a", "trained"],
        ),
        (
            {
                "troika_clip": {"source": "path", "name": "b", **NEWEST},
                "blip2": {"source": "path", "name": "c", "revision": None},
            },
            ["fetch b", "fetch c", "train clip=True captioner=False"],
            ["trained", "b", "c"],
        ),
        (
            {
                "clip": {"source": "path", "name": "a", **NEWEST},
                "troika_clip": {"source": "pretrain", "name": None, **NEWEST},
                "blip2": {"source": "path", "name": "c", "revision": None},
            },
            ["fetch a", "fetch c", "train clip=True captioner=False"],
            ["a", "trained", "c"],
        ),
    ],
)
def test_models_come_from_where_the_parameters_say(
    changes: dict[str, Any],
    order: list[str],
    sources: list[str],
    calls: list[str],
    tmp_path: Path,
) -> None:
    assert provide(tmp_path, changes) == 7
    assert calls == order
    assert [(tmp_path / name / "from").read_text() for name in MODELS] == sources


def test_a_model_that_is_not_there_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Any] = []
    monkeypatch.setattr(provision, "pretrain_micro_models", lambda *a, **b: trained.append(a))
    absent = {"source": "path", "name": str(tmp_path / "absent"), "revision": None}
    with pytest.raises(FileNotFoundError, match="absent"):
        provide(tmp_path, {"blip2": absent})
    assert trained == []
    assert list(tmp_path.iterdir()) == []
