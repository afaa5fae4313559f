"""Which models and tables a command needs.

Asked for before anything heavy is imported, so that what is missing is told at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

ADAPTER: Final = Path("models/blip2_lora")
BLIP2: Final = Path("models/blip2")
CLIP: Final = Path("models/clip")
TROIKA: Final = Path("models/troika")
TROIKA_CLIP: Final = Path("models/troika_clip")
PAIRS: Final = Path("data/pairs.parquet")
SCORES: Final = Path("metrics/scores.json")
FINETUNING: Final = Path("metrics/finetune.json")
DOWNLOADED: Final = Path("metrics/download.json")


def adapter_in(folder: Path) -> Path:
    return folder / "adapter_config.json"


def captioner_in(folder: Path) -> Path:
    return folder / "config.json"


def clip_in(folder: Path) -> Path:
    return folder / "open_clip_config.json"


PAIR_NEEDS: Final = (clip_in(TROIKA_CLIP), TROIKA / "config.json", PAIRS)
"""What naming a photo's pair takes."""

WORD_NEEDS: Final = (clip_in(CLIP), PAIRS)
"""What scoring the vocabulary's words takes, and reading the caption's: pairs name attributes."""

CARD_NEEDS: Final = (SCORES, FINETUNING, DOWNLOADED)
"""The metrics that a model card tells."""
