"""What intervals of 95 % cost: processor time of 10,000 draws of the sample's figures.

    python benchmarks/intervals.py

Then of a mean of a million images. Values are drawn at random: time depends on counts alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.results.bootstrap import Bootstrap, Column, FigurePath
from compositional_prompts.results.czsl_figures import JudgedImages, czsl_bootstrap, czsl_figures
from compositional_prompts.scoring.caption_intervals import caption_means

RANDOM = np.random.default_rng(0)


def products(images: int, of: int) -> NDArray[np.int64]:
    return RANDOM.permutation(np.arange(images) % of)


def captions() -> None:
    """Three captioners, 23 figures each, and two differences of them."""
    columns: dict[str, dict[FigurePath, Column]] = {
        captioner: {(str(figure),): (RANDOM.random(243), None) for figure in range(23)}
        for captioner in ("base", "finetuned_free", "finetuned")
    }
    caption_means(columns, products(243, 99))


def words() -> None:
    """Two groups, seven figures each, by the same draws."""
    bootstrap = Bootstrap(products(2400, 995))
    for _ in range(2):
        bootstrap.means(RANDOM.random((2400, 7)))


def pairs() -> None:
    """Nine curves: five scorers, closed world; two, open world, with and without threshold."""
    bootstrap = czsl_bootstrap(products(440, 189))
    for _ in range(9):
        seen, hit, attribute, name = RANDOM.random((4, 440)) < 0.6
        judged = JudgedImages(seen, hit, RANDOM.normal(size=440), attribute, name)
        czsl_figures(judged, bootstrap)


def texts() -> None:
    """Three kinds of text, nine figures each."""
    for _ in range(3):
        Bootstrap(products(242, 100)).means(RANDOM.random((242, 9)))


def million() -> None:
    """A mean of a million images of 100,000 products."""
    Bootstrap(products(1_000_000, 100_000)).mean(RANDOM.random(1_000_000))


def seconds(measured: Callable[[], None]) -> float:
    start = time.process_time()
    measured()
    return time.process_time() - start


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    taken = {part.__name__: seconds(part) for part in (captions, words, pairs, texts)}
    for name, time_taken in taken.items():
        print(f"{name:10} {time_taken:6.2f} s")
    print(f"{'together':10} {sum(taken.values()):6.2f} s")
    print(f"{'million':10} {seconds(million):6.2f} s")


if __name__ == "__main__":
    main()
