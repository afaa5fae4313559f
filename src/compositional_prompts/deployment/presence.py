"""Whether the models and tables that a command needs are there, and what brings those that are not.

Asked before anything heavy is imported, so that the answer comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple


class Need(NamedTuple):
    """A file, and the output of a stage that it belongs to."""

    file: Path
    output: Path
    stage: str


ADAPTER: Final = Path("models/blip2_lora")
BLIP2: Final = Path("models/blip2")
CLIP: Final = Path("models/clip")
TROIKA: Final = Path("models/troika")
TROIKA_CLIP: Final = Path("models/troika_clip")
PAIRS: Final = Path("data/pairs.parquet")
SCORES: Final = Path("metrics/scores.json")
FINETUNING: Final = Path("metrics/finetune.json")
DOWNLOADED: Final = Path("metrics/download.json")


def adapter_in(folder: Path) -> Need:
    return Need(folder / "adapter_config.json", folder, "finetune")


def captioner_in(folder: Path) -> Need:
    return Need(folder / "config.json", folder, "weights")


PAIR_NEEDS: Final = (
    Need(TROIKA_CLIP / "open_clip_config.json", TROIKA_CLIP, "weights"),
    Need(TROIKA / "config.json", TROIKA, "troika_train"),
    Need(PAIRS, PAIRS, "split"),
)
"""What naming a photo's pair takes."""

WORD_NEEDS: Final = (
    Need(CLIP / "open_clip_config.json", CLIP, "weights"),
    Need(PAIRS, PAIRS, "split"),
)
"""What scoring the vocabulary's words takes, and reading the caption's: pairs name attributes."""

CARD_NEEDS: Final = (
    Need(SCORES, SCORES, "score"),
    Need(FINETUNING, FINETUNING, "finetune"),
    Need(DOWNLOADED, DOWNLOADED, "download"),
)
"""The metrics that a model card tells."""


def require(*needs: Need) -> None:
    """Check that every file is there.

    Raises:
        FileNotFoundError: naming each one that is not, with the commands that bring it.
    """
    lines = []
    for need in dict.fromkeys(needs):
        if need.file.is_file():
            continue
        # Metrics lie in git, which brings them with the commit; only outputs can be pulled.
        pull = f" or `dvc pull {need.output}`" if need.output.parts[0] != "metrics" else ""
        lines.append(f"{need.file} is missing: run `dvc repro {need.stage}`{pull}.")
    if lines:
        raise FileNotFoundError("\n  ".join(lines))
