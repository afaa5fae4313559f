"""How true the probabilities of words are on held-out products, and what precision is reached.

    python benchmarks/calibration.py PROJECT --group color --precision 0.9 --draws 200

PROJECT has run the stages ``split``, ``clip_embed`` and ``colors``. A scorer of every method is
learnt from all its training products, calibrated on its validation products and held against its
test products. Then validation and test products are shuffled and parted anew, to see how often the
precision wanted is reached: not by one lucky draw.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from compositional_prompts.clip.prompt_ensembles import embed_ensembles
from compositional_prompts.enhancement.calibration.group_calibration import calibrate_group
from compositional_prompts.enhancement.calibration.held_out_words import Certainty, judge_certainty
from compositional_prompts.enhancement.fitting.labelled_images import (
    FittingPaths,
    LabelledImages,
    read_labelled,
)
from compositional_prompts.enhancement.fitting.word_fitting import (
    PromptEnsembles,
    fit_word_scorer,
)
from compositional_prompts.enhancement.parameters import Enhance, Method
from compositional_prompts.enhancement.word_vocabulary import Vocabulary, read_vocabulary

ROOT = Path(__file__).resolve().parents[1]
MOST = 1_000_000


@dataclass(frozen=True)
class Scored:
    """Images of which something is true: scores and truth ``[n, words]``, products ``[n]``, and
    whether the method lets their word through, ``[n]``."""

    scores: NDArray[np.float32]
    truth: NDArray[np.bool_]
    products: NDArray[np.int64]
    eligible: NDArray[np.bool_]

    def of(self, rows: NDArray[np.bool_]) -> Scored:
        return Scored(self.scores[rows], self.truth[rows], self.products[rows], self.eligible[rows])


def together(one: Scored, other: Scored) -> Scored:
    """Both, whose products are not the same."""
    return Scored(
        np.concatenate([one.scores, other.scores]),
        np.concatenate([one.truth, other.truth]),
        np.concatenate([one.products, other.products + one.products.max() + 1]),
        np.concatenate([one.eligible, other.eligible]),
    )


def judge(validation: Scored, test: Scored, precision: float) -> tuple[float, Certainty]:
    """The temperature, and what test images say of it."""
    found = calibrate_group(
        "word",
        validation.scores,
        validation.truth,
        validation.products,
        precision,
        validation.eligible,
    )
    assert found.temperature is not None and found.abstain_below is not None
    rows, best = np.arange(len(test.scores)), test.scores.argmax(axis=1)
    probability = found.temperature.probabilities(test.scores)[rows, best]
    written = test.eligible & (probability >= np.float32(found.abstain_below))
    right = test.truth[rows, best]
    certainty = judge_certainty(probability, right, written, [f"{p}" for p in test.products])
    return found.temperature.temperature, certainty


def reached(validation: Scored, test: Scored, precision: float, draws: int) -> str:
    """How often, of random partings of the products, words are written as precisely as wanted."""
    both = together(validation, test)
    products = np.unique(both.products)
    share = len(np.unique(validation.products)) / len(products)
    precisions = []
    for seed in range(draws):
        chosen = np.random.default_rng(seed).random(len(products)) < share
        calibrating = np.isin(both.products, products[chosen])
        found = calibrate_group(
            "word",
            both.scores[calibrating],
            both.truth[calibrating],
            both.products[calibrating],
            precision,
            both.eligible[calibrating],
        )
        rest = both.of(~calibrating)
        assert found.temperature is not None and found.abstain_below is not None
        rows, best = np.arange(len(rest.scores)), rest.scores.argmax(axis=1)
        probability = found.temperature.probabilities(rest.scores)[rows, best]
        written = rest.eligible & (probability >= np.float32(found.abstain_below))
        if written.any():
            precisions.append(float(rest.truth[rows, best][written].mean()))
    if not precisions:
        return f"0 of {draws}"
    kept = np.mean([one >= precision for one in precisions])
    mean = np.mean(precisions)
    return f"{len(precisions)} of {draws}, mean {mean:.3f}, {kept:.0%} reach it"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a project")
    parser.add_argument("--group", default="color")
    parser.add_argument("--precision", type=float, default=0.9)
    parser.add_argument("--draws", type=int, default=200, help="partings of held-out products")
    arguments = parser.parse_args()
    data, group = arguments.run / "data", arguments.group
    words = read_vocabulary(data / "embeddings" / "words.parquet")
    vocabulary = Vocabulary({group: words.words[group]}, {group: words.vectors[group]})
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text())["enhance"]
    clip = arguments.run / "models" / "clip"
    ensembles = PromptEnsembles(*embed_ensembles(clip, vocabulary.words, shipped["templates"]))
    paths = FittingPaths(
        data / "splits.parquet", data / "truth.parquet", data / "embeddings/images", data / "colors"
    )
    train, validation, test = (
        read_labelled(paths, split, vocabulary.words, [group], MOST)
        for split in ("train", "val", "test")
    )
    print(f"{len(validation)} validation and {len(test)} test images with truth\n")
    print(
        "| method | temperature | calibration error | equal mass | by chance | area | precision |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    methods: list[Method] = ["cosine", "zero_shot", "probe"]
    if group in test.colors:
        methods.insert(2, "pixels")
    for method in methods:
        params = Enhance.model_validate(
            shipped | {"method": method, "methods": [], "abstain": None}
        )
        nothing = test.take(np.empty(0, np.int64))
        scorer = fit_word_scorer(vocabulary, ensembles, train, nothing, params).scorer

        def scored(images: LabelledImages, scorer=scorer, threshold=params.threshold) -> Scored:
            scores = scorer.scores(images.vectors, images.colors)[group]
            eligible = scorer.groups[group].choose(scores, threshold).chosen
            return Scored(scores, images.truth[group], images.products, eligible)

        held = scored(validation), scored(test)
        temperature, certainty = judge(*held, arguments.precision)
        figures = certainty.figures
        low, high = figures["ece_interval"] or (float("nan"), float("nan"))
        precision = "no word is written"
        if figures["precision"] is not None and figures["precision_interval"] is not None:
            ends = figures["precision_interval"]
            precision = (
                f"{figures['precision']:.3f} ({ends[0]:.3f} to {ends[1]:.3f}) "
                f"of {figures['coverage']:.3f}"
            )
        print(
            f"| {method} | {temperature:.3g} | {figures['ece']:.3f} ({low:.3f} to {high:.3f}) | "
            f"{figures['ece_equal_mass']:.3f} | {figures['ece_by_chance']:.3f} | "
            f"{figures['aurc']:.3f} | {precision} |",
            flush=True,
        )
        rows.append(f"{method}: {reached(*held, arguments.precision, arguments.draws)}")
    print(f"\nPartings in which words are written, wanted {arguments.precision:g}:")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
