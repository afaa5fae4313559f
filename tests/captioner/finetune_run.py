"""A small fine-tuning run; as a script, in processes that are killed or that train together."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from curve_files import curve_bytes
from killed_runs import Watched, killed_at_random
from memory_inputs import MemoryInputs
from micro_blip2 import LORA, QUERIES, WORDS, miniature
from torch.distributed.fsdp import FSDPModule

from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.captioner.training.caption_batches import CaptionPairs
from compositional_prompts.captioner.training.caption_trainer import LAST, finetune
from compositional_prompts.compute.processes import join_processes
from compositional_prompts.compute.training.checkpoints import Checkpoints

WRITTEN = ("adapter_model.safetensors", f"{LAST}/adapter_model.safetensors", "adapter_config.json")
STEPS = 16


def settings(precision: str, dropout: float) -> Finetune:
    """Four epochs of four steps; the last step of an epoch has one batch, the others two."""
    return Finetune(
        mode="train",
        target="enhanced",
        seed=None,
        lora=LORA.model_copy(update={"dropout": dropout}),
        precision=precision,
        epochs=4,
        batch_size=3,
        gradient_accumulation=2,
        gradient_checkpointing=False,
        compile=False,
        learning_rate=0.01,
        schedule="cosine",
        warmup_ratio=0.2,
        weight_decay=0.01,
        max_grad_norm=1.0,
        label_smoothing=0.1,
        augment=False,
        max_tokens=60,
        train_images=None,
        caption_every=2,
        caption_images=2,
        best_metric="val_loss",
        early_stopping=None,
    )


def train(
    folder: Path,
    checkpoints: Checkpoints | None = None,
    precision: str = "float32",
    dropout: float = 0.2,
    accelerator: Accelerator | None = None,
) -> None:
    """Write adapter, curve and metrics into ``folder``; go on from ``checkpoints``."""
    captioner = miniature("opt")
    if not dropout:
        for module in captioner.model.language_model.modules():
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
    if precision != "float32":
        captioner.model.to(getattr(torch, precision))
        captioner = Captioner(captioner.model, captioner.processor, precision)
    ids = [f"image-{number}" for number in range(25)]
    features = torch.randn(25, QUERIES, 32, generator=torch.Generator().manual_seed(11))
    captions = [WORDS[number % 3] for number in range(25)]
    outcome = finetune(
        captioner,
        MemoryInputs(ids, features),
        CaptionPairs(ids[:20], captions[:20]),
        CaptionPairs(ids[20:], captions[20:]),
        settings(precision, dropout),
        seed=3,
        adapter=folder / "lora",
        curve=folder / "curve",
        checkpoints=checkpoints,
        pairs=[("Canvas", "Sandals")],
        words={"color": ["white"]},
        accelerator=accelerator,
    )
    if accelerator is not None and not accelerator.is_main_process:
        return
    (folder / "metrics.json").write_text(json.dumps(outcome.metrics))


def written(folder: Path) -> dict[str, bytes]:
    """Everything that a run writes, byte for byte."""
    files = [folder / "lora" / name for name in WRITTEN]
    files += [folder / "metrics.json"]
    files = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    return files | curve_bytes(folder / "curve")


def killed(folder: Path) -> int:
    """Run :func:`train` until it ends, killing it on the way; return how often."""

    return killed_at_random(
        lambda tell: train(folder, Watched(folder / "scratch", lambda _: tell())), (2, 6), seed=5
    )


class StoppedError(Exception):
    pass


def together(folder: Path) -> None:
    """Train under DDP, and under FSDP in two goes, in the processes that a launcher started."""
    accelerator = join_processes(torch.device("cpu"))
    train(folder / "ddp", dropout=0.0, accelerator=accelerator)
    # Accelerate has FSDP on GPUs only; what it does with a model is the same on a CPU.
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
    )
    sharded: set[str] = set()

    def stop(state: Mapping[str, Any]) -> None:
        if state["steps"] == 6:
            (model,) = accelerator._models[-1:]
            for name, module in model.named_modules():
                if isinstance(module, FSDPModule):
                    sharded.add(name.rpartition(".")[2])
            raise StoppedError

    scratch = folder / "scratch" if accelerator.is_main_process else None
    with contextlib.suppress(StoppedError):
        train(folder / "fsdp", Watched(scratch, stop), dropout=0.0, accelerator=accelerator)
    train(folder / "fsdp", Checkpoints(scratch, 0), dropout=0.0, accelerator=accelerator)
    if accelerator.is_main_process:
        print(json.dumps({"processes": accelerator.num_processes, "sharded": sorted(sharded)}))


if __name__ == "__main__":
    # Before anything is computed: torch's threads do not survive a fork.
    torch.set_num_threads(1)
    mode, target = sys.argv[1], Path(sys.argv[2])
    (target / "scratch").mkdir(parents=True, exist_ok=True)
    if mode == "killed":
        print(killed(target))
    else:
        together(target)
