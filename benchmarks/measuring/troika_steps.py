"""Troika's training on random pixels: ours against a loop as the authors'."""

from __future__ import annotations

import copy
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from troika_train import WITHOUT_DROPOUT, straightforward_logits, write_random_clip

from compositional_prompts.clip.open_clip_model import Clip, load_clip
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.troika.model.network import BranchLogits, Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.parameters import TroikaTrain
from compositional_prompts.troika.training.pixel_cache import Normalizer
from compositional_prompts.troika.training.troika_trainer import (
    Labelled,
    fit,
    training_batches,
    weighted_loss,
)

ATTRIBUTES, OBJECTS, PAIRS, SEEN_PAIRS = 16, 12, 116, 83
"""Those of UT-Zappos."""

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"


@dataclass(frozen=True)
class Photos:
    """Random images in memory, uint8 ``[n, 3, size, size]`` on the CPU, and their pairs' columns,
    int64 ``[n]``.
    """

    pixels: Tensor
    columns: Tensor


class TroikaSteps:
    """An epoch of ours and one of the loop, each on its own copy of one model."""

    def __init__(self, architecture: str | None, device: torch.device, seed: int) -> None:
        """Make a CLIP of random weights: open_clip's ``architecture``, or the sample's."""
        torch.manual_seed(seed)
        with tempfile.TemporaryDirectory() as folder:
            write_random_clip(Path(folder), architecture)
            self._clip: Clip = load_clip(Path(folder), device)
        shipped, _ = read_params(PARAMS_FILE, TroikaTrain)
        # Most CPUs only imitate bfloat16.
        precision = "bfloat16" if device.type == "cuda" else "float32"
        self._params = shipped.model_copy(
            update={**WITHOUT_DROPOUT, "precision": precision, "augment": False, "epochs": 1}
        )
        numbers = list(range(ATTRIBUTES * OBJECTS))
        random.Random(seed).shuffle(numbers)
        pairs = [(f"attribute{n % ATTRIBUTES}", f"object{n // ATTRIBUTES}") for n in numbers]
        pairs = pairs[:PAIRS]
        seen = [number < SEEN_PAIRS for number in range(PAIRS)]
        splits = ["train" if known else "test" for known in seen]
        vocabulary = Vocabulary.of(pairs, seen, splits, "the benchmark")
        self._pairs = torch.from_numpy(vocabulary.pair_indices).to(device)[:SEEN_PAIRS]
        model = Troika(self._clip, vocabulary, TroikaConfig.from_params(self._params))
        self._models = {"ours": model, "theirs": copy.deepcopy(model)}
        self._normalizer = Normalizer(self._clip, device)
        self._device = device
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, images: int) -> Photos:
        """Random pixels and pairs."""
        size = self._clip.model.visual.image_size[0]
        return Photos(
            torch.randint(
                256, (images, 3, size, size), dtype=torch.uint8, generator=self._generator
            ),
            torch.randint(SEEN_PAIRS, (images,), generator=self._generator),
        )

    def ours(self, photos: Photos, batch: int) -> float:
        """The mean loss of an epoch of :func:`fit`."""
        everything = torch.ones(SEEN_PAIRS, dtype=torch.bool, device=self._device)
        data = Labelled(photos.pixels, photos.columns, self._pairs, everything)
        nothing = Labelled(photos.pixels[:0], photos.columns[:0], self._pairs, everything)
        params = self._params.model_copy(update={"batch_size": batch})
        outcome = fit(self._models["ours"], data, nothing, self._normalizer, params, self._seed)
        return outcome.records[0].train_loss

    def theirs(self, photos: Photos, batch: int) -> float:
        """The mean loss of an epoch of the loop that ``troika_train.py`` describes, its images
        decoded already.
        """
        model, params = self._models["theirs"].train(), self._params
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(
            trained, lr=params.learning_rate, weight_decay=params.weight_decay
        )
        # Only so that losses can be compared: the order that ours has in its first epoch.
        order = torch.Generator().manual_seed(self._seed * 1_000_003 + 1)
        total = 0.0
        for rows in training_batches(len(photos.columns), batch, order):
            targets = photos.columns[rows].to(self._device)
            images = self._normalizer.to_pixel_values(photos.pixels[rows].to(self._device))
            half = params.precision == "bfloat16"
            with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
                logits = straightforward_logits(model, images, self._pairs)
            wide = BranchLogits(*(branch.float() for branch in logits))
            loss = weighted_loss(wide, targets, self._pairs, params)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(targets)
        return total / len(photos.columns)
