"""Small models and data to train; as a script, runs that are killed or that train together."""

from __future__ import annotations

import contextlib
import json
import runpy
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType
from killed_runs import Watched, killed_at_random
from PIL import Image
from torch import nn

from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.compute.processes import join_processes
from compositional_prompts.compute.training.checkpoints import Checkpoints
from compositional_prompts.troika.model.model_folder import save_model
from compositional_prompts.troika.model.network import Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.model.shared_batch_norm import share_batch_norms
from compositional_prompts.troika.parameters import TroikaTrain
from compositional_prompts.troika.training.pixel_cache import Normalizer
from compositional_prompts.troika.training.troika_trainer import Labelled, TrainingOutcome, fit

ROOT = Path(__file__).parents[2]
PAIRS = [("Canvas", "Boots"), ("Canvas", "Heels"), ("Wool", "Boots"), ("Wool", "Heels")]
VOCABULARY = Vocabulary.of(PAIRS, [True, True, True, False], ["train"] * 3 + ["val"], "the test")
INDICES = torch.from_numpy(VOCABULARY.pair_indices)
SEEN = torch.tensor(VOCABULARY.seen)


@cache
def tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=16)


def tiny_clip(quick_gelu: bool = False, seed: int = 0) -> Clip:
    torch.manual_seed(seed)
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={
            "image_size": 16,
            "layers": 2,
            "width": 32,
            "patch_size": 8,
            "head_width": 16,
        },
        text_cfg={"context_length": 16, "width": 32, "heads": 2, "layers": 2, "vocab_size": 49408},
        quick_gelu=quick_gelu,
    )
    model.eval().requires_grad_(False)

    def preprocess(image: Image.Image) -> torch.Tensor:
        raise AssertionError("no image is read here")

    return Clip(model, preprocess, tokenizer(), 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def make_params(**changes: object) -> TroikaTrain:
    """``troika_train`` as committed, small and in float32 on every processor, with changes."""
    section: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())["troika_train"]
    small = {"adapter_dim": 8, "batch_size": 8, "epochs": 2, "precision": "float32"}
    return TroikaTrain.model_validate({**section, **small, **changes})


STILL = {"adapter_dropout": 0.0, "attribute_dropout": 0.0, "disentangler_dropout": 0.0}
"""Without dropout."""


def coloured(columns: list[int], pairs: torch.Tensor, seen: torch.Tensor, seed: int) -> Labelled:
    """Images whose left half tells the attribute and whose right half tells the object."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 40, (len(columns), 3, 16, 16), generator=generator)
    for row, column in enumerate(columns):
        attribute, name = pairs[column].tolist()
        pixels[row, attribute, :, :8] += 200
        pixels[row, 1 + name, :, 8:] += 200
    return Labelled(pixels.to(torch.uint8), torch.tensor(columns, dtype=torch.long), pairs, seen)


def train_data(images: int = 24) -> Labelled:
    columns = [row % 3 for row in range(images)]
    return coloured(columns, INDICES[:3], SEEN[:3], seed=1)


def val_data(columns: list[int]) -> Labelled:
    return coloured(columns, INDICES, SEEN, seed=2)


def new_model(clip: Clip, params: TroikaTrain, seed: int = 3) -> Troika:
    torch.manual_seed(seed)
    return Troika(clip, VOCABULARY, TroikaConfig.from_params(params))


def normalizer(clip: Clip) -> Normalizer:
    return Normalizer(clip, torch.device("cpu"))


# --- Runs that are interrupted, and runs of several processes -------------------------------------

EPOCHS = 2
STEPS = 3
"""An epoch of five batches, the last of two images, two of them a step."""


class InterruptionError(Exception):
    pass


class Breaking(Watched):
    """Checkpoints after each of which, or after the given number of an epoch's, the run breaks."""

    def __init__(self, folder: Path | None, after: int | None = None) -> None:
        super().__init__(folder, self._break)
        self.after = after
        self.written: list[tuple[int, int]] = []

    def _break(self, state: Mapping[str, Any]) -> None:
        self.written.append((state["epoch"], state["epoch_steps"]))
        if self.after is None or state["epoch_steps"] == self.after:
            raise InterruptionError


def train(
    folder: Path,
    checkpoints: Checkpoints | None = None,
    accelerator: Accelerator | None = None,
    **changes: object,
) -> TrainingOutcome:
    """A run with all that is random in it; it writes the model and its records into ``folder``."""
    settings = {"epochs": EPOCHS, "batch_size": 3, "gradient_accumulation": 2, "lr_step": 1}
    params = make_params(**{**settings, "augment": True, "learning_rate": 0.005, **changes})
    clip = tiny_clip()
    model = new_model(clip, params)
    outcome = fit(
        model,
        train_data(14),
        val_data([0, 3, 1, 2, 3]),
        normalizer(clip),
        params,
        seed=5,
        accelerator=accelerator,
        checkpoints=checkpoints,
    )
    if accelerator is None or accelerator.is_main_process:
        save_model(folder / "troika", VOCABULARY, clip, model.config, outcome.state)
        records = [asdict(record) for record in outcome.records]
        (folder / "records.json").write_text(json.dumps(records))
    return outcome


def written(folder: Path) -> dict[str, bytes]:
    """Everything that a run writes, byte for byte."""
    names = ["records.json", "troika/best.safetensors", "troika/last.safetensors"]
    return {name: (folder / name).read_bytes() for name in [*names, "troika/config.json"]}


def killed(folder: Path) -> int:
    """Run :func:`train` until it ends, killing it on the way; return how often."""
    return killed_at_random(
        lambda tell: train(folder, Watched(folder / "scratch", lambda _: tell())), (1, 4), seed=5
    )


def check_batch_norm(accelerator: Accelerator, sizes: list[int]) -> None:
    """Batch norm of shares of ``sizes`` against torch's own of the whole batch, in float64.

    A process without a share has a stand-in, which must count for nothing.
    """
    torch.manual_seed(11)
    process = accelerator.process_index
    close = {"rtol": 1e-7, "atol": 1e-7}
    whole = nn.BatchNorm1d(6).double()
    nn.init.normal_(whole.weight)
    nn.init.normal_(whole.bias)
    shared = nn.Sequential(nn.BatchNorm1d(6).double())
    shared.load_state_dict({f"0.{name}": value for name, value in whole.state_dict().items()})
    (norm,) = share_batch_norms(shared)
    norm.counted = sizes[process] > 0
    for _ in range(2):
        # Far from zero, so that a mean of squares would have cancelled.
        batch = torch.randn(sum(sizes), 6, dtype=torch.float64) + 1e6
        weight = torch.randn_like(batch)
        part = batch.split(sizes)[process].clone()
        part = (part if norm.counted else part.new_full((1, 6), 7.0)).requires_grad_()
        batch.requires_grad_()
        expected, found = whole(batch), shared(part)
        (expected * weight).sum().backward()
        if norm.counted:
            torch.testing.assert_close(found, expected.split(sizes)[process], **close)
            (found * weight.split(sizes)[process]).sum().backward()
            assert batch.grad is not None
            torch.testing.assert_close(part.grad, batch.grad.split(sizes)[process], **close)
        else:
            (found * 0).sum().backward()
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(shared.state_dict()[f"0.{name}"], value, **close)
    for name, parameter in whole.named_parameters():
        summed = accelerator.reduce(shared.get_parameter(f"0.{name}").grad, "sum")
        torch.testing.assert_close(summed, parameter.grad, **close)
    x = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(shared.eval()(x), whole.eval()(x))


def together(folder: Path, stage: list[str]) -> None:
    """Train without dropout in the processes that a launcher started, broken off and taken up
    again, and run a stage, whose script and arguments are given.
    """
    accelerator = join_processes(torch.device("cpu"))
    check_batch_norm(accelerator, [3, 1, 2])
    check_batch_norm(accelerator, [2, 0, 5])
    scratch = folder / "scratch" if accelerator.is_main_process else None
    with contextlib.suppress(InterruptionError):
        train(folder, Breaking(scratch, after=2), accelerator, **STILL)
    # Accelerate has FSDP on GPUs only; here it is all the same.
    kind = accelerator.state.distributed_type
    accelerator.state.distributed_type = DistributedType.FSDP
    outcome = train(folder, Checkpoints(scratch, 0), accelerator, **STILL)
    accelerator.state.distributed_type = kind
    if accelerator.is_main_process:
        print(json.dumps({"processes": accelerator.num_processes, "images": outcome.images}))
    sys.argv = stage
    runpy.run_path(stage[0], run_name="__main__")


if __name__ == "__main__":
    # Before anything is computed: torch's threads do not survive a fork.
    torch.set_num_threads(1)
    mode, target = sys.argv[1], Path(sys.argv[2])
    (target / "scratch").mkdir(parents=True, exist_ok=True)
    if mode == "killed":
        print(killed(target))
    else:
        together(target, sys.argv[3:])
