"""Logistic regression from prior scores, against torch in float64."""

import numpy as np
import pytest
import torch

from compositional_prompts.enhancement.fitting.logistic_regression import (
    BIAS_STRENGTH,
    GAIN_STRENGTH,
    Prior,
    fit_regression,
)


def problem(seed, images=60, words=4, width=5, labelled=None):
    """Features, truth with some images of two words, and two priors, one of them telling."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(images, width))
    kinds = random.integers(0, labelled or words, images)
    truth = np.eye(words, dtype=bool)[kinds]
    truth[: images // 6, 0] = True
    features[:, 0] += kinds
    telling = np.eye(words)[kinds] + random.normal(size=(images, words))
    return features, truth, [Prior(telling, 2.0), Prior(random.normal(size=(images, words)), 0.5)]


def by_torch(features, truth, priors, strength):
    """The same minimum by autograd and torch's optimiser; gains are free of the bound at 0."""
    x, target = torch.tensor(features), torch.tensor(truth / truth.sum(axis=1, keepdims=True))
    weights = torch.zeros(truth.shape[1], features.shape[1], dtype=torch.float64)
    bias = torch.zeros(truth.shape[1], dtype=torch.float64)
    gains = torch.tensor([prior.start for prior in priors], dtype=torch.float64)
    learnt = [one.requires_grad_() for one in (weights, bias, gains)]
    optimiser = torch.optim.LBFGS(
        learnt, max_iter=2000, tolerance_grad=1e-10, tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )  # fmt: skip
    seen = torch.tensor(truth.any(axis=0))

    def loss():
        optimiser.zero_grad()
        logits = x @ (weights * seen[:, None]).T + bias * seen
        for gain, prior in zip(gains, priors, strict=True):
            logits = logits + gain * torch.tensor(prior.scores)
        value = torch.nn.functional.cross_entropy(logits, target, reduction="sum")
        value = value + strength / 2 * weights.square().sum()
        value = value + BIAS_STRENGTH / 2 * bias.square().sum()
        for gain, prior in zip(gains, priors, strict=True):
            value = value + GAIN_STRENGTH / 2 * (gain / prior.start - 1).square()
        value.backward()
        return value

    optimiser.step(loss)
    return [one.detach().numpy() for one in (weights, bias, gains)]


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_the_minimum_is_torchs(strength):
    for seed in range(3):
        features, truth, priors = problem(seed)
        found = fit_regression(features, truth, priors, strength)
        weights, bias, gains = by_torch(features, truth, priors, strength)
        assert (gains > 0).all()
        np.testing.assert_allclose(found.weights, weights, atol=1e-3)
        np.testing.assert_allclose(found.bias, bias, atol=1e-3)
        np.testing.assert_allclose(found.gains, gains, atol=1e-3)


def test_where_it_begins_changes_nothing():
    features, truth, priors = problem(5)
    far = fit_regression(features, truth, priors, 100.0)
    found = fit_regression(features, truth, priors, 1.0)
    again = fit_regression(features, truth, priors, 1.0, far)
    np.testing.assert_allclose(again.weights, found.weights, atol=1e-3)
    assert (fit_regression(features, truth, priors, 1.0).weights == found.weights).all()


def test_a_word_that_is_true_of_nothing_keeps_its_prior_score():
    features, truth, priors = problem(1, words=5, labelled=3)
    found = fit_regression(features, truth, priors, 0.1)
    assert not found.weights[3:].any()
    assert not found.bias[3:].any()
    logits = found.logits(features, [prior.scores for prior in priors])
    prior = sum(g * one.scores for g, one in zip(found.gains, priors, strict=True))
    np.testing.assert_allclose(logits[:, 3:], prior[:, 3:])
    assert np.abs(found.weights[:3]).max() > 0.1


def test_a_prior_that_says_the_opposite_counts_for_nothing():
    features, truth, priors = problem(2, images=600)
    turned = [Prior(-5 * priors[0].scores, 1.0), priors[1]]
    found = fit_regression(features, truth, turned, 1.0)
    alone = fit_regression(features, truth, priors[1:], 1.0)
    assert found.gains == (0.0, pytest.approx(alone.gains[0], abs=1e-3))
    np.testing.assert_allclose(found.weights, alone.weights, atol=1e-3)


def test_the_stronger_the_pull_the_closer_to_the_prior():
    features, truth, priors = problem(4)
    lengths = [
        np.linalg.norm(fit_regression(features, truth, priors, strength).weights)
        for strength in (0.1, 1.0, 10.0, 1e6)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < 1e-3


def test_one_image_and_numbers_that_are_none():
    features, truth, priors = problem(0, images=1)
    found = fit_regression(features, truth, priors, 1.0)
    assert np.isfinite(found.weights).all()
    with pytest.raises(ValueError, match="without a true word"):
        fit_regression(features, np.zeros_like(truth), priors, 1.0)
    features[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        fit_regression(features, truth, priors, 1.0)
