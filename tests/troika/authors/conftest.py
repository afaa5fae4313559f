"""A CLIP, labels, parameters and a checkpoint that belong together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from troika.authors.authors_files import (
    BOTTLENECK,
    MODEL_CONFIG,
    PAIR_ROWS,
    TRACTION,
    State,
    authors_state,
    write_clip,
)

from compositional_prompts.clip.open_clip_model import Clip, load_clip
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.parameters import TroikaTrain


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "troika_clip", MODEL_CONFIG)


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Clip:
    return load_clip(clip_folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    pairs = [(attribute, name) for attribute, name, _, _ in PAIR_ROWS]
    seen, splits = [row[2] for row in PAIR_ROWS], [row[3] for row in PAIR_ROWS]
    return Vocabulary.of(pairs, seen, splits, "the test")


@pytest.fixture(scope="module")
def params(project_root: Path) -> TroikaTrain:
    shipped, _ = read_params(project_root / "params.yaml", TroikaTrain)
    return shipped.model_copy(update={"adapter_dim": BOTTLENECK, "traction_layers": TRACTION})


@pytest.fixture(scope="module")
def state(clip: Clip) -> State:
    return authors_state(clip, seed=3)


@pytest.fixture
def saved(state: State, tmp_path: Path) -> Callable[..., Path]:
    """Writes the state dict after a change of it."""

    def save(change: Callable[[State], Any] | None = None) -> Path:
        changed = dict(state)
        replacement = None if change is None else change(changed)
        path = tmp_path / "val_best.pt"
        torch.save(changed if replacement is None else replacement, path)
        return path

    return save
