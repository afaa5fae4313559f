"""Scoring in blocks, and both worlds against loops over the model's own scores of all pairs."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from trained_project import write_clip

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.catalog.splitting.split_tables import PAIRS, SPLITS
from compositional_prompts.clip.open_clip_model import Clip, load_clip
from compositional_prompts.files.tables import read_table, write_table
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.section import Base
from compositional_prompts.troika import naming as naming_module
from compositional_prompts.troika.evaluation import judged_rows
from compositional_prompts.troika.model.branch_scores import ScoreMix
from compositional_prompts.troika.model.model_folder import TrainedState, load_model, save_model
from compositional_prompts.troika.model.network import Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS
from compositional_prompts.troika.pair_scoring import ImageScores, TroikaScorer
from compositional_prompts.troika.parameters import TroikaPredict, TroikaTrain
from compositional_prompts.troika.prediction import predict
from compositional_prompts.troika.zero_shot import ZeroShot

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
ATTRIBUTES = ("Canvas", "Faux.Leather", "Suede", "Wool")
OBJECTS = ("Boots", "Shoes.Flats", "Slippers")
# Neither sorted, nor every combination.
PAIR_ROWS = [
    ("Wool", "Slippers", "train", True),
    ("Canvas", "Shoes.Flats", "train", True),
    ("Suede", "Slippers", "val", False),
    ("Canvas", "Boots", "train", True),
    ("Faux.Leather", "Boots", "train", True),
    ("Wool", "Boots", "test", False),
    ("Suede", "Boots", "train", True),
    ("Canvas", "Slippers", "test", False),
    ("Faux.Leather", "Slippers", "val", False),
]
NAMES = [row[:2] for row in PAIR_ROWS]
COMBINATIONS = [(attribute, name) for attribute in ATTRIBUTES for name in OBJECTS]
SEEN = {row[:2] for row in PAIR_ROWS if row[3]}
SCORED = ("best_seen", "best_unseen", "best_hm", "auc", "attribute_accuracy", "object_accuracy")
Scores = NDArray[np.float64]


def centre_features(model: open_clip.CLIP) -> None:
    """Shift the last layer norms so that the features of images, and of texts, point all ways.

    Those of random weights nearly coincide, and every image would get the same pair.
    """
    texts = open_clip.SimpleTokenizer(context_length=16)([f"{a} {o}" for a, o in COMBINATIONS])
    normed: list[torch.Tensor] = []
    for layer_norm, run in (
        (model.visual.ln_post, lambda: model.encode_image(torch.randn(64, 3, 16, 16))),
        (model.ln_final, lambda: model.encode_text(texts)),
    ):
        hook = layer_norm.register_forward_hook(lambda *call: normed.append(call[-1]))
        with torch.no_grad():
            run()
            features = normed.pop()
            if layer_norm is model.ln_final:
                features = features[torch.arange(len(texts)), texts.argmax(dim=1)]
            else:
                features = features[:, 0] if features.dim() == 3 else features
            layer_norm.bias -= features.mean(dim=0)
        hook.remove()


def centred_clip(directory: Path) -> Clip:
    """A CLIP of random weights that tells images and texts apart."""

    def change(model: open_clip.CLIP) -> None:
        centre_features(model)
        torch.nn.init.constant_(model.logit_scale, 4)

    write_clip(directory, 0, "shortest", change)
    return load_clip(directory, CPU)


def random_model(clip: Clip, vocabulary: Vocabulary) -> Troika:
    params, _ = read_params(ROOT / "params.yaml", TroikaTrain)
    config = TroikaConfig.from_params(params.model_copy(update={"adapter_dim": 4}))
    model = Troika(clip, vocabulary, config)
    torch.manual_seed(1)
    for name, tensor in model.trained_state().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point():
            with torch.no_grad():
                tensor.add_(torch.randn_like(tensor) * 0.02)
    return model.eval()


def encoded_image(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, size=(4, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((20, 16)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Project:
    """A data set, a CLIP and a model of random weights, trained (so it says) or not."""

    root: Path
    image_ids: list[str]
    labels: dict[str, tuple[str, tuple[str, str]]]
    model: Troika | None
    clip: Clip
    vocabulary: Vocabulary
    pixel_values: torch.Tensor
    computed: int = 0

    @property
    def prompts(self) -> Path:
        return self.root / "original.parquet"

    def write_catalog(self, image_ids: list[str]) -> None:
        with open_shards(self.root / "catalog", shard_mib=1) as shards:
            for name in image_ids:
                image = encoded_image(self.image_ids.index(name))
                shards.write(CatalogRow(name, name, image, path=name))

    def write_splits(self) -> None:
        unlabelled = (None, (None, None))
        rows = [(name, *self.labels.get(name, unlabelled)) for name in sorted(self.image_ids)]
        table = pa.table(
            {
                "image_id": [row[0] for row in rows],
                "product_id": [row[0] for row in rows],
                "attribute": pa.array([row[2][0] for row in rows], pa.string()),
                "object": pa.array([row[2][1] for row in rows], pa.string()),
                "caption_split": ["train"] * len(rows),
                "pair_split": pa.array([row[1] for row in rows], pa.string()),
                "pair_seen": pa.nulls(len(rows), pa.bool_()),
            },
            schema=SPLITS,
        )
        write_table(table, self.root / "splits.parquet", SPLITS)

    def save(self, model: Troika | None) -> None:
        self.model = model
        state = None
        if model is not None:
            tensors = model.trained_state()
            state = TrainedState(tensors, tensors, 1, 1)
        config = TroikaConfig.from_params(read_params(ROOT / "params.yaml", TroikaTrain)[0])
        config = config if model is None else model.config
        save_model(self.root / "troika", self.vocabulary, self.clip, config, state)

    def predict(self, workers: int = 1, rows: str = "rows", **changes: Any) -> dict[str, Any]:
        params, base = committed()
        feasibility = params.feasibility.model_copy(
            update={"thresholds": 7, **changes.pop("feasibility", {})}
        )
        update = {"batch_size": 16, "feasibility": feasibility, **changes}
        kept = base.rows.model_copy(update={"path": str(self.root / rows)})
        outcome = predict(
            self.root / "catalog",
            self.root / "splits.parquet",
            self.root / "pairs.parquet",
            self.root / "clip",
            self.root / "troika",
            self.prompts,
            TroikaPredict.model_validate(params.model_copy(update=update).model_dump()),
            base.model_copy(update={"device": "cpu", "workers": workers, "rows": kept}),
        )
        self.computed = outcome.computed
        assert outcome.images == read_table(self.prompts, ORIGINAL_PROMPTS).num_rows
        return outcome.metrics

    def scores(self) -> dict[str, Scores]:
        """Of all images and combinations, all at once, by Troika and by zero-shot CLIP."""
        indices = torch.tensor([(ATTRIBUTES.index(a), OBJECTS.index(o)) for a, o in COMBINATIONS])
        texts = [
            f"a photo of {a} {o}".replace(".", " ").replace("A ", "a ").lower()
            for a, o in COMBINATIONS
        ]
        tokens = open_clip.SimpleTokenizer(context_length=16)(texts)
        with torch.no_grad():
            zero_shot, _ = self.clip.model.get_logits(self.pixel_values, tokens)  # type: ignore[operator]
            if self.model is None:
                named = zero_shot
            else:
                named = self.model.pair_scores(self.model(self.pixel_values, indices), indices)
        return {"": named.double().numpy(), "zero_shot_": zero_shot.double().numpy()}


def committed() -> tuple[TroikaPredict, Base]:
    return read_params(ROOT / "params.yaml", TroikaPredict)


def make_project(root: Path, images: int = 90) -> Project:
    """Labels are drawn from the pairs of their split, rather the better the model scores them."""
    clip = centred_clip(root / "clip")
    columns = list(zip(*PAIR_ROWS, strict=True))
    table = pa.table([*columns, [1] * len(PAIR_ROWS)], schema=PAIRS)
    write_table(table, root / "pairs.parquet", PAIRS)
    vocabulary = Vocabulary.read(root / "pairs.parquet")
    ids = [f"image-{number:03d}" for number in range(images)]
    pixel_values = torch.stack(
        [clip.preprocess(decode_rgb(encoded_image(number))) for number in range(images)]
    )
    model = random_model(clip, vocabulary)
    project = Project(root, ids, {}, model, clip, vocabulary, pixel_values)
    project.save(model)
    generator = np.random.default_rng(3)
    for name, values in zip(ids, project.scores()[""], strict=True):
        split = generator.choice(["val", "test", "train", ""], p=[0.4, 0.4, 0.1, 0.1])
        if split:
            allowed = [row[:2] for row in PAIR_ROWS if row[3] or row[2] == split]
            noise = generator.normal(0, values.std(), len(allowed))
            liked = [values[COMBINATIONS.index(pair)] for pair in allowed] + noise
            pair = allowed[int(liked.argmax())]
            project.labels[name] = (str(split), pair)
    project.write_splits()
    project.write_catalog(ids)
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Not to be written to, except what is predicted."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def own_project(tmp_path: Path) -> Project:
    return make_project(tmp_path, images=40)


# --- Both worlds again, pair by pair and bias by bias -------------------------------------------


def accuracies(
    scores: Scores, truths: list[int], candidates: list[int], bias: float
) -> tuple[float, float, list[int]]:
    """Accuracy on images of seen and of unseen pairs, and what was predicted."""
    hits: dict[bool, list[bool]] = {True: [], False: []}
    predicted = []
    for row, truth in zip(scores, truths, strict=True):
        biased = {
            column: row[column] + (0.0 if COMBINATIONS[column] in SEEN else bias)
            for column in candidates
        }
        best = max(biased, key=lambda column: biased[column])
        hits[COMBINATIONS[truth] in SEEN].append(best == truth)
        predicted.append(best)
    return float(np.mean(hits[True])), float(np.mean(hits[False])), predicted


def measured(scores: Scores, truths: list[int], candidates: list[int]) -> dict[str, float]:
    """The exact metrics, from every bias between two at which a prediction changes."""
    seen = [column for column in candidates if COMBINATIONS[column] in SEEN]
    unseen = [column for column in candidates if COMBINATIONS[column] not in SEEN]
    margins = np.unique(scores[:, seen].max(axis=1) - scores[:, unseen].max(axis=1))
    biases = [margins[0] - 1, *((margins[1:] + margins[:-1]) / 2), margins[-1] + 1]
    curve = [accuracies(scores, truths, candidates, bias)[:2] for bias in biases]
    _, _, plain = accuracies(scores, truths, candidates, 0.0)
    pairs = [(COMBINATIONS[a], COMBINATIONS[b]) for a, b in zip(plain, truths, strict=True)]
    return {
        "best_seen": curve[0][0],
        "best_unseen": curve[-1][1],
        "best_hm": max(2 * s * u / (s + u) if s + u else 0.0 for s, u in curve),
        "auc": float(np.trapezoid([point[0] for point in curve], [point[1] for point in curve])),
        "attribute_accuracy": float(np.mean([one[0] == other[0] for one, other in pairs])),
        "object_accuracy": float(np.mean([one[1] == other[1] for one, other in pairs])),
    }


def labelled(project: Project, split: str, scores: Scores) -> tuple[Scores, list[int]]:
    """Scores and true combination of a split's images."""
    rows = [
        row for row, name in enumerate(project.image_ids)
        if project.labels.get(name, ("", ()))[0] == split
    ]  # fmt: skip
    truths = [COMBINATIONS.index(project.labels[project.image_ids[row]][1]) for row in rows]
    return scores[rows], truths


def feasibilities(project: Project) -> dict[int, float]:
    """Of the unseen combinations, by names."""

    def vector(name: str) -> NDArray[np.float64]:
        text = f"a photo of {name.replace('.', ' ').lower()}"
        tokens = open_clip.SimpleTokenizer(context_length=16)([text])
        with torch.no_grad():
            feature = project.clip.model.encode_text(tokens)[0].double().numpy()  # type: ignore[operator]
        return np.asarray(feature / np.linalg.norm(feature))

    vectors = {name: vector(name) for name in (*ATTRIBUTES, *OBJECTS)}
    found = {}
    for column, (attribute, name) in enumerate(COMBINATIONS):
        if (attribute, name) in SEEN:
            continue
        objects = [vectors[o] @ vectors[name] for a, o in SEEN if a == attribute]
        attributes = [vectors[a] @ vectors[attribute] for a, o in SEEN if o == name]
        found[column] = (max(objects, default=-1.0) + max(attributes, default=-1.0)) / 2
    return found


def check_world(found: dict[str, Any], expected: dict[str, float]) -> None:
    assert {key: found[key] for key in SCORED} == pytest.approx(expected, abs=1e-9)


def closed_candidates() -> list[int]:
    return [COMBINATIONS.index(row[:2]) for row in PAIR_ROWS if row[3] or row[2] == "test"]


SEEN_COLUMNS = [column for column, pair in enumerate(COMBINATIONS) if pair in SEEN]


def test_both_worlds_equal_loops_over_pairs_and_biases(project: Project) -> None:
    metrics = project.predict()
    assert list(metrics) == [
        "trained", "closed", "zero_shot_closed", "composition_closed", "primitives_closed",
        "unweighted_closed", "open", "zero_shot_open", "feasibility",
    ]  # fmt: skip
    assert metrics["feasibility"] == {
        "vectors": "clip", "masking": "exclude", "protocol": "exact", "thresholds": 7,
    }  # fmt: skip
    feasible = feasibilities(project)
    aucs = []
    for prefix, scores in project.scores().items():
        tested, truths = labelled(project, "test", scores)
        closed = metrics[f"{prefix}closed"]
        check_world(closed, measured(tested, truths, closed_candidates()))
        assert (closed["pairs"], closed["seen_pairs"], closed["images"]) == (7, 5, len(truths))
        assert set(closed["sampled"]) == {"best_seen", "best_unseen", "best_hm", "auc"}

        open_world = metrics[f"{prefix}open"]
        best_auc, chosen = -1.0, (0.0, list[int]())
        for threshold in np.linspace(max(feasible.values()), min(feasible.values()), 7):
            passed = [column for column, value in feasible.items() if value >= threshold - 1e-6]
            auc = measured(*labelled(project, "val", scores), [*SEEN_COLUMNS, *passed])["auc"]
            if auc >= best_auc:
                best_auc, chosen = auc, (float(threshold), passed)
        assert open_world["threshold"] == pytest.approx(chosen[0], abs=1e-6)
        assert open_world["feasible_unseen_pairs"] == len(chosen[1])
        check_world(open_world, measured(tested, truths, [*SEEN_COLUMNS, *chosen[1]]))
        assert (open_world["pairs"], open_world["seen_pairs"]) == (12, 5)
        everything = measured(tested, truths, [*range(12)])
        for key in ("best_unseen", "best_hm", "auc"):
            assert open_world["unthresholded"][key] == pytest.approx(everything[key])
        aucs += [closed["auc"], open_world["auc"]]
    assert len(set(aucs)) == 4 and min(aucs) > 0.05 and max(aucs) < 0.95


def pop_biases(metrics: dict[str, Any]) -> list[float]:
    return [metrics[world]["calibrated"].pop("bias") for world in CLOSED]


def margins(judged: list[list[dict[str, Any]] | None]) -> list[float]:
    """Lead of the true pair, a score, of every judgement of every image that is judged."""
    return [one["margin"] for image in judged for one in image or []]


def without_margins(judged: list[list[dict[str, Any]] | None]) -> list[list[dict[str, Any]]]:
    return [
        [{key: value for key, value in one.items() if key != "margin"} for one in image or []]
        for image in judged
    ]


def test_neither_batches_nor_blocks_nor_workers_change_results(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []
    for batch_size, mib, workers in ((16, 2**20, 1), (11, 1, 3), (90, 3000, 2)):
        for module in (naming_module, judged_rows):
            monkeypatch.setattr(module, "MIB", mib)
        rows = f"rows-{batch_size}"
        metrics = project.predict(batch_size=batch_size, block_mib=1, workers=workers, rows=rows)
        outputs.append((metrics, read_table(project.prompts, ORIGINAL_PROMPTS).to_pydict()))
    first_metrics, first = outputs[0]
    biases = [pop_biases(metrics) for metrics, _ in outputs]
    for (metrics, table), found in zip(outputs[1:], biases[1:], strict=True):
        assert metrics == first_metrics
        assert found == pytest.approx(biases[0], abs=1e-4)  # as scores
        for name, values in first.items():
            if "probabilit" in name:
                np.testing.assert_allclose(table[name], values, atol=1e-5)
            elif name == "judged":
                assert margins(table[name]) == pytest.approx(margins(values), abs=1e-4)
                assert without_margins(table[name]) == without_margins(values)
            else:
                assert table[name] == values


def test_images_are_named_among_the_pairs_listed_in_whatever_world(project: Project) -> None:
    project.predict(worlds=["open"], top_k=3)
    table = read_table(project.prompts, ORIGINAL_PROMPTS).to_pydict()
    assert table["image_id"] == project.image_ids
    columns = [COMBINATIONS.index(pair) for pair in NAMES]
    scores = project.scores()[""][:, columns]
    order = np.argsort(-scores, axis=1)[:, :3]
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert table["top_attributes"] == [[NAMES[column][0] for column in row] for row in order]
    assert table["top_objects"] == [[NAMES[column][1] for column in row] for row in order]
    np.testing.assert_allclose(
        table["top_probabilities"], np.take_along_axis(probabilities, order, 1), rtol=1e-3
    )


CLOSED = (
    "closed",
    "zero_shot_closed",
    "composition_closed",
    "primitives_closed",
    "unweighted_closed",
)


def harmonic_means(project: Project, scores: Scores) -> Callable[[float], float]:
    """Of seen and unseen accuracy on validation images, by the bias."""
    validating, truths = labelled(project, "val", scores)
    columns = [COMBINATIONS.index(row[:2]) for row in PAIR_ROWS if row[3] or row[2] == "val"]

    def at(bias: float) -> float:
        seen, unseen, _ = accuracies(validating, truths, columns, bias)
        return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0

    return at


def branch_scores(project: Project) -> dict[str, Scores]:
    """Of all images and combinations, by each branch alone."""
    assert project.model is not None
    indices = torch.tensor([(ATTRIBUTES.index(a), OBJECTS.index(o)) for a, o in COMBINATIONS])
    with torch.no_grad():
        logits = project.model(project.pixel_values, indices)
    attributes, objects = (one.softmax(dim=1) for one in (logits.attribute, logits.object))
    primitives = attributes[:, indices[:, 0]] * objects[:, indices[:, 1]]
    return {
        "composition_": logits.composition.double().numpy(),
        "primitives_": primitives.double().numpy(),
        "unweighted_": (logits.composition + primitives).double().numpy(),
    }


def test_branches_apart_and_accuracies_at_the_bias_of_validation(project: Project) -> None:
    metrics = project.predict(worlds=["closed"])
    for prefix, scores in {**project.scores(), **branch_scores(project)}.items():
        found = metrics[f"{prefix}closed"]
        check_world(found, measured(*labelled(project, "test", scores), closed_candidates()))
        calibration = found["calibrated"]
        harmonic_at = harmonic_means(project, scores)
        spread = float(np.ptp(scores))
        tried = np.linspace(-spread, spread, 301).tolist()
        assert harmonic_at(calibration["bias"]) >= max(map(harmonic_at, tried))
        *_, predicted = accuracies(
            *labelled(project, "test", scores), closed_candidates(), calibration["bias"]
        )
        truths = labelled(project, "test", scores)[1]
        named = [(COMBINATIONS[a], COMBINATIONS[b]) for a, b in zip(predicted, truths, strict=True)]
        for part, key in enumerate(("attribute_accuracy", "object_accuracy")):
            hits = [one[part] == other[part] for one, other in named]
            assert calibration[key] == pytest.approx(np.mean(hits))
        assert calibration["accuracy"] == pytest.approx(np.mean([a == b for a, b in named]))
        assert calibration["seen"] <= found["best_seen"]
        assert calibration["unseen"] <= found["best_unseen"]
        assert calibration["hm"] <= found["best_hm"] + 1e-9
    closed = {key: value for key, value in metrics["closed"].items() if key != "minus"}
    assert closed == metrics["unweighted_closed"]  # weights of 1 and 1


def test_a_model_that_takes_a_share_of_the_frozen_clip(own_project: Project) -> None:
    assert own_project.model is not None
    parts = branch_scores(own_project)
    frozen = own_project.scores()["zero_shot_"]
    mix = ScoreMix(0.75, 2.0, 0.25)
    own_project.model.config = own_project.model.config.scored_by(mix)
    own_project.save(own_project.model)
    scores = 0.75 * parts["composition_"] + 2 * parts["primitives_"] + 0.25 * frozen
    metrics = own_project.predict()
    expected = measured(*labelled(own_project, "test", scores), closed_candidates())
    check_world(metrics["closed"], expected)
    assert metrics["closed"] != metrics["unweighted_closed"]
    everything = measured(*labelled(own_project, "test", scores), [*range(12)])
    assert metrics["open"]["unthresholded"]["auc"] == pytest.approx(everything["auc"])
    # And what is named by the worker that judges, and by that which only names, is the same.
    columns = [COMBINATIONS.index(pair) for pair in NAMES]
    best = [NAMES[int(row.argmax())] for row in scores[:, columns]]
    table = read_table(own_project.prompts, ORIGINAL_PROMPTS).to_pydict()
    assert list(zip(table["attribute"], table["object"], strict=True)) == best
    assert len(set(own_project.labels)) < 40


def test_labels_of_test_images_change_no_bias_and_no_threshold(own_project: Project) -> None:
    def chosen_on_validation() -> list[Any]:
        metrics = own_project.predict()
        thresholds = [metrics[f"{prefix}open"]["threshold"] for prefix in ("", "zero_shot_")]
        return [*(metrics[name]["calibrated"]["bias"] for name in CLOSED), *thresholds]

    before = chosen_on_validation()
    allowed = [row[:2] for row in PAIR_ROWS if row[3] or row[2] == "test"]
    for place, (name, (split, pair)) in enumerate(sorted(own_project.labels.items())):
        if split == "test":
            other = allowed[place % len(allowed)]
            own_project.labels[name] = (
                split,
                other if other != pair else allowed[place % len(allowed) - 1],
            )
    own_project.write_splits()
    assert chosen_on_validation() == before
    for name, (split, _) in sorted(own_project.labels.items()):
        if split == "val":
            own_project.labels[name] = (split, ("Suede", "Slippers"))
    own_project.write_splits()
    assert "calibrated" not in own_project.predict()["closed"]  # no validation image of a seen pair


def test_only_the_worlds_asked_for_are_measured(project: Project) -> None:
    both = project.predict()
    closed = project.predict(worlds=["closed"])
    assert list(closed) == ["trained", *CLOSED]
    opened = project.predict(worlds=["open"])
    assert list(opened) == ["trained", "open", "zero_shot_open", "feasibility"]
    # Scored in blocks of other pairs, so that a bias may differ by rounding.
    assert pop_biases(closed) == pytest.approx(pop_biases(both), abs=1e-4)
    for found in (closed, opened):
        assert all(both[key] == value for key, value in found.items())


def test_multiplied_scores_are_measured_by_the_sampled_protocol(project: Project) -> None:
    excluded = project.predict(protocol="sampled")
    multiplied = project.predict(protocol="sampled", feasibility={"masking": "multiply"})
    assert multiplied["feasibility"]["masking"] == "multiply"
    assert multiplied["closed"] == excluded["closed"]
    opened = multiplied["open"]
    assert opened["unthresholded"] == excluded["open"]["unthresholded"]

    # The exact metrics of the multiplied scores: those of infeasible pairs 0, and those of seen
    # pairs twice where 0, their feasibility in the authors' files, passes.
    feasible = feasibilities(project)
    tested, truths = labelled(project, "test", project.scores()[""])
    for column, value in feasible.items():
        if value < opened["threshold"] - 1e-6:
            tested[:, column] = 0.0
    if opened["threshold"] <= 0:
        tested[:, SEEN_COLUMNS] *= 2
    check_world(opened, measured(tested, truths, [*range(12)]))


def test_without_validation_images_all_pairs_stay(own_project: Project) -> None:
    kept = {name: label for name, label in own_project.labels.items() if label[0] != "val"}
    own_project.labels = kept
    own_project.write_splits()
    metrics = own_project.predict(feasibility={"masking": "multiply"}, protocol="sampled")
    for prefix, scores in own_project.scores().items():
        opened = metrics[f"{prefix}open"]
        assert opened["threshold"] is None
        assert opened["feasible_unseen_pairs"] == 7
        assert opened["images"] == sum(label[0] == "test" for label in kept.values())
        check_world(opened, measured(*labelled(own_project, "test", scores), [*range(12)]))
        assert all(opened[key] == value for key, value in opened["unthresholded"].items())


def test_untrained_the_baseline_names_and_is_measured_once(own_project: Project) -> None:
    own_project.save(None)
    metrics = own_project.predict()
    assert metrics["trained"] is False
    for world in ("closed", "open"):
        assert metrics[world] == metrics[f"zero_shot_{world}"]
    scores = own_project.scores()[""]
    check_world(
        metrics["closed"], measured(*labelled(own_project, "test", scores), closed_candidates())
    )
    columns = [COMBINATIONS.index(pair) for pair in NAMES]
    best = [NAMES[int(row.argmax())] for row in scores[:, columns]]
    table = read_table(own_project.prompts, ORIGINAL_PROMPTS).to_pydict()
    assert list(zip(table["attribute"], table["object"], strict=True)) == best


def test_unlabelled_data_are_named_and_not_measured(own_project: Project) -> None:
    own_project.labels = {}
    own_project.write_splits()
    metrics = own_project.predict()
    for world in ("closed", "zero_shot_closed", "open", "zero_shot_open"):
        assert metrics[world]["images"] == 0
        assert [metrics[world][key] for key in SCORED] == [None] * 6
    assert metrics["open"]["threshold"] is None
    assert read_table(own_project.prompts, ORIGINAL_PROMPTS).num_rows == 40


@pytest.mark.parametrize("split", ["val", "test"])
def test_measured_images_must_be_in_the_catalog(own_project: Project, split: str) -> None:
    lost = next(name for name, label in own_project.labels.items() if label[0] == split)
    own_project.write_catalog([name for name in own_project.image_ids if name != lost])
    with pytest.raises(
        ValueError, match=f"catalog lacks 1 of the images of .*splits.parquet, .*{lost}"
    ):
        own_project.predict()
    assert not own_project.prompts.exists()


# --- Scorers ------------------------------------------------------------------------------------


def scorers(project: Project, pairs: torch.Tensor, block_bytes: int) -> dict[str, Any]:
    model = load_model(project.root / "troika", project.vocabulary, project.clip)
    assert model is not None
    return {
        "": TroikaScorer(model, pairs, block_bytes),
        "zero_shot_": ZeroShot(project.clip, project.vocabulary, pairs, block_bytes),
    }


@pytest.mark.parametrize("block_bytes", [1, 10_000, 2**26])
def test_blocks_follow_one_another_whatever_the_order_of_pairs(
    project: Project, block_bytes: int
) -> None:
    order = np.random.default_rng(4).permutation(12)
    pairs = torch.tensor(
        [(ATTRIBUTES.index(COMBINATIONS[c][0]), OBJECTS.index(COMBINATIONS[c][1])) for c in order]
    )
    expected = project.scores()
    chosen = torch.tensor([7, 0, 3, 11, 3])
    for prefix, scorer in scorers(project, pairs, block_bytes).items():
        images: ImageScores = scorer(project.pixel_values[:5])
        assert len(images) == 5
        blocks = list(images.blocks())
        widths = [scores.shape[1] for _, scores in blocks]
        assert [start for start, _ in blocks] == [0, *np.cumsum(widths)[:-1]]
        assert len(blocks) == {1: 12, 2**26: 1}.get(block_bytes, len(blocks))
        wanted = expected[prefix][:5][:, order]
        np.testing.assert_allclose(images.scores().numpy(), wanted, atol=1e-4)
        some = images.scores(chosen)
        np.testing.assert_allclose(some.numpy(), wanted[:, chosen], atol=1e-4)
        assert np.ptp(wanted, axis=1).min() > 0.1


def test_text_features_in_blocks_are_those_of_all_pairs_at_once(project: Project) -> None:
    assert project.model is not None
    pairs = torch.from_numpy(project.vocabulary.pair_indices)
    expected = project.model.encode_text(pairs)
    for block_bytes in (1, 20_000, 2**26):
        found = project.model.encode_text_in_blocks(pairs, block_bytes)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other.detach(), atol=1e-5, rtol=1e-5)


# --- Rows that are computed once ----------------------------------------------------------------


def test_a_grown_catalog_computes_what_is_new_to_the_same_bytes(own_project: Project) -> None:
    every, generator = own_project.image_ids, np.random.default_rng(8)
    labels = dict(own_project.labels)

    def run(names: list[str], rows: str, workers: int = 2) -> tuple[bytes, dict[str, Any], int]:
        own_project.labels = {name: labels[name] for name in names if name in labels}
        own_project.write_splits()
        own_project.write_catalog(names)
        metrics = own_project.predict(rows=rows, workers=workers)
        return own_project.prompts.read_bytes(), metrics, own_project.computed

    def shuffled(names: list[str]) -> list[str]:
        return [str(name) for name in generator.permutation(names)]

    old = shuffled(every)[:25]
    assert run(old, "kept")[2] == 25
    grown = shuffled(every)
    prompts, metrics, computed = run(grown, "kept", workers=1)
    assert computed == len(every) - 25
    assert run(grown, "kept") == (prompts, metrics, 0)
    assert run(grown, "empty") == (prompts, metrics, len(every))
    # A smaller catalog in another order needs nothing, and says of its images what they said.
    before = {row["image_id"]: row for row in read_prompts(own_project)}
    assert run(shuffled(old), "kept")[2] == 0
    assert read_prompts(own_project) == [
        before[row["image_id"]] for row in read_prompts(own_project)
    ]


def read_prompts(project: Project) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_table(project.prompts, ORIGINAL_PROMPTS).to_pylist()
    return rows


def test_another_label_is_judged_again_and_equal_photos_once(own_project: Project) -> None:
    own_project.predict()
    tested = [name for name, label in own_project.labels.items() if label[0] == "test"]
    seen = [pair for pair in NAMES if pair in SEEN]
    label = own_project.labels[tested[0]][1]
    own_project.labels[tested[0]] = ("test", next(pair for pair in seen if pair != label))
    own_project.write_splits()
    changed = own_project.predict()
    assert own_project.computed == 1
    own_project.labels[tested[0]] = ("test", label)
    own_project.write_splits()
    assert own_project.predict() != changed
    assert own_project.computed == 0
    # Another name of a photo that is there, without a label: one row serves both, unless the first
    # is measured.
    copied = own_project.image_ids[0]
    with open_shards(own_project.root / "catalog", shard_mib=1) as shards:
        for place, name in enumerate([*own_project.image_ids, copied]):
            image = encoded_image(place % len(own_project.image_ids))
            image_id = name if place < len(own_project.image_ids) else "copy"
            shards.write(CatalogRow(image_id, name, image, path=name))
    own_project.predict(rows="other")
    measured = own_project.labels.get(copied, ("",))[0] in ("val", "test")
    assert own_project.computed == len(own_project.image_ids) + measured


def test_only_what_decides_a_row_computes_it_again(own_project: Project) -> None:
    first = own_project.predict(batch_size=32)
    measured = sum(label[0] in ("val", "test") for label in own_project.labels.values())
    tested = sum(label[0] == "test" for label in own_project.labels.values())
    sampled = {"protocol": "sampled"}
    for changes, computed in (
        ({**sampled, "feasibility": {"masking": "multiply"}}, 0),
        ({"batch_size": 500, "block_mib": 1000}, 0),  # a CPU takes no more than 32 and 16 MiB
        ({"batch_size": 31}, 40),
        ({"block_mib": 1}, 40),
        ({"top_k": 2}, 40),
        ({"feasibility": {"thresholds": 5}}, measured),
        ({"worlds": ["closed"]}, measured),
    ):
        own_project.predict(**{"batch_size": 32, **changes})
        assert (changes, own_project.computed) == (changes, computed)
    assert own_project.predict(batch_size=32) == first  # and back
    assert own_project.computed == 0
    assert 0 < tested < measured < 40
    assert own_project.model is not None
    with torch.no_grad():
        own_project.model.traction.gain += 0.01
    own_project.save(own_project.model)
    own_project.predict(batch_size=32)
    assert own_project.computed == 40


def test_an_interrupted_run_goes_on(own_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = 0
    compute = judged_rows.best_pairs

    def stopping(*arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(judged_rows, "best_pairs", stopping)
    with pytest.raises(KeyboardInterrupt):
        own_project.predict(batch_size=8)
    assert not own_project.prompts.exists()
    resumed = own_project.predict(batch_size=8)
    assert own_project.computed == 40 - 8
    prompts = own_project.prompts.read_bytes()
    assert own_project.predict(batch_size=8, rows="other") == resumed
    assert own_project.prompts.read_bytes() == prompts
