"""Fine-tuning on a catalog: from its tables and features to an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from compositional_prompts.captioner.features.image_inputs import load_for_inputs, open_inputs
from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.captioner.training.caption_batches import CaptionPairs
from compositional_prompts.captioner.training.caption_trainer import Outcome, finetune
from compositional_prompts.catalog.splitting.split_tables import PAIRS_OF_OBJECTS
from compositional_prompts.catalog.titles import read_titles, untitled_images
from compositional_prompts.compute.precision import ResolvedPrecision
from compositional_prompts.compute.training.checkpoints import Checkpoints
from compositional_prompts.compute.training.training_run import TrainingError
from compositional_prompts.files.tables import read_table
from compositional_prompts.pipeline.section import Base
from compositional_prompts.prompt.pair import NO_ATTRIBUTE


@dataclass(frozen=True)
class FinetunePaths:
    """What fine-tuning reads and writes.

    Attributes:
        features: of every image, or what says that there are none.
        catalog: directory of image shards.
        prompts: ``enhanced.parquet``, what is learnt, unless ``finetune.target`` is title.
        splits: ``splits.parquet``.
        pairs: ``pairs.parquet``, and
        words: ``words.parquet``: what captions may name.
        blip2: the model that is adapted.
        adapter: folder to write.
        curve: folder of the curve to write.
    """

    features: Path
    catalog: Path
    prompts: Path
    splits: Path
    pairs: Path
    words: Path
    blip2: Path
    adapter: Path
    curve: Path

    @property
    def inputs(self) -> list[Path]:
        """All that is read."""
        return [
            *(self.features, self.catalog, self.prompts, self.splits),
            *(self.pairs, self.words, self.blip2),
        ]


def train_adapter(
    paths: FinetunePaths,
    params: Finetune,
    base: Base,
    group: Accelerator,
    computed: ResolvedPrecision,
    checkpoints: Checkpoints,
    words: Mapping[str, Sequence[str]],
) -> Outcome:
    """Train an adapter on the images whose ``caption_split`` is train, and write it.

    Args:
        paths: what is read and written.
        params: ``finetune``.
        base: seed and workers.
        group: the processes that train together.
        computed: in what the frozen weights are.
        checkpoints: where to go on from and what to write on the way.
        words: of every attribute group, as ``paths.words`` has them.

    Raises:
        As :func:`~.caption_trainer.finetune`; an input is missing or not as declared.
    """
    captioner = load_for_inputs(paths.blip2, paths.features, group.device, computed.precision)
    source = paths.features, paths.catalog, captioner
    pairs = read_table(paths.pairs, PAIRS_OF_OBJECTS)
    attributes = [attribute or NO_ATTRIBUTE for attribute in pairs["attribute"].to_pylist()]
    train, val = _targets(paths, params, base.seed)
    outcome = finetune(
        captioner,
        open_inputs(*source, workers=base.workers, augment=params.augment, seed=base.seed),
        train,
        val,
        params,
        pairs=list(zip(attributes, pairs["object"].to_pylist(), strict=True)),
        words=words,
        adapter=paths.adapter,
        curve=paths.curve,
        seed=base.seed,
        checkpoints=checkpoints,
        accelerator=group,
        val_inputs=open_inputs(*source, workers=base.workers),
    )
    if params.target == "title":
        outcome.metrics["untitled"] = untitled_images(paths.catalog, paths.splits)
    return outcome


def _targets(
    paths: FinetunePaths, params: Finetune, seed: int
) -> tuple[CaptionPairs, CaptionPairs]:
    """What is learnt, and what the best epoch is chosen on."""
    images = {"train": params.train_images, "val": None}
    if params.target == "title":
        titles = read_titles(paths.catalog)
        found = [
            CaptionPairs.titled(paths.splits, titles, split, most, seed)
            for split, most in images.items()
        ]
        for split, pairs in zip(images, found, strict=True):
            if not pairs.image_ids:
                raise TrainingError(
                    f"finetune.target is title, and no image of the split {split} has one: bring "
                    "titles with the data set, or set it to enhanced."
                )
    else:
        found = [
            CaptionPairs.read(paths.splits, paths.prompts, split, most, seed)
            for split, most in images.items()
        ]
    return found[0], found[1]
