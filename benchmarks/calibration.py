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
from measuring.word_methods import WordMethods, shipped
from numpy.typing import NDArray

from compositional_prompts.enhancement.calibration.group_calibration import calibrate_group
from compositional_prompts.enhancement.calibration.held_out_words import Certainty, judge_certainty
from compositional_prompts.enhancement.fitting.labelled_images import LabelledImages
from compositional_prompts.enhancement.parameters import Method


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


@dataclass(frozen=True)
class Judged:
    """Test images under a calibration: the probability of the best word, whether it is written,
    and whether it is true, each ``[n]``."""

    temperature: float
    probability: NDArray[np.float32]
    written: NDArray[np.bool_]
    right: NDArray[np.bool_]


def judge(validation: Scored, test: Scored, precision: float) -> Judged:
    """Calibrate on validation images, and apply that to test images."""
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
    return Judged(found.temperature.temperature, probability, written, test.truth[rows, best])


def certainty_of(judged: Judged, test: Scored) -> Certainty:
    products = [f"{product}" for product in test.products]
    return judge_certainty(judged.probability, judged.right, judged.written, products)


def reached(validation: Scored, test: Scored, precision: float, draws: int) -> str:
    """How often, of random partings of the products, words are written as precisely as wanted."""
    both = together(validation, test)
    products = np.unique(both.products)
    share = len(np.unique(validation.products)) / len(products)
    precisions = []
    for seed in range(draws):
        chosen = np.random.default_rng(seed).random(len(products)) < share
        calibrating = np.isin(both.products, products[chosen])
        judged = judge(both.of(calibrating), both.of(~calibrating), precision)
        if judged.written.any():
            precisions.append(float(judged.right[judged.written].mean()))
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
    group, words = arguments.group, WordMethods.of_run(arguments.run, arguments.group)
    train, validation, test = (words.labelled(split) for split in ("train", "val", "test"))
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
        scorer, threshold = words.fit(method, train), shipped(method).threshold

        def scored(images: LabelledImages, scorer=scorer, threshold=threshold) -> Scored:
            scores = scorer.scores(images.vectors, images.colors)[group]
            eligible = scorer.groups[group].choose(scores, threshold).chosen
            return Scored(scores, images.truth[group], images.products, eligible)

        held = scored(validation), scored(test)
        judged = judge(*held, arguments.precision)
        figures = certainty_of(judged, held[1]).figures
        low, high = figures["ece_interval"] or (float("nan"), float("nan"))
        precision = "no word is written"
        if figures["precision"] is not None and figures["precision_interval"] is not None:
            ends = figures["precision_interval"]
            precision = (
                f"{figures['precision']:.3f} ({ends[0]:.3f} to {ends[1]:.3f}) "
                f"of {figures['coverage']:.3f}"
            )
        print(
            f"| {method} | {judged.temperature:.3g} | "
            f"{figures['ece']:.3f} ({low:.3f} to {high:.3f}) | "
            f"{figures['ece_equal_mass']:.3f} | {figures['ece_by_chance']:.3f} | "
            f"{figures['aurc']:.3f} | {precision} |",
            flush=True,
        )
        rows.append(f"{method}: {reached(*held, arguments.precision, arguments.draws)}")
    print(f"\nPartings in which words are written, wanted {arguments.precision:g}:")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
