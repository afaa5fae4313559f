"""Where the trained models lie, and the tables and metrics that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compositional_prompts.pipeline.dvc_file import DVC_FILE, PipelineError, stage_paths

_ARGUMENTS = {
    "adapter": ("finetune", "adapter"),
    "blip2": ("weights", "blip2"),
    "clip": ("weights", "clip"),
    "word_scorer": ("word_scorer", "scorer"),
    "troika_clip": ("weights", "troika_clip"),
    "troika": ("troika_train", "model"),
    "pairs": ("split", "pairs"),
    "scores": ("score", "metrics"),
    "finetuning": ("finetune", "metrics"),
    "downloaded": ("download", "metrics"),
    "recommendation": ("recommend", "metrics"),
}
"""Of each, the stage that writes it and the argument that names it."""


@dataclass(frozen=True, slots=True)
class TrainedPaths:
    """Outputs of the pipeline, as ``dvc.yaml`` has them.

    Attributes:
        adapter: folder of BLIP-2's adapter.
        blip2: folder of the BLIP-2 that it was trained on.
        clip: folder of the CLIP that scores words.
        word_scorer: folder of how it scores them.
        troika_clip: folder of the CLIP that Troika was trained on.
        troika: folder of Troika.
        pairs: the table of pairs.
        scores: metrics of the captions.
        finetuning: metrics of the adapter's training.
        downloaded: metrics of the data set.
        recommendation: which text is recommended, and why.
    """

    adapter: Path
    blip2: Path
    clip: Path
    word_scorer: Path
    troika_clip: Path
    troika: Path
    pairs: Path
    scores: Path
    finetuning: Path
    downloaded: Path
    recommendation: Path

    @property
    def pair_files(self) -> tuple[Path, ...]:
        """What naming a photo's pair takes."""
        return clip_in(self.troika_clip), self.troika / "config.json", self.pairs

    @property
    def word_files(self) -> tuple[Path, ...]:
        """What scoring the words takes, and reading the caption's: pairs name attributes."""
        return clip_in(self.clip), self.word_scorer / "config.json", self.pairs

    @property
    def card_files(self) -> tuple[Path, ...]:
        """The metrics that a model card tells."""
        return self.scores, self.finetuning, self.downloaded, self.recommendation


def read_trained_paths(dvc_file: Path = DVC_FILE) -> TrainedPaths:
    """Look them up in the commands of ``dvc.yaml``.

    Raises:
        PipelineError: the file or one of the arguments is not there.
    """
    paths = stage_paths(dvc_file)
    found = {}
    for name, (stage, argument) in _ARGUMENTS.items():
        if argument not in paths.get(stage, {}):
            raise PipelineError(f"{dvc_file}: the stage {stage} has no argument --{argument}.")
        found[name] = paths[stage][argument]
    return TrainedPaths(**found)


def adapter_in(folder: Path) -> Path:
    return folder / "adapter_config.json"


def captioner_in(folder: Path) -> Path:
    return folder / "config.json"


def clip_in(folder: Path) -> Path:
    return folder / "open_clip_config.json"
