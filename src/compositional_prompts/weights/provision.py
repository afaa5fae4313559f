"""The pretrained models: from the hub, from a path, or trained small from scratch.

Whatever the source, the same files lie in the three folders afterwards: open_clip's layout for
the CLIPs, transformers' for BLIP-2.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from compositional_prompts.captioner.blip2_pretraining import save_micro_captioner
from compositional_prompts.captioner.model.blip2_sources import fetch_captioner
from compositional_prompts.clip.clip_pretraining import MICRO_CONFIG
from compositional_prompts.clip.clip_sources import fetch_clip
from compositional_prompts.clip.open_clip_model import save_clip
from compositional_prompts.compute.training.checkpoints import Checkpoints
from compositional_prompts.files.outputs import atomic_directory
from compositional_prompts.files.tensors.finite_numbers import require_finite_weights
from compositional_prompts.weights.micro_models import MicroModels, pretrain_micro_models
from compositional_prompts.weights.parameters import ClipSource, TroikaClipSource, Weights


def provide_weights(
    params: Weights,
    *,
    corpus: Path,
    clip: Path,
    troika_clip: Path,
    blip2: Path,
    seed: int,
    workers: int,
    device: torch.device,
    checkpoints: Callable[[str], Checkpoints],
) -> int:
    """Fill the three model folders as the parameters say.

    Args:
        params: where each model comes from.
        corpus: table of training images with titles (schema CORPUS), read if it is asked for.
        clip: folder of the CLIP that embeds images and words.
        troika_clip: folder of the CLIP that Troika adapts.
        blip2: folder of the captioner.
        seed: of everything that is trained.
        workers: processes that draw a generated corpus, then train; never changes a result.
        device: where to train.
        checkpoints: those of each training by its name, so that a killed run goes on.

    Returns:
        The number of image-caption pairs pretrained on; 0 where nothing was.

    Raises:
        CheckpointError: a checkpoint is damaged.
        DamagedOutputError: weights are no whole file, or a number of them is not finite.
    """
    # What is fetched comes first: a name that is wrong shows before anything is trained.
    if params.clip.source != "pretrain":
        _fetch_clip(params.clip, clip)
    if params.troika_clip.source in ("hub", "path"):
        _fetch_clip(params.troika_clip, troika_clip)
    if params.blip2.source != "pretrain":
        with atomic_directory(blip2) as directory:
            fetch_captioner(
                params.blip2.source, params.blip2.name, params.blip2.revision, directory
            )
    micro = MicroModels(None, None, 0)
    trained = [
        folder
        for folder, source in ((clip, params.clip), (troika_clip, params.troika_clip))
        if source.source == "pretrain"
    ]
    if params.pretrains:
        micro = pretrain_micro_models(
            params.pretrain,
            corpus,
            checkpoints,
            clip=bool(trained),
            captioner=params.blip2.source == "pretrain",
            seed=seed,
            workers=workers,
            device=device,
        )
    for folder in trained:
        with atomic_directory(folder) as directory:
            save_clip(micro.clip, MICRO_CONFIG, directory)
    if params.troika_clip.source == "same":
        with atomic_directory(troika_clip) as directory:
            shutil.copytree(clip, directory, dirs_exist_ok=True)
    if micro.captioner is not None:
        with atomic_directory(blip2) as directory:
            save_micro_captioner(micro.captioner, directory)
    for folder in (clip, troika_clip, blip2):
        require_finite_weights(*sorted(folder.glob("*.safetensors")))
    return micro.rows


def _fetch_clip(source: ClipSource | TroikaClipSource, folder: Path) -> None:
    assert source.source in ("hub", "path") and source.name is not None  # the section sees to it
    with atomic_directory(folder) as directory:
        fetch_clip(source.source, source.name, source.pretrained, source.revision, directory)
