"""Models of random weights as a trained project has them, and captions by transformers alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from compositional_prompts.clip.open_clip_model import save_clip
from compositional_prompts.clip.prompt_ensembles import embed_ensembles
from compositional_prompts.enhancement.word_scorer import GroupScorer, WordScorer

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
PAIR_ROWS = [("Canvas", "Boots"), ("Canvas", "Sandals"), ("Suede", "Boots")]
SEGMENTS = [
    ["A photo of "],
    [f"{attribute}_{name}" for attribute, name in PAIR_ROWS],
    [" with "],
    ["white", "red"],
    [" color and "],
    ["rubber"],
    [" material"],
]
CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 2, "vocab_size": 49408},
}
BEAMS, TOKENS = 3, 12
WORDS = {"color": ["white", "red"], "material": ["rubber"]}


def write_clip(
    directory: Path,
    seed: int,
    resize_mode: str = "squash",
    change: Callable[[open_clip.CLIP], None] | None = None,
) -> None:
    """A CLIP of random weights as stages find it; ``change`` may move its weights."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**CLIP_CONFIG)
    if change is not None:
        change(model)
    settings = {
        "size": (16, 16),
        "mode": "RGB",
        "mean": (0.48, 0.46, 0.41),
        "std": (0.27, 0.26, 0.28),
        "interpolation": "bicubic",
        "resize_mode": resize_mode,
        "fill_color": 0,
    }
    open_clip.set_model_preprocess_cfg(model, settings)
    directory.mkdir(parents=True)
    save_clip(model, CLIP_CONFIG, directory)


def write_cosines(directory: Path, clip: Path, vocabulary: Mapping[str, Sequence[str]]) -> None:
    """The word scorer of the method cosine, of the bare words."""
    vectors, _ = embed_ensembles(clip, vocabulary, ["{}"])
    groups = {
        group: GroupScorer(tuple(words), "cosine", vectors[group])
        for group, words in vocabulary.items()
    }
    WordScorer(groups).save(directory)


def write_adapter(model: Any, directory: Path, targets: Sequence[str], seed: int = 1) -> None:
    """An adapter of random weights, strong enough to change what is said."""
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=list(targets)))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    adapted.save_pretrained(str(directory))


def set_params(path: Path, **sections: dict[str, Any]) -> None:
    """Change keys of sections of a ``params.yaml``."""
    document = yaml.safe_load(path.read_text())
    for section, values in sections.items():
        document[section] |= values
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def encoded(seed: int, kind: str = "PNG") -> bytes:
    """A photo of a few coloured patches."""
    noise = np.random.default_rng(seed).integers(0, 256, size=(3, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((24, 18), Image.Resampling.NEAREST).save(buffer, kind)
    return buffer.getvalue()


def write_recommendation(root: Path, recommended: str, *warnings: str) -> None:
    """What stage ``recommend`` says, as far as it is read after training."""
    document = {"recommended": recommended, "reason": "So it was seen.", "warnings": warnings}
    (root / "metrics" / "recommend.json").write_text(json.dumps(document))


Run = Callable[..., tuple[int, str, str]]


def plain_captions(
    root: Path,
    paths: Sequence[Path],
    adapter: bool = True,
    num_beams: int = BEAMS,
    length_penalty: float = 1.0,
) -> list[str]:
    """Captions of photos, one at a time, by transformers and PEFT alone."""
    blip2 = root / "models" / "blip2"
    processor = Blip2Processor.from_pretrained(blip2)
    model: Any = Blip2ForConditionalGeneration.from_pretrained(blip2)
    if adapter:
        model = PeftModel.from_pretrained(model, str(root / "models" / "blip2_lora"))
    captions = []
    for path in paths:
        inputs = processor(images=Image.open(path).convert("RGB"), return_tensors="pt")
        tokens = model.eval().generate(
            **inputs,
            num_beams=num_beams,
            max_new_tokens=TOKENS,
            early_stopping=num_beams > 1,
            length_penalty=length_penalty,
        )
        captions.append(processor.batch_decode(tokens, skip_special_tokens=True)[0].strip())
    return captions
