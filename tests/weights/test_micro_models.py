"""The micro models whole: the same bits whichever way they are trained, and deaths by name."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compositional_prompts.compute.ordered_map import WorkerDiedError
from compositional_prompts.compute.training.checkpoints import (
    CHECKPOINT_FILE,
    CheckpointError,
    Checkpoints,
)
from compositional_prompts.compute.training.muon import ScheduledOptimizers
from compositional_prompts.weights import micro_models
from compositional_prompts.weights.micro_models import (
    Corpus,
    MicroModels,
    pretrain_micro_models,
    read_corpus,
)
from compositional_prompts.weights.parameters import Pretrain

CPU = torch.device("cpu")
PARAMS = Pretrain(
    corpus="generated",
    images=48,
    augment=False,
    clip_image_epochs=1,
    clip_text_epochs=1,
    clip_batch=16,
    clip_learning_rate=1e-3,
    clip_matrix_learning_rate=0.02,
    blip2_epochs=1,
    blip2_batch=16,
    blip2_learning_rate=1e-3,
    blip2_matrix_learning_rate=0.02,
    precision="float32",
)


def unkept(training: str) -> Checkpoints:
    return Checkpoints(None, 0)


def kept(folder: Path, training: str) -> Checkpoints:
    """After every step."""
    (folder / training).mkdir(parents=True, exist_ok=True)
    return Checkpoints(folder / training, 0)


def pretrained(
    tmp_path: Path,
    workers: int,
    checkpoints: Callable[[str], Checkpoints] = unkept,
    **wanted: bool,
) -> MicroModels:
    return pretrain_micro_models(
        PARAMS,
        tmp_path / "no corpus.parquet",
        checkpoints,
        **{"clip": True, "captioner": True, **wanted},
        seed=3,
        workers=workers,
        device=CPU,
    )


def weights(model: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = model.state_dict()
    return state


def assert_same(first: Any, second: Any) -> None:
    assert weights(first).keys() == weights(second).keys()
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> MicroModels:
    """Both, trained one after the other."""
    return pretrained(tmp_path_factory.mktemp("after"), 1)


def test_side_by_side_or_alone_the_same_bits_are_trained(
    after: MicroModels, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    beside = pretrained(tmp_path, 2)
    assert torch.get_num_threads() == threads
    assert beside.rows == after.rows == 48
    assert beside.captioner is not None and after.captioner is not None
    assert_same(beside.clip, after.clip)
    assert_same(beside.captioner.model, after.captioner.model)
    alone = pretrained(tmp_path, 2, clip=False)
    assert alone.clip is None and alone.captioner is not None
    assert_same(beside.captioner.model, alone.captioner.model)


def test_both_stand_on_the_same_image_tower_and_are_trained(after: MicroModels) -> None:
    models = after
    assert models.clip is not None and models.captioner is not None
    clip, blip2 = weights(models.clip), weights(models.captioner.model)
    assert torch.equal(clip["visual.ln_post.weight"], blip2["vision_model.post_layernorm.weight"])
    assert not models.clip.training and not models.captioner.model.training
    assert clip["logit_scale"] != micro_models.micro_clip().state_dict()["logit_scale"]


@pytest.mark.parametrize("augment", [False, True])
def test_all_that_is_trained_sees_altered_photos_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augment: bool
) -> None:
    asked: dict[str, Any] = {}

    class EncodedError(Exception):
        pass

    def image_tower(*arguments: Any, **settings: Any) -> Any:
        asked["tower"] = settings["augment"]
        return micro_models.micro_clip()

    def encode(*arguments: Any, augmentation_seed: int | None) -> Any:
        asked["features"] = augmentation_seed
        raise EncodedError

    monkeypatch.setattr(micro_models, "read_corpus", lambda *arguments: Corpus(torch.empty(0), []))
    monkeypatch.setattr(micro_models, "pretrain_image_tower", image_tower)
    monkeypatch.setattr(micro_models, "encode_images", encode)
    params = PARAMS.model_copy(update={"augment": augment})
    with pytest.raises(EncodedError):
        pretrain_micro_models(
            params, tmp_path, unkept, clip=True, captioner=True, seed=3, workers=1, device=CPU
        )
    assert asked == {"tower": augment, "features": 3 if augment else None}


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("steps_done", [1, 3, 4, 6, 7])
def test_a_killed_training_goes_on_to_the_same_bits(
    after: MicroModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_done: int
) -> None:
    """Three steps of the image tower, one of the text tower, three of BLIP-2."""
    step, made = ScheduledOptimizers.step, []

    def mortal(optimizers: ScheduledOptimizers, loss: Tensor) -> None:
        if len(made) == steps_done:
            raise KilledError
        step(optimizers, loss)
        made.append(loss)

    monkeypatch.setattr(ScheduledOptimizers, "step", mortal)
    if steps_done < 7:
        with pytest.raises(KilledError):
            pretrained(tmp_path, 1, partial(kept, tmp_path))
    else:
        pretrained(tmp_path, 1, partial(kept, tmp_path))
    drawn: list[int] = []

    def draw(*arguments: Any) -> Corpus:
        drawn.append(1)
        return read_corpus(*arguments)

    monkeypatch.setattr(ScheduledOptimizers, "step", lambda *a: (made.append(a[1]), step(*a)))
    monkeypatch.setattr(micro_models, "read_corpus", draw)
    found = pretrained(tmp_path, 1, partial(kept, tmp_path))
    assert len(made) == 7  # no step was made twice
    assert len(drawn) == (steps_done < 3)  # what is encoded is kept
    assert_same(found.clip, after.clip)
    assert found.captioner is not None and after.captioner is not None
    assert_same(found.captioner.model, after.captioner.model)
    assert found.rows == after.rows


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    pretrained(tmp_path, 1, partial(kept, tmp_path))
    damaged = tmp_path / "encoded_corpus" / CHECKPOINT_FILE
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=rf"{damaged} is damaged .+ delete"):
        pretrained(tmp_path, 1, partial(kept, tmp_path))


def test_a_killed_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = micro_models.pretrain_blip2

    def killing(*arguments: Any, **settings: Any) -> Any:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        for child in children:
            child.kill()
        return train(*arguments, **settings)

    monkeypatch.setattr(micro_models, "pretrain_blip2", killing)
    drawn = read_corpus(PARAMS, tmp_path, 3, workers=1)
    monkeypatch.setattr(micro_models, "read_corpus", lambda *arguments: drawn)
    with pytest.raises(WorkerDiedError, match=r"text tower .+ Set base\.workers to 1"):
        pretrained(tmp_path, 2)
    assert not multiprocessing.active_children()


def test_the_corpus_is_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    one, two = (read_corpus(PARAMS, tmp_path, 3, workers) for workers in (1, 2))
    assert isinstance(one, Corpus)
    assert one.captions == two.captions
    assert torch.equal(one.images, two.images)
    assert one.images.shape == (48, 3, 96, 96) and one.images.dtype == torch.uint8
    fewer = read_corpus(PARAMS.model_copy(update={"images": 20}), tmp_path, 3, 1)
    assert torch.equal(fewer.images, one.images[:20])
