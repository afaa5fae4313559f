"""What labels are worth: accuracy by number of labels, for chosen photos and for random ones.

On a finished run whose training photos have truth, labels are hidden and asked for in rounds, as
`compositional-prompts label` asks for them: the photos of the first round by the probe without a
label (zero-shot), those of the next by the probe learnt from the rounds before. After each round
the probe is learnt anew. A photo whose true word the vocabulary lacks costs a label too. Printed
are, by number of labels, the share of test photos whose best word is true, the mean over seeds
with its 95 % interval over products and the spread over seeds; and the difference of choosing and
chance on the same photos.

    python benchmarks/labelling.py --project PATH                    # a run of the footwear preset
    python benchmarks/labelling.py --project PATH --rounds 50 100 --seeds 1
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.clip.prompt_ensembles import embed_ensembles
from compositional_prompts.enhancement.fitting.labelled_images import (
    FittingPaths,
    LabelledImages,
    read_labelled,
)
from compositional_prompts.enhancement.fitting.probe import fit_probe
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.word_scorer import GroupScorer
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.labelling.informative_choice import choose_informative
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.results.bootstrap import Bootstrap

ROUNDS = (50, 100, 150, 200, 250, 400)
MOST = 50_000

Choice = Callable[
    [NDArray[np.float32], LabelledImages, int, np.random.Generator], NDArray[np.int64]
]


def by_choice(
    probabilities: NDArray[np.float32],
    images: LabelledImages,
    wanted: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    return choose_informative(probabilities, images.vectors, images.products, wanted, random)


def by_chance(
    probabilities: NDArray[np.float32],
    images: LabelledImages,
    wanted: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    return random.permutation(len(images))[:wanted]


@dataclass(frozen=True)
class Simulation:
    """A group of words, the photos to label, and those to measure by."""

    group: str
    words: Sequence[str]
    bare: NDArray[np.float32]
    texts: NDArray[np.float32]
    logit_scale: float
    train: LabelledImages
    test: LabelledImages

    def learnt(self, rows: NDArray[np.int64]) -> GroupScorer:
        images = self.train.take(rows)
        return fit_probe(
            self.words, self.bare, self.texts, self.logit_scale, images, self.group
        ).scorer

    def scores(self, scorer: GroupScorer, images: LabelledImages) -> NDArray[np.float32]:
        """Logarithms of probabilities."""
        return scorer.scores(images.vectors, images.colors.get(self.group))

    def run(self, choice: Choice, rounds: Sequence[int], seed: int) -> NDArray[np.bool_]:
        """Whether each test photo's best word is true, by round, bool ``[rounds, images]``."""
        random = np.random.default_rng(seed)
        labelled = np.empty(0, np.int64)
        scorer = self.learnt(labelled)
        hits = []
        for wanted in rounds:
            pool = np.setdiff1d(np.arange(len(self.train)), labelled)
            images = self.train.take(pool)
            probabilities = np.exp(self.scores(scorer, images))
            picked = pool[choice(probabilities, images, wanted - len(labelled), random)]
            labelled = np.concatenate([labelled, picked])
            scorer = self.learnt(np.sort(labelled))
            best = self.scores(scorer, self.test).argmax(axis=1)
            hits.append(self.test.truth[self.group][np.arange(len(self.test)), best])
        return np.stack(hits)


def read_simulation(project: Path, group: str) -> Simulation:
    params, _ = read_params(project / "params.yaml", Enhance)
    data = project / "data"
    vocabulary = read_vocabulary(data / "embeddings" / "words.parquet")
    words = vocabulary.words[group]
    clip = project / "models" / "clip"
    ensembles, logit_scale = embed_ensembles(clip, {group: words}, params.templates)
    paths = FittingPaths(
        splits=data / "splits.parquet",
        truth=data / "truth.parquet",
        vectors=data / "embeddings" / "images",
        colors=data / "colors",
    )
    train, test = (
        read_labelled(paths, split, {group: words}, [group], MOST) for split in ("train", "test")
    )
    bare = vocabulary.vectors[group]
    return Simulation(group, words, bare, ensembles[group], logit_scale, train, test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--project", type=Path, default=Path(), help="a finished run of the pipeline"
    )
    parser.add_argument("--group", default="color")
    parser.add_argument("--rounds", type=int, nargs="+", default=ROUNDS)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    simulation = read_simulation(arguments.project, arguments.group)
    bootstrap = Bootstrap(simulation.test.products)
    print(f"{len(simulation.train)} photos to label, {len(simulation.test)} to measure by")
    hits = {}
    for name, choice in (("chosen", by_choice), ("random", by_chance)):
        start = time.perf_counter()
        seeds = range(arguments.seeds)
        hits[name] = np.stack([simulation.run(choice, arguments.rounds, seed) for seed in seeds])
        print(f"{name}: {time.perf_counter() - start:.0f} s for {arguments.seeds} seeds")
        for place, labels in enumerate(arguments.rounds):
            found = bootstrap.mean(hits[name][:, place].mean(axis=0))
            spread = hits[name][:, place].mean(axis=1).std(ddof=min(1, arguments.seeds - 1))
            print(
                f"{name} {labels:5}: {found.value:.3f} ({found.low:.3f} to {found.high:.3f}), "
                f"spread over seeds {spread:.3f}",
                flush=True,
            )
    last = hits["random"][:, -1].mean(axis=0)
    for place, labels in enumerate(arguments.rounds):
        chosen = hits["chosen"][:, place].mean(axis=0)
        same = bootstrap.difference(chosen, hits["random"][:, place].mean(axis=0))
        most = bootstrap.difference(chosen, last)
        print(
            f"{labels:5} chosen less as many random: {same.value:+.3f} ({same.low:+.3f} to "
            f"{same.high:+.3f}); less {arguments.rounds[-1]} random: {most.value:+.3f} "
            f"({most.low:+.3f} to {most.high:+.3f})"
        )


if __name__ == "__main__":
    main()
