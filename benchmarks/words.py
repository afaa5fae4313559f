"""How often the words of a group are true on held-out products, by each method.

    python benchmarks/words.py PROJECT --group color --labels 200 --seeds 3

PROJECT has run the stages ``split``, ``clip_embed`` and ``colors``. A scorer is learnt here
from its training products, with all labels and with few of them drawn at random, and held against
the truth of its test products, which no scorer has seen. Intervals are of 95 %, by bootstrap over
products. Of all labels nothing is drawn, so there is one figure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from measuring.word_methods import WordMethods
from numpy.typing import NDArray

from compositional_prompts.enhancement.fitting.labelled_images import LabelledImages
from compositional_prompts.enhancement.parameters import Method
from compositional_prompts.results.bootstrap import Bootstrap


def right(
    method: Method, methods: WordMethods, train: LabelledImages, test: LabelledImages
) -> NDArray[np.bool_]:
    """Whether the best word of every test image is true, bool ``[n]``."""
    (group,) = methods.vocabulary.words
    scores = methods.fit(method, train).scores(test.vectors, test.colors)[group]
    true: NDArray[np.bool_] = test.truth[group][np.arange(len(test)), scores.argmax(axis=1)]
    return true


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a project")
    parser.add_argument("--group", default="color")
    parser.add_argument("--labels", type=int, default=200, help="few labels, drawn at random")
    parser.add_argument("--seeds", type=int, default=3, help="of which labels are drawn")
    arguments = parser.parse_args()
    group, words = arguments.group, WordMethods.of_run(arguments.run, arguments.group)
    train, test = words.labelled("train"), words.labelled("test")
    bootstrap = Bootstrap(test.products)
    labelled = np.flatnonzero(train.truth[group].any(axis=1))
    print(f"{len(test)} test images with truth, {len(labelled)} training images to learn from\n")
    print("| method | labels | accuracy | 95 % interval |\n| --- | --- | --- | --- |", flush=True)

    def show(method: Method, labels: str, images: LabelledImages) -> float:
        found = bootstrap.mean(right(method, words, images, test))
        assert found.value is not None
        low, high = found.bounds or (float("nan"), float("nan"))
        row = f"| {method} | {labels} | {found.value:.3f} | {low:.3f} to {high:.3f} |"
        print(row, flush=True)
        return found.value

    methods: list[Method] = ["cosine", "zero_shot"]
    if group in test.colors:
        methods.append("pixels")
    for method in methods:
        show(method, "none", train)
    few = []
    for seed in range(arguments.seeds):
        rows = np.random.default_rng(seed).permutation(labelled)[: arguments.labels]
        few.append(show("probe", f"{len(rows)}, seed {seed}", train.take(np.sort(rows))))
    print(f"| probe | mean of these | {np.mean(few):.3f} | |")
    show("probe", f"all {len(labelled)}", train)


if __name__ == "__main__":
    main()
