"""Runs a stage whose model costs nothing: what is left is all that the stage does beside it.

    python benchmarks/measuring/costless_models.py stages/clip_embed.py --catalog ...

Its rows have the types of the real ones, are told apart by the photo, and mean nothing.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BEST_FIRST = 0.5
"""Of the probabilities of a photo's pairs, each is so much of the one before."""


class CostlessWorker:
    """Knows of an item the number in the last bytes of its photo."""

    def __init__(self, rows: Callable[[NDArray[np.int64]], NDArray[Any]]) -> None:
        self._rows = rows

    def prepare(self, value: Any) -> int:
        photo = value if isinstance(value, bytes) else value.image
        return int.from_bytes(photo[-4:], "little")

    def compute(self, prepared: Sequence[int]) -> NDArray[Any]:
        return self._rows(np.array(prepared, np.int64))


def cost_nothing_in_clip_embed() -> None:
    from compositional_prompts.clip.catalog_vectors import ClipVectors
    from compositional_prompts.clip.open_clip_model import CONFIG_FILE

    def start(self: ClipVectors) -> CostlessWorker:
        config = json.loads((self.clip / CONFIG_FILE).read_text())
        width = config["model_cfg"]["embed_dim"]

        def rows(numbers: NDArray[np.int64]) -> NDArray[Any]:
            vectors = np.sin((numbers[:, None] + 1) * np.arange(1, width + 1), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            return vectors.view([("vector", np.float32, width)])[:, 0]

        return CostlessWorker(rows)

    ClipVectors.start = start  # type: ignore[assignment, method-assign]


def cost_nothing_in_troika_predict() -> None:
    """Photos that are measured are looked at all the same."""
    from compositional_prompts.troika.naming import PairNames, named_dtype

    def start(self: PairNames) -> CostlessWorker:
        def rows(numbers: NDArray[np.int64]) -> NDArray[Any]:
            named = np.empty(len(numbers), named_dtype(self.kept))
            places = np.arange(self.kept)
            named["positions"] = (numbers[:, None] + places) % len(self.vocabulary.pairs)
            named["probabilities"] = BEST_FIRST ** (places + 1)
            return named

        return CostlessWorker(rows)

    PairNames.start = start  # type: ignore[assignment, method-assign]


def cost_nothing_in_colors() -> None:
    from compositional_prompts.enhancement.colors.foreground_colors import ForegroundColors

    def start(self: ForegroundColors) -> CostlessWorker:
        def rows(numbers: NDArray[np.int64]) -> NDArray[Any]:
            colors = np.zeros(len(numbers), self.row_type)
            colors["histogram"][:, 0] = 1
            colors["votes"] = 1 + (numbers[:, None] + np.arange(colors["votes"].shape[1])) % 7
            return colors

        return CostlessWorker(rows)

    ForegroundColors.start = start  # type: ignore[assignment, method-assign]
    ForegroundColors.in_processes = False  # others would not have what is replaced here


def cost_nothing_in_infer() -> None:
    from compositional_prompts.captioner.caption_rows import Captions
    from compositional_prompts.captioner.model.blip2_model import load_processor

    texts = [
        f"A photo of {attribute}_{name} with {color} color and leather material"
        for attribute in ("Canvas", "Leather", "Suede", "Nubuck")
        for name in ("Boots.Ankle", "Shoes.Flats", "Sandals")
        for color in ("black", "white", "brown", "red", "blue")
    ]

    def start(self: Captions) -> CostlessWorker:
        tokenizer: Any = load_processor(self.blip2).tokenizer  # type: ignore[attr-defined]
        written = [tokenizer(text)["input_ids"][: self.max_new_tokens] for text in texts]
        captions = np.full((len(texts), self.max_new_tokens), tokenizer.eos_token_id, np.int32)
        for row, tokens in zip(captions, written, strict=True):
            row[: len(tokens)] = tokens
        counts = np.array([len(tokens) for tokens in written], np.int32)

        def rows(numbers: NDArray[np.int64]) -> NDArray[Any]:
            found = np.empty(
                len(numbers),
                [("tokens", np.int32, (self.max_new_tokens,)), ("count", np.int32)],
            )
            found["tokens"] = captions[numbers % len(texts)]
            found["count"] = counts[numbers % len(texts)]
            return found

        return CostlessWorker(rows)

    Captions.start = start  # type: ignore[assignment, method-assign]


COSTLESS = {
    "clip_embed": cost_nothing_in_clip_embed,
    "troika_predict": cost_nothing_in_troika_predict,
    "colors": cost_nothing_in_colors,
    "infer": cost_nothing_in_infer,
}


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    COSTLESS[Path(sys.argv[0]).stem]()
    runpy.run_path(sys.argv[0], run_name="__main__")
