"""What scorers learn, of tables on disk; and that no truth of held-out products reaches them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from safetensors.numpy import load_file

from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.clip.vector_tables import image_embeddings
from compositional_prompts.enhancement.colors.color_tables import VOTES, color_schema
from compositional_prompts.enhancement.colors.foreground_colors import BINS
from compositional_prompts.enhancement.fitting.labelled_images import FittingPaths, read_labelled
from compositional_prompts.enhancement.fitting.word_fitting import (
    PromptEnsembles,
    fit_from_tables,
    fit_word_scorer,
    groups_in_templates,
)
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.word_scorer import (
    GroupScorer,
    WordScorer,
    color_features,
    load_word_scorer,
    log_softmax,
)
from compositional_prompts.enhancement.word_vocabulary import Vocabulary
from compositional_prompts.files.outputs import DamagedOutputError, MissingOutputError
from compositional_prompts.files.tables import write_table

ROOT = Path(__file__).parents[3]
SHIPPED = yaml.safe_load((ROOT / "params.yaml").read_text())["enhance"]
COLORS = ("black", "white", "red", "blue")
MATERIALS = ("leather", "rubber", "wool")
WIDTH = 12
IMAGES = 120


def params(**changes):
    return Enhance.model_validate(SHIPPED | changes)


PROBE = params(method="probe")


def unit(random, *shape):
    vectors = random.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def fixed(values):
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


class Tables:
    """Images of which vectors and colours tell the truth with some noise; every third has a twin.

    Of three in four the colour is known, of one in two the material; some of it is outside the
    vocabulary or of two words.
    """

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(8)
        self.paths = FittingPaths(
            folder / "splits.parquet", folder / "truth.parquet", folder / "vectors",
            folder / "colors",
        )  # fmt: skip
        self.ids = [f"shoe-{number:03d}" for number in range(IMAGES)]
        self.products = [f"p{number // 3}" for number in range(IMAGES)]
        self.split = [
            ("train", "train", "val", "test")[number // 3 % 4] for number in range(IMAGES)
        ]
        self.color, self.material = random.integers(0, 4, IMAGES), random.integers(0, 2, IMAGES)
        texts = unit(random, 7, WIDTH)
        self.vocabulary = Vocabulary(
            {"color": COLORS, "material": MATERIALS},
            {"color": texts[:4], "material": texts[4:]},
        )
        self.ensembles = PromptEnsembles(self.vocabulary.vectors, 20.0)
        self.vectors = unit(random, IMAGES, WIDTH)
        self.vectors += texts[self.color] * 0.5 + texts[4 + self.material] * 0.5
        self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)
        self.histogram = random.dirichlet(np.full(BINS, 0.05), IMAGES)
        self.histogram[np.arange(IMAGES), self.color] += 1
        self.histogram /= self.histogram.sum(axis=1, keepdims=True)
        self.votes = random.dirichlet(np.ones(4), IMAGES)
        self.truth = [
            *((i, "color", COLORS[self.color[n]].title()) for n, i in self.some(4, 0)),
            *((i, "color", "mauve") for n, i in self.some(4, 3) if n % 3 == 0),
            *((i, "material", MATERIALS[self.material[n]]) for n, i in self.some(2, 0)),
            *((i, "material", MATERIALS[0]) for n, i in self.some(10, 3) if self.material[n]),
        ]
        self.write()

    def some(self, every, rest):
        """All images but every so many; of a remainder above 0 the images of it alone."""
        if rest:
            return [(n, i) for n, i in enumerate(self.ids) if n % every == rest]
        return [(n, i) for n, i in enumerate(self.ids) if n % every != every - 1]

    def write(self) -> None:
        blank = [None] * IMAGES
        splits = [self.ids, self.products, blank, blank, self.split, blank, blank]
        types = [field.type for field in SPLITS]
        columns = [pa.array(c, t) for c, t in zip(splits, types, strict=True)]
        write_table(pa.table(columns, schema=SPLITS), self.paths.splits, SPLITS)
        self.write_truth(self.truth)
        ids = pa.array(self.ids)
        for folder in (self.paths.vectors, self.paths.colors):
            folder.mkdir(exist_ok=True)
        table = pa.table([ids, fixed(self.vectors)], schema=image_embeddings(WIDTH))
        write_table(table, self.paths.vectors / "part-0.parquet", table.schema)
        schema = color_schema({"color": 4})
        assert schema.names == ["image_id", "histogram", f"{VOTES}color"]
        histogram = fixed(self.histogram.astype(np.float16))
        colors = pa.table([ids, histogram, fixed(self.votes.astype(np.float32))], schema=schema)
        write_table(colors, self.paths.colors / "part-0.parquet", schema)

    def write_truth(self, truth) -> None:
        rows = [dict(zip(TRUTH.names, row, strict=True)) for row in truth]
        write_table(pa.Table.from_pylist(rows, TRUTH), self.paths.truth, TRUTH)

    def fit(self, settings=PROBE):
        return fit_from_tables(self.paths, self.vocabulary, self.ensembles, settings)

    def saved(self, folder: Path, settings=PROBE) -> tuple[str, dict[str, bytes]]:
        """The artifact's two files."""
        self.fit(settings).scorer.save(folder)
        tensors = load_file(folder / "model.safetensors")
        return (folder / "config.json").read_text(), {k: v.tobytes() for k, v in tensors.items()}


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def test_what_is_read_is_the_split_and_its_truth(tables: Tables) -> None:
    words = {"color": COLORS, "material": MATERIALS}
    images = read_labelled(tables.paths, "train", words, ["color", "material"], 1000)
    true = {}
    for image_id, group, word in tables.truth:
        true.setdefault(image_id, set()).add((group, word.lower()))
    chosen = [n for n, i in enumerate(tables.ids) if tables.split[n] == "train" and i in true]
    assert len(images) == len(chosen) > 40
    np.testing.assert_array_equal(images.vectors, tables.vectors[chosen])
    assert images.colors.keys() == {"color"}
    np.testing.assert_allclose(images.colors["color"][:, BINS:], tables.votes[chosen], rtol=1e-6)
    for group, names in words.items():
        expected = [[(group, w) in true[tables.ids[n]] for w in names] for n in chosen]
        np.testing.assert_array_equal(images.truth[group], expected)
        known = [any(g == group for g, _ in true[tables.ids[n]]) for n in chosen]
        np.testing.assert_array_equal(images.known[group], known)
    same = images.products[:, None] == images.products
    names = np.array(tables.products)[chosen]
    np.testing.assert_array_equal(same, names[:, None] == names)
    assert images.outside("color") == sum(
        true[tables.ids[n]] & {("color", w) for w in COLORS} == set()
        and ("color", "mauve") in true[tables.ids[n]]
        for n in chosen
    )
    few = read_labelled(tables.paths, "train", words, [], 7)
    again = read_labelled(tables.paths, "train", words, [], 7)
    assert len(few) == 7 and few.colors == {}
    np.testing.assert_array_equal(few.vectors, again.vectors)
    assert len(read_labelled(tables.paths, "train", {}, [], 7)) == 0


def test_a_probe_learns_the_truth_and_says_of_how_much(tables: Tables) -> None:
    fitted = tables.fit()
    held = [n for n in range(IMAGES) if tables.split[n] == "test"]
    features = np.hstack([tables.histogram.astype(np.float16), tables.votes])[held]
    colors = {"color": features.astype(np.float32)}
    scores = fitted.scorer.scores(tables.vectors[held], colors)
    for group, true in (("color", tables.color), ("material", tables.material)):
        probe = (scores[group].argmax(axis=1) == true[held]).mean()
        cosines = tables.vectors[held] @ tables.vocabulary.vectors[group].T
        assert probe > (cosines.argmax(axis=1) == true[held]).mean()
        assert probe > 0.7
        np.testing.assert_allclose(np.exp(scores[group]).sum(axis=1), 1, rtol=1e-5)
    assert fitted.metrics["material"]["unlabelled_words"] == ["wool"]
    assert fitted.metrics["color"]["outside_vocabulary"] > 0
    assert fitted.metrics["color"]["strength"] is not None
    assert fitted.metrics["color"]["train_images"] < 60


def test_no_truth_of_held_out_products_reaches_a_probe(tables: Tables, tmp_path: Path) -> None:
    _, before = tables.saved(tmp_path / "one")
    split = dict(zip(tables.ids, tables.split, strict=True))
    training = [row for row in tables.truth if split[row[0]] == "train"]
    held = [row for row in tables.truth if split[row[0]] != "train"]
    moved = [(i, g, held[place - 7][2]) for place, (i, g, _) in enumerate(held)]
    for number, others in enumerate(([], moved)):
        tables.write_truth(training + others)
        _, after = tables.saved(tmp_path / f"again {number}")
        assert after == before
    # The other way round, the test would hold of a scorer that learns nothing.
    first = training[0]
    other = COLORS[(COLORS.index(first[2].lower()) + 1) % 4]
    tables.write_truth([(first[0], "color", other), *training[1:], *held])
    assert tables.saved(tmp_path / "changed")[1] != before


def test_truth_of_test_products_changes_nothing_at_all(tables: Tables, tmp_path: Path) -> None:
    before = tables.saved(tmp_path / "one")
    split = dict(zip(tables.ids, tables.split, strict=True))
    tables.write_truth([row for row in tables.truth if split[row[0]] != "test"])
    assert tables.saved(tmp_path / "two") == before
    assert tables.fit().metrics["color"]["val_images"] > 0


@pytest.mark.parametrize("kept", [0, 1])
def test_without_two_words_to_tell_apart_scores_are_zero_shot(tables: Tables, kept: int) -> None:
    one_word = [row for row in tables.truth if row[1:] == ("color", "Red")]
    tables.write_truth(one_word[: 20 * kept])
    fitted = tables.fit()
    zero_shot = tables.fit(params(method="zero_shot")).scorer
    colors = {"color": np.zeros((IMAGES, BINS + 4), np.float32)}
    found = fitted.scorer.scores(tables.vectors, colors)
    expected = zero_shot.scores(tables.vectors)
    for group in ("color", "material"):
        np.testing.assert_allclose(found[group], expected[group], atol=1e-5)
        assert fitted.metrics[group]["strength"] is None
    assert fitted.metrics["color"]["train_images"] == sum(
        tables.split[tables.ids.index(i)] == "train" for i, *_ in one_word[: 20 * kept]
    )


def test_zero_shot_and_pixels_are_what_they_are_called(tables: Tables) -> None:
    both = params(method="zero_shot", methods=[{"group": "color", "method": "pixels"}])
    scorer = tables.fit(both).scorer
    assert groups_in_templates(scorer.words, both) == ["material"]
    votes = tables.votes.astype(np.float32)
    colors = {"color": np.hstack([tables.histogram, votes]).astype(np.float32)}
    scores = scorer.scores(tables.vectors, colors)
    np.testing.assert_array_equal(scores["color"].argmax(axis=1), votes.argmax(axis=1))
    np.testing.assert_allclose(np.exp(scores["color"]), votes, atol=5e-3)
    cosines = tables.vectors.astype(float) @ tables.vocabulary.vectors["material"].T.astype(float)
    logits = 20 * cosines
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(scores["material"], expected, atol=1e-4)
    with pytest.raises(ValueError, match="needs the colours"):
        scorer.scores(tables.vectors)


def test_pixels_of_words_that_are_no_colours_are_refused(tables: Tables) -> None:
    with pytest.raises(ValueError, match="'material' is pixels"):
        tables.fit(params(method="pixels"))
    empty = read_labelled(tables.paths, "train", {}, [], 1)
    with pytest.raises(ValueError, match=r"enhance\.templates"):
        fit_word_scorer(tables.vocabulary, None, empty, empty, PROBE)


def test_cosines_are_the_reports_to_the_digit(tables: Tables) -> None:
    """Whatever the methods of other groups are: one product with the words of all groups."""
    words = np.concatenate([tables.vocabulary.vectors[group] for group in ("color", "material")])
    frozen = tables.vectors @ words.T
    best = frozen[:, :4].argmax(axis=1)
    for settings in (params(), params(methods=[{"group": "material", "method": "probe"}])):
        scorer = tables.fit(settings).scorer
        scores = scorer.scores(tables.vectors)
        assert (scores["color"] == frozen[:, :4]).all()
        choice = scorer.groups["color"].choose(scores["color"], 0.2)
        assert (choice.best == best).all()
        assert (choice.score == frozen[np.arange(IMAGES), best]).all()
        assert (choice.chosen == (choice.score > np.float32(0.2))).all()
        runner_up = np.sort(frozen[:, :4], axis=1)[:, -2]
        assert (choice.margin == choice.score - runner_up).all()


def test_a_scorer_comes_back_as_it_was_saved(tables: Tables, tmp_path: Path) -> None:
    scorer = tables.fit().scorer
    scorer.save(tmp_path / "scorer")
    found = load_word_scorer(tmp_path / "scorer")
    calibration = scorer.groups["color"].calibration
    assert calibration is not None
    assert found.groups["color"].calibration == calibration
    assert found.words == scorer.words
    assert {g: sorted(p) for g, p in found.palettes.items()} == {"color": sorted(COLORS)}
    colors = {"color": np.hstack([tables.histogram, tables.votes]).astype(np.float32)}
    for group, scores in found.scores(tables.vectors, colors).items():
        assert (scores == scorer.scores(tables.vectors, colors)[group]).all()
    (tmp_path / "scorer" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(
        DamagedOutputError, match=r"model\.safetensors is no whole part of a word scorer"
    ):
        load_word_scorer(tmp_path / "scorer")
    (tmp_path / "scorer" / "config.json").unlink()
    with pytest.raises(MissingOutputError, match=r"config\.json"):
        load_word_scorer(tmp_path / "scorer")


def test_tensors_that_do_not_fit_the_words_are_refused(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(1), 3, WIDTH)
    scorer = WordScorer({"g": GroupScorer(("a", "b"), "cosine", vectors)})
    with pytest.raises(ValueError, match="g/vectors has 3 rows for 2 words"):
        scorer.save(tmp_path / "scorer")
    assert not (tmp_path / "scorer").exists()


def test_features_and_softmax_against_float64() -> None:
    random = np.random.default_rng(2)
    colors = random.dirichlet(np.ones(BINS + 3), 5).astype(np.float32)
    found = color_features(colors)
    np.testing.assert_allclose(found[:, :BINS] ** 2, colors[:, :BINS], atol=1e-6)
    votes = np.exp(found[:, BINS:].astype(float))
    np.testing.assert_allclose(votes, (colors[:, BINS:] + 0.001) / 1.003, rtol=1e-5)
    logits = random.normal(size=(4, 6)) * 50
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(log_softmax(logits)), expected, rtol=1e-9)
