"""What stages and commands must not import before they need it: it is most of their start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ALWAYS = (
    "datasets",
    "matplotlib.pyplot",
    "nltk",
    "pandas",
    "rouge_score",
    "scipy",
    "sklearn",
    "timm",
)
MODELS = ("torch", "torchvision", "transformers", "open_clip", "peft")
LANGUAGE = ("polars", "open_clip", "sacrebleu", "peft")
IMAGE_AND_TEXT = ("polars", "torch._dynamo", "transformers", "peft")

UNNEEDED = {
    "stages/check.py": (*MODELS, "polars", "matplotlib"),
    "stages/check_data.py": (*MODELS, "polars", "matplotlib"),
    "stages/download.py": MODELS,
    "stages/truth.py": (*MODELS, "polars", "matplotlib"),
    "stages/split.py": MODELS,
    "stages/drift.py": (*MODELS, "polars", "matplotlib"),
    "stages/colors.py": (*MODELS, "polars"),
    "stages/word_scorer.py": (*MODELS, "polars"),
    "stages/enhance.py": (*MODELS, "polars"),
    "stages/stability.py": (*IMAGE_AND_TEXT, "accelerate", "sympy"),
    "stages/recommend.py": (*MODELS, "polars", "matplotlib", "sacrebleu"),
    "stages/report.py": MODELS,
    "stages/summary.py": (*MODELS, "polars", "matplotlib"),
    "stages/clip_embed.py": (*IMAGE_AND_TEXT, "accelerate", "sympy"),
    "stages/troika_predict.py": (*IMAGE_AND_TEXT, "accelerate", "sympy"),
    "stages/troika_train.py": IMAGE_AND_TEXT,
    "stages/score.py": (*IMAGE_AND_TEXT, "accelerate", "sympy"),
    "stages/blip2_features.py": LANGUAGE,
    "stages/infer.py": LANGUAGE,
    "stages/finetune.py": ("polars", "open_clip"),
    "stages/weights.py": ("polars", "peft"),
    "src/compositional_prompts/deployment/captioning.py": ("polars", "open_clip", "sacrebleu"),
}


def test_every_stage_is_held() -> None:
    stages = {str(path.relative_to(ROOT)) for path in (ROOT / "stages").glob("*.py")}
    assert stages <= UNNEEDED.keys()


@pytest.mark.parametrize("script", UNNEEDED)
def test_nothing_is_imported_that_is_not_needed(script: str) -> None:
    names = (*ALWAYS, *UNNEEDED[script])
    code = (
        f"import runpy, sys; runpy.run_path({script!r}, run_name='imported'); "
        f"print([name for name in {names} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr
