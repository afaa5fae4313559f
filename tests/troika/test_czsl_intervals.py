"""Weighted curves of every draw against the metrics of images that are really repeated."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from compositional_prompts.results import czsl_figures as module
from compositional_prompts.results.bootstrap import Bootstrap
from compositional_prompts.results.czsl_figures import CZSL_FIGURES, czsl_figures
from compositional_prompts.troika.evaluation.czsl_intervals import CzslIntervals, judged_images
from compositional_prompts.troika.evaluation.czsl_metrics import czsl_metrics
from compositional_prompts.troika.evaluation.judging import Judgements, World, judge

PAIRS = [(a, o) for a in range(3) for o in range(3)]


def judged(
    images: int, *, ties: bool = False, seen: list[bool] | None = None, scale: float = 1.0
) -> Judgements:
    random = np.random.default_rng()
    world = World.of(torch.tensor(PAIRS), torch.tensor(seen or [True] * 5 + [False] * 4))
    truth = random.integers(0, len(PAIRS), images)
    scores = random.normal(size=(images, len(PAIRS))) * scale
    scores[np.arange(images), truth] += 0.7
    if ties:
        scores = np.round(scores * 2) / 2
    return judge(torch.from_numpy(scores), torch.from_numpy(truth), world)


def repeated(judgements: Judgements, times: np.ndarray) -> Judgements:
    rows = torch.from_numpy(np.repeat(np.arange(len(times)), times))
    return Judgements(
        **{one.name: getattr(judgements, one.name)[rows] for one in fields(Judgements)}
    )


@pytest.mark.parametrize("ties", [False, True])
def test_every_draw_has_the_metrics_of_its_images(
    ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    judgements = judged(40, ties=ties)
    products = np.random.default_rng().permutation(np.arange(40) % 13)
    monkeypatch.setattr(module, "BLOCK", 70)
    bootstrap = Bootstrap(products, draws=60)
    whole, found = czsl_figures(judged_images(judgements), bootstrap)
    assert whole.tolist() == pytest.approx(
        [czsl_metrics(judgements)[name] for name in CZSL_FIGURES]
    )
    counts = np.concatenate(list(bootstrap.counts())).astype(int)
    assert found.shape == (60, len(CZSL_FIGURES))
    for row, drawn in zip(found, counts, strict=True):
        expected = czsl_metrics(repeated(judgements, drawn[products]))
        for name, value in zip(CZSL_FIGURES, row, strict=True):
            number = expected[name]
            assert np.isnan(value) if number is None else value == pytest.approx(number, abs=1e-9)


def test_margins_without_an_end_are_where_the_curve_has_them() -> None:
    """Without seen candidates unseen pairs win at every bias, and the other way round."""
    for seen in ([False] * 9, [True] * 9):
        judgements = judged(30, seen=seen)
        bootstrap = Bootstrap(np.arange(30) % 7, draws=20)
        _, found = czsl_figures(judged_images(judgements), bootstrap)
        whole = czsl_metrics(judgements)
        assert whole["auc"] is None and np.isnan(found[:, CZSL_FIGURES.index("auc")]).all()
    mixed = Judgements.concatenate([judged(20, seen=[False] * 9), judged(20, seen=[True] * 9)])
    bootstrap = Bootstrap(np.arange(40) % 11, draws=30)
    counts = np.concatenate(list(bootstrap.counts())).astype(int)
    for row, drawn in zip(czsl_figures(judged_images(mixed), bootstrap)[1], counts, strict=True):
        expected = czsl_metrics(repeated(mixed, drawn[np.arange(40) % 11]))
        assert [None if np.isnan(value) else pytest.approx(value) for value in row] == [
            expected[name] for name in CZSL_FIGURES
        ]


def test_intervals_stand_beside_metrics_and_a_scorer_has_no_lead_over_itself() -> None:
    judgements, other = judged(60), judged(60)
    products = np.arange(60) % 20
    intervals = CzslIntervals(products)
    found = intervals.metrics("troika", judgements)
    assert {key: value for key, value in found.items() if not key.endswith("_interval")} == {
        **czsl_metrics(judgements),
        "products": 20,
    }
    for name in CZSL_FIGURES:
        low, high = found[f"{name}_interval"]
        assert 0 <= low < high <= 1
    intervals.metrics("same", judgements)
    lead = intervals.minus("troika", "same")
    assert lead["auc"] == 0 and lead["auc_interval"] == [0, 0]
    intervals.metrics("other", other)
    lead = intervals.minus("troika", "other")
    assert lead["auc_interval"][0] < lead["auc"] < lead["auc_interval"][1]
    assert list(intervals.metrics("few", other, ("auc",))) == ["auc", "auc_interval"]


def test_no_images_have_no_intervals() -> None:
    intervals = CzslIntervals(np.array([], np.int64))
    found = intervals.metrics("troika", Judgements.concatenate([]))
    intervals.metrics("zero_shot", Judgements.concatenate([]))
    assert found["auc"] is None and found["auc_interval"] is None and found["products"] == 0
    assert intervals.minus("troika", "zero_shot")["object_accuracy_interval"] is None
