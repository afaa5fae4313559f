"""A CLIP on disk and back, and the vectors it gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compositional_prompts.clip.clip_pretraining import MICRO_CONFIG, micro_clip
from compositional_prompts.clip.embedding import embed_images, embed_texts
from compositional_prompts.clip.open_clip_model import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Clip,
    load_clip,
    save_clip,
)
from compositional_prompts.files.outputs import MissingOutputError

CPU = torch.device("cpu")
SIZE = MICRO_CONFIG["vision_cfg"]["image_size"]
DIMENSION = MICRO_CONFIG["embed_dim"]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    return micro_clip().eval()


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clip")
    save_clip(model, MICRO_CONFIG, directory)
    return directory


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return load_clip(folder, CPU)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_weights_come_back_as_they_were(model: Any, clip: Clip, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    saved, loaded = model.state_dict(), clip.model.state_dict()
    assert set(saved) == set(loaded)
    for name, tensor in saved.items():
        assert torch.equal(tensor, loaded[name]), name


def test_a_loaded_model_is_frozen(clip: Clip) -> None:
    assert not clip.model.training
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())


def test_images_are_squeezed_and_scaled_as_configured(clip: Clip) -> None:
    image = photo(136, 102)
    resized = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    expected = (np.asarray(resized, dtype=np.float64) / 255 - clip.mean) / clip.std
    found = clip.preprocess(image)
    assert found.shape == (3, SIZE, SIZE)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected.transpose(2, 0, 1), atol=1e-5)
    assert clip.image_size == SIZE


def test_texts_are_tokenized_at_the_models_length(clip: Clip) -> None:
    tokens = clip.tokenizer(["red boots", "red " * 100])
    assert tokens.shape == (2, MICRO_CONFIG["text_cfg"]["context_length"])
    assert tokens.dtype == torch.int64
    assert int(tokens[1, -1]) == int(tokens[0].max())  # a text that was cut still ends


def test_vectors_are_normalised_outputs_of_the_towers(model: Any, clip: Clip) -> None:
    images = torch.stack([clip.preprocess(photo(40, 30, seed)) for seed in range(3)])
    texts = ["red boots", "", "Ünïcode ✓"]
    with torch.no_grad():
        for found, raw in (
            (embed_images(clip, images), model.encode_image(images)),
            (embed_texts(clip, texts, batch_size=2), model.encode_text(clip.tokenizer(texts))),
        ):
            expected = raw.double() / raw.double().pow(2).sum(1, keepdim=True).sqrt()
            assert found.shape == (3, DIMENSION)
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_batches_do_not_change_vectors(clip: Clip) -> None:
    texts = [f"{number} red boots" for number in range(7)]
    torch.testing.assert_close(
        embed_texts(clip, texts, batch_size=3), embed_texts(clip, texts, batch_size=100)
    )


def test_no_text_gives_no_vector(clip: Clip) -> None:
    assert embed_texts(clip, [], batch_size=4).shape == (0, DIMENSION)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.name != name:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(MissingOutputError, match=f"{name} is missing"):
        load_clip(tmp_path, CPU)


def test_weights_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["model_cfg"]["embed_dim"] = DIMENSION // 2
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    (tmp_path / WEIGHTS_FILE).symlink_to(folder / WEIGHTS_FILE)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_clip(tmp_path, CPU)
