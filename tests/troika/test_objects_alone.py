"""Naming images by objects alone: the attribute branch is off, and nothing of it is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from troika.training_run import make_params, normalizer, tiny_clip

from compositional_prompts.catalog.splitting.split_tables import PAIRS_OF_OBJECTS, SPLITS
from compositional_prompts.files.tables import write_table
from compositional_prompts.results.czsl_figures import JudgedImages
from compositional_prompts.troika.authors.authors_checkpoint import ReferenceCheckpointError
from compositional_prompts.troika.authors.imported_model import import_reference
from compositional_prompts.troika.evaluation.measured_worlds import MeasuredImages
from compositional_prompts.troika.model.model_folder import load_model, save_model
from compositional_prompts.troika.model.network import Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import (
    LabelledImages,
    Vocabulary,
    labelled_images,
)
from compositional_prompts.troika.objects_alone import beside_majority, without_attributes
from compositional_prompts.troika.pair_scoring import TroikaScorer
from compositional_prompts.troika.training.troika_trainer import Labelled, fit, weighted_loss

OBJECTS = ["Boots", "Hats", "Shirts"]
VOCABULARY = Vocabulary.of([("", name) for name in OBJECTS], [True] * 3, ["train"] * 3, "the test")
INDICES = torch.from_numpy(VOCABULARY.pair_indices)


def images(columns: list[int], seed: int) -> Labelled:
    """Images whose object is a channel that shines."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 40, (len(columns), 3, 16, 16), generator=generator)
    for row, column in enumerate(columns):
        pixels[row, column] += 200
    seen = torch.ones(3, dtype=torch.bool)
    return Labelled(pixels.to(torch.uint8), torch.tensor(columns), INDICES, seen)


def model(seed: int = 3) -> Troika:
    torch.manual_seed(seed)
    return Troika(tiny_clip(), VOCABULARY, TroikaConfig.from_params(make_params()))


def test_tables_give_the_vocabulary_and_the_labels(tmp_path: Path) -> None:
    pairs = [
        {"attribute": None, "object": name, "split": "train", "seen": True, "images": 1}
        for name in OBJECTS
    ]
    write_table(pa.Table.from_pylist(pairs, PAIRS_OF_OBJECTS), tmp_path / "pairs", PAIRS_OF_OBJECTS)
    found = Vocabulary.read(tmp_path / "pairs")
    assert found == VOCABULARY
    assert found.objects_alone
    assert Vocabulary.from_json(found.as_json(), tmp_path) == found
    assert found.as_json()["attributes"] == []
    rows = [
        {"image_id": f"i{n}", "product_id": "p", "object": name, "caption_split": "val",
         "pair_split": None if name is None else "val"}
        for n, name in enumerate(["Hats", None, "Boots"])
    ]  # fmt: skip
    write_table(pa.Table.from_pylist(rows, SPLITS), tmp_path / "splits", SPLITS)
    labelled = labelled_images(tmp_path / "splits", found, "val")
    assert (labelled.image_ids, labelled.pairs.tolist()) == (["i0", "i2"], [1, 0])
    with pytest.raises(ValueError, match="all or none"):
        Vocabulary.of([("", "Hats"), ("Wool", "Hats")], [True] * 2, ["train"] * 2, "x")
    with pytest.raises(ReferenceCheckpointError, match="objects alone"):
        import_reference(
            tmp_path / "none", tmp_path / "pairs", tmp_path, tmp_path / "out", make_params()
        )


def test_there_is_no_attribute_branch_and_a_pair_is_prompted_by_its_object() -> None:
    troika = model().eval()
    assert not [name for name in troika.trained_state() if "attribute" in name]
    with torch.no_grad():
        troika.prompts.composition_context.copy_(troika.prompts.object_context + 0.1)
        texts = troika.encode_text(INDICES)
        assert texts.attribute.shape == (0, texts.object.shape[1])
        assert not torch.allclose(texts.composition, texts.object)
        # In one context the prompts of a pair and of its object are one.
        troika.prompts.composition_context.copy_(troika.prompts.object_context)
        texts = troika.encode_text(INDICES)
        torch.testing.assert_close(texts.composition, texts.object)
        logits = troika(torch.rand(4, 3, 16, 16), INDICES)
        # The absent attribute is certain: the product is the probability of the object.
        scores = troika.pair_scores(logits, INDICES)
        expected = logits.composition + logits.object.softmax(dim=-1)
    torch.testing.assert_close(scores, expected)


def test_its_loss_is_that_of_composition_and_object() -> None:
    troika = model().train()
    params = make_params(loss_weights={"composition": 2.0, "attribute": 7.0, "object": 3.0})
    logits = troika(torch.rand(4, 3, 16, 16), INDICES)
    targets = torch.tensor([0, 1, 2, 1])
    loss = weighted_loss(logits, targets, INDICES, params)
    rows = np.arange(4)
    parts = [
        -np.log(np.exp(one) / np.exp(one).sum(1, keepdims=True))[rows, targets].mean()
        for one in (logits.composition.double().detach().numpy(),
                    logits.object.double().detach().numpy())
    ]  # fmt: skip
    assert float(loss) == pytest.approx(2 * parts[0] + 3 * parts[1], rel=1e-5)
    loss.backward()
    trained = {name: part for name, part in troika.named_parameters() if part.requires_grad}
    assert not [name for name, part in trained.items() if part.grad is None]


def test_it_learns_comes_back_and_scores_alike(tmp_path: Path) -> None:
    troika = model()
    outcome = fit(
        troika,
        images([0, 1, 2] * 8, 1),
        images([0, 1, 2, 0], 2),
        normalizer(tiny_clip()),
        make_params(epochs=2),
        seed=5,
    )
    assert outcome.selection == "val_object_accuracy"
    last = outcome.records[-1]
    assert (last.val_attribute_accuracy, last.val_auc) == (None, None)
    assert last.val_object_accuracy is not None
    assert outcome.records[1].train_loss < outcome.records[0].train_loss
    clip = tiny_clip()
    save_model(tmp_path / "troika", VOCABULARY, clip, troika.config, outcome.state)
    loaded = load_model(tmp_path / "troika", VOCABULARY, clip)
    assert loaded is not None
    pixels = torch.rand(5, 3, 16, 16)
    with torch.no_grad():
        expected = loaded.pair_scores(loaded(pixels, INDICES), INDICES)
    scorer = TroikaScorer(loaded, INDICES, 2**20)
    torch.testing.assert_close(scorer(pixels).scores(), expected)


def test_the_majority_of_training_is_held_against_test_images() -> None:
    training = LabelledImages([], np.array([2, 0, 2, 0, 1]))  # two alike: the first by name
    measured = MeasuredImages(
        rows=np.arange(5),
        pairs=np.array([0, 1, 0, 2, 0]),
        products=np.array([0, 0, 1, 2, 3]),
        tested=np.array([True, True, True, True, False]),
    )
    hits = np.array([True, True, True, False])
    judged = JudgedImages(np.ones(4, bool), hits, np.zeros(4), np.ones(4, bool), hits)
    found, leads = beside_majority(training, measured, VOCABULARY, {"zero_shot_closed": judged})
    low, high = found.pop("object_accuracy_interval")
    assert found == {"object": "Boots", "object_accuracy": 0.5, "images": 4, "products": 3}
    assert 0 <= low < 0.5 < high <= 1
    assert leads["zero_shot_"]["object_accuracy"] == pytest.approx(0.25)
    nothing, _ = beside_majority(LabelledImages([], np.array([], int)), measured, VOCABULARY, {})
    assert nothing["object"] is nothing["object_accuracy"] is None


def test_no_accuracy_of_attributes_is_known() -> None:
    metrics = {
        "attribute_accuracy": 1.0,
        "object_accuracy": 0.5,
        "minus": {"zero_shot": {"attribute_accuracy_interval": [0, 0], "auc": None}},
    }
    assert without_attributes(metrics) == {
        "attribute_accuracy": None,
        "object_accuracy": 0.5,
        "minus": {"zero_shot": {"attribute_accuracy_interval": None, "auc": None}},
    }
