"""Writes reference_scores.json: what the reference implementations score 200 random pairs.

Needs ``pip install pycocoevalcap==1.2 bert-score==0.3.13``, of which the first is 100 MB, and Java
for METEOR 1.5:

    PYTHONPATH=src:tests python tests/scoring/caption_metrics/record_reference_scores.py
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from pathlib import Path

import pycocoevalcap.cider.cider
from bert_score import BERTScorer
from pycocoevalcap.cider.cider import Cider
from tiny_bert import save_tiny_bert

from compositional_prompts.scoring.slot_accuracy import plain_words

HERE = Path(__file__).parent
JAR = Path(pycocoevalcap.cider.cider.__file__).parents[1] / "meteor/meteor-1.5.jar"
OPTIONS = ("-l", "en", "-m", "exact stem", "-w", "1.0 1.0", "-p", "0.9 3.0 0.5 0.5")
PAIRS = 200
ATTRIBUTES = ("Canvas", "Suede", "Faux.Leather", "Patent.Leather", "Wool", "Étoffe")
OBJECTS = ("Sandals", "Boots.Ankle", "Shoes.Clogs.and.Mules", "Shoes.Loafers", "Slippers")
COLORS = ("black", "white", "brown", "red", "grün")
MATERIALS = ("leather", "fabric", "rubber")
LOOSE = (
    *("a", "a", "a", "the", "of", "with", "with", "and", "and", "photo", "shoe", "shoes", "boot"),
    *("boots", "running", "runs", "color", "colour", "colors", "leather", "red", "soles", "pair"),
)


def prompt(rng: random.Random) -> tuple[str, ...]:
    return tuple(map(rng.choice, (ATTRIBUTES, OBJECTS, COLORS, MATERIALS)))


def form(words: tuple[str, ...]) -> str:
    return "A photo of {}_{} with {} color and {} material".format(*words)


def draw_pairs(rng: random.Random) -> list[tuple[str, str]]:
    """Prompts with some words wrong, free captions of prompts, and loose words that repeat."""
    pairs = [("", form(prompt(rng))), ("red", form(prompt(rng)))]
    while len(pairs) < PAIRS:
        words, other = prompt(rng), prompt(rng)
        kind = len(pairs) % 5
        if kind < 2:
            said = tuple(b if rng.random() < 0.3 else a for a, b in zip(words, other, strict=True))
            pairs.append((form(said), form(words)))
        elif kind == 2:
            attribute, thing, color, material = words
            free = f"a studio photo of a pair of {color} {attribute} {thing} made of {material}"
            pairs.append((free, form(words)))
        elif kind == 3:
            loose = " ".join(rng.choices(LOOSE, k=rng.randint(1, 20)))
            pairs.append((loose, form(words)))
        else:
            a, b = (" ".join(rng.choices(LOOSE, k=rng.randint(1, 14))) for _ in range(2))
            pairs.append((a, b))
    return pairs


def main() -> None:
    pairs = draw_pairs(random.Random(6))
    captions, references = (
        [plain_words(text) for text in column] for column in zip(*pairs, strict=True)
    )
    _, cider = Cider().compute_score(
        {row: [text] for row, text in enumerate(references)},
        {row: [text] for row, text in enumerate(captions)},
    )
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("captions", "references")]
        for path, texts in zip(files, (captions, references), strict=True):
            path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        command = ["java", "-Dfile.encoding=UTF-8", "-jar", str(JAR), *map(str, files), *OPTIONS]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    meteor = [float(line.split()[-1]) for line in said.splitlines() if line.startswith("Segment ")]
    with tempfile.TemporaryDirectory() as folder:
        model = str(save_tiny_bert(Path(folder)))
        bert = BERTScorer(model_type=model, num_layers=2, device="cpu").score(
            *zip(*pairs[1:], strict=True)
        )
    scores = zip(cider.tolist(), meteor, [0.0, *bert[2].tolist()], strict=True)  # it fails on ""
    rows = [
        {"caption": caption, "reference": reference, "cider_d": d, "meteor": m, "bert_score": b}
        for (caption, reference), (d, m, b) in zip(pairs, scores, strict=True)
    ]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (HERE / "reference_scores.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
